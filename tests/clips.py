"""Small clips for tests: videos that are encoded here, and data sets in their own layouts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

SIZE = 48, 64  # H, W


def grey_frames(count: int, size: tuple[int, int] = SIZE) -> list[np.ndarray]:
    """Frames that are told apart by their grey: number k is about 8·k."""
    return [np.full((*size, 3), 8 * k, np.uint8) for k in range(count)]


def number_seen(picture: Image.Image) -> int:
    """Which of `grey_frames` a decoded picture is."""
    return round(float(np.asarray(picture).mean()) / 8)


def write_video(
    path: Path, frames: list[np.ndarray], codec: str = "mpeg4", gop: int = 5, b_frames: int = 0,
    **options: str,
) -> Path:  # fmt: skip
    """Encode RGB frames; the suffix names the container."""
    av = pytest.importorskip("av")
    height, width = frames[0].shape[:2]
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = gop, b_frames
        stream.codec_context.options = {} if codec != "mpeg4" else {"qmin": "1", "qmax": "2"}
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode())
    return path


def moving_square(count: int, size: tuple[int, int] = SIZE, step: int = 3, side: int = 16):
    """Frames with a textured square that moves to the right over another texture, and its masks."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 90, (size[0] // 4, size[1] // 4, 3), np.uint8)
    ground = np.asarray(Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC))
    square = rng.integers(160, 256, (side, side, 3), np.uint8)
    frames, masks = [], []
    for k in range(count):
        frame, mask = ground.copy(), np.zeros(size, np.uint8)
        at = slice(12, 12 + side), slice(6 + step * k, 6 + step * k + side)
        frame[at], mask[at] = square, 1
        frames.append(frame)
        masks.append(mask)
    return frames, masks


def write_davis(folder: Path, year: int, clips: tuple[str, ...] = ("bear", "goat"), count: int = 6):
    """DAVIS' layout; in 2016 masks are 0 and 255, in 2017 the upper half is object 2."""
    for clip in clips:
        frames, masks = moving_square(count, step=1 + len(clip) % 3)
        for kind in ("JPEGImages", "Annotations"):
            (folder / kind / "480p" / clip).mkdir(parents=True)
        for k, (frame, mask) in enumerate(zip(frames, masks, strict=True)):
            Image.fromarray(frame).save(folder / f"JPEGImages/480p/{clip}/{k:05d}.jpg", quality=95)
            if year == 2016:
                image = Image.fromarray(mask * 255)
            else:
                mask[:20] *= 2
                image = Image.fromarray(mask)
                image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
            image.save(folder / f"Annotations/480p/{clip}/{k:05d}.png")
    (folder / f"ImageSets/{year}").mkdir(parents=True)
    (folder / f"ImageSets/{year}/val.txt").write_text("\n".join(clips) + "\n")
    return folder


def write_jhmdb(folder: Path, count: int = 5) -> dict[str, np.ndarray]:
    """JHMDB's layout with two clips, one of which is of the test part; clip → (F, 15, 2) joints."""
    found = {}
    (folder / "splits").mkdir(parents=True)
    for kind, clip, part in (("catch", "a_ball", 2), ("catch", "b_ball", 1)):
        frames, _ = moving_square(count, step=1)
        place = folder / "Rename_Images" / kind / clip
        place.mkdir(parents=True)
        for k, frame in enumerate(frames):
            Image.fromarray(frame).save(place / f"{k + 1:05d}.png")
        rng = np.random.default_rng(part)
        joints = rng.uniform(0, 14, (15, 2)) + (7, 13) + np.arange(count)[:, None, None] * (1, 0)
        where = folder / "joint_positions" / kind / clip
        where.mkdir(parents=True)
        savemat(where / "joint_positions.mat", {"pos_img": joints.transpose(2, 1, 0) + 1})
        with open(folder / "splits" / f"{kind}_test_split1.txt", "a") as file:
            file.write(f"{clip}.avi {part}\n")
        found[f"{kind}/{clip}"] = joints
    return found
