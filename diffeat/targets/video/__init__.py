"""Clips and what is known of their frames: masks of objects, joints of persons."""

from diffeat.targets.video.base import Clip, VideoTargets
from diffeat.targets.video.opened import open_video

__all__ = ["Clip", "VideoTargets", "open_video"]
