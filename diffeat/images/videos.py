"""Frames of video files, decoded by PyAV (the extra `video`) when they are wanted.

A frame is known by its time stamp. Whoever asks for frames in order gets them from one decoder that
goes forward; whoever jumps makes it seek to the last key frame before. The few frames that were
decoded last are kept, since threads ask for neighbours in any order; nothing else of a file is.
"""

from __future__ import annotations

import os
import threading
import warnings
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from diffeat.errors import PictureError, SourceError
from diffeat.images.decode import MAX_PIXELS
from diffeat.images.digests import check_regular

VIDEOS = frozenset((".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts"))
"""Suffixes of video files."""
ANIMATIONS = frozenset((".gif",))
"""Those that count as a video only where one is named by itself."""
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,avi,matroska,webm,mpeg,mpegts,mpegvideo,gif"
"""Containers that are read: none that names further files, as playlists do."""
SHORT = 0.9
"""Share of a video's length below which its frames are fewer than they should be."""
OPEN = 4
"""Decoders that stay open in a process."""
AHEAD = 100
"""Frames that are rather decoded than jumped over."""
BEFORE = 16
"""Frames before the wanted one at which decoding begins, where it could not begin later."""
KEPT_BYTES, FEWEST, MOST = 64 << 20, 4, 32
"""Memory for frames that were decoded last, and how many there are at least and at most."""


def is_video(name: str) -> bool:
    """Whether a file's name ends as a video's."""
    return os.path.splitext(name)[1].lower() in VIDEOS


def library(text: str) -> ModuleType:
    """PyAV; SourceError where it is missing."""
    try:
        import av
    except ImportError as error:
        raise SourceError(
            f"{text}: reading videos needs PyAV ({error}); pip install 'diffeat[video]', or write "
            "the frames into a folder: clips:FOLDER"
        ) from error
    return av


def stamps_of(path: Path) -> tuple[list[int], int]:
    """Time stamps of the frames that a video file has, by its packets; nothing is decoded.

    Args:
        path: the file.

    Returns:
        Distinct times, ascending, in units of the stream; and how many frames the file's head
        names beyond these, which are missing at its end.

    Raises:
        SourceError: PyAV is missing.
        ValueError: no video that can be read; says why.
    """
    av = library(str(path))
    with _opened(path) as (container, stream):
        hidden = stream.codec_context.name in ("vp8", "libvpx")  # packets without a picture
        times, left_out = [], 0
        with suppress(av.error.FFmpegError):  # what comes after is missing
            for packet in container.demux(stream):
                if not packet.size or packet.is_corrupt:
                    continue
                if packet.is_discard:
                    left_out += 1
                else:
                    times.append(packet.pts)
        if hidden or None in times or len(set(times)) != len(times):
            container.seek(0)
            times = [frame.pts for frame in _frames(av, container, stream)]
            left_out = 0
        if not times:
            raise ValueError("it has no frame that can be decoded")
        if None in times or len(set(times)) != len(times):
            raise ValueError("its frames have no distinct times; write it anew as .mp4")
        times.sort()
        _check_length(path, container, stream, times)
        return times, max(0, stream.frames - len(times) - left_out)


def _check_length(path: Path, container: Any, stream: Any, times: Sequence[int]) -> None:
    """Warn where the head of a file that counts no frames says that it is longer than these."""
    if stream.frames or not container.duration or len(container.streams) > 1:
        return
    says, found = container.duration / 1e6, float((times[-1] - times[0]) * stream.time_base)
    if found < SHORT * says and says - found > 1:
        warnings.warn(
            f"{path}: its head says {says:.1f} s, and its frames end after {found:.1f} s; if it "
            "was cut short, copy it again",
            stacklevel=6,
        )


def load_frame(path: Path, times: Sequence[int], time: int, picture: str) -> Image.Image:
    """One frame as upright RGB.

    Args:
        path: the file.
        times: of all of its frames that a source has, ascending.
        time: of this one.
        picture: id of the frame, for messages.

    Raises:
        PictureError: the frame cannot be decoded.
        SourceError: PyAV is missing.
    """
    try:
        return Image.fromarray(_decoder_of(path).pixels(time, times))
    except ValueError as error:
        raise PictureError(picture, f"{path}: {error}") from error
    except OSError as error:
        reason = error.strerror or error
        raise PictureError(picture, f"{path} cannot be read ({reason}); restore it") from error


class Decoder:
    """The decoder of one file; threads may share it.

    Args:
        path: the file, which is opened when the first frame is wanted.
    """

    def __init__(self, path: Path):
        self.path = path
        self._lock = threading.Lock()
        self._opened: ExitStack | None = None
        self._coming: Iterator[Any] = iter(())
        self._at: int | None = None
        self._last: OrderedDict[int, Any] = OrderedDict()

    def pixels(self, time: int, times: Sequence[int]) -> np.ndarray:
        """(H, W, 3) uint8, upright, of a time; ValueError where it cannot be had."""
        with self._lock:  # also while colours are made, which a frame cannot do twice at a time
            frame = self._frame(time, times)
            turns = round(frame.rotation / 90) % 4  # counter-clockwise
            return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), turns))

    def _frame(self, time: int, times: Sequence[int]) -> Any:
        if time in self._last:
            return self._last[time]
        self._open()
        near = self._at is not None and 0 < _steps(times, self._at, time) <= AHEAD
        if near and (found := self._forward(time)) is not None:
            return found
        # a key frame may be none to begin at, or lie behind frames that are shown before it
        earlier = times[max(0, bisect_left(times, time) - BEFORE)]
        for start in (time, earlier, None):
            self._begin(start)
            if (found := self._forward(time)) is not None:
                return found
        raise ValueError("this frame is damaged or missing; restore the file")

    def close(self) -> None:
        with self._lock:
            self._close()

    def _close(self) -> None:
        self._coming, self._at = iter(()), None
        self._last.clear()
        if self._opened is not None:
            self._opened.close()
        self._opened = None

    def _open(self) -> None:
        if self._opened is None:
            with ExitStack() as stack:
                self._container, self._stream = stack.enter_context(_opened(self.path))
                self._opened = stack.pop_all()

    def _begin(self, time: int | None) -> None:
        """Go to the key frame before a time, or to the very beginning."""
        av = library(str(self.path))
        if time is None:
            self._close()
            self._open()
        else:
            with suppress(av.error.FFmpegError):  # without an index it stays where it is
                self._container.seek(time, stream=self._stream)
        self._coming, self._at = _frames(av, self._container, self._stream), None

    def _forward(self, time: int) -> Any:
        """Decode up to a time; None where it is passed without a frame of it."""
        for frame in self._coming:
            if frame.pts is None or frame.width * frame.height > MAX_PIXELS:
                continue
            self._at = frame.pts
            if frame.is_corrupt:
                if frame.pts == time:
                    return None
                continue
            self._last[frame.pts] = frame
            most = KEPT_BYTES // (2 * frame.width * frame.height)
            while len(self._last) > max(FEWEST, min(MOST, most)):
                self._last.popitem(last=False)
            if frame.pts >= time:
                return frame if frame.pts == time else None
        self._at = None  # at the end
        return None


def _steps(times: Sequence[int], start: int, stop: int) -> int:
    """Frames from one time to another; negative where it lies before."""
    return bisect_left(times, stop) - bisect_left(times, start)


_decoders: OrderedDict[tuple, Decoder] = OrderedDict()
_lock = threading.Lock()


def _decoder_of(path: Path) -> Decoder:
    """The decoder of a file as it is now, in this process."""
    stat = os.stat(path)
    key = os.getpid(), str(path), stat.st_size, stat.st_mtime_ns, stat.st_ino
    with _lock:
        if key not in _decoders:
            _decoders[key] = Decoder(path)
        _decoders.move_to_end(key)
        old = [_decoders.popitem(last=False)[1] for _ in range(len(_decoders) - OPEN)]
        found = _decoders[key]
    for one in old:  # one that is still in use opens again
        one.close()
    return found


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """A file's container and its first video stream; ValueError where there is none."""
    av = library(str(path))
    try:
        check_regular(path)
        container = av.open(
            str(path), metadata_errors="ignore",
            options={"format_whitelist": FORMATS, "protocol_whitelist": "file"},
        )  # fmt: skip
    except (av.error.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(
            f"no video that can be read ({reason}): it is damaged, cut short or of another kind; "
            "copy it again, or leave it out"
        ) from error
    with container:
        if not container.streams.video:
            raise ValueError("it has no pictures, only sound; leave it out")
        stream = container.streams.video[0]
        if stream.width * stream.height > MAX_PIXELS:
            raise ValueError(f"its frames have more than {MAX_PIXELS:,} pixels; shrink it first")
        stream.codec_context.thread_count = 1  # whoever reads has threads of their own
        yield container, stream


def _frames(av: ModuleType, container: Any, stream: Any) -> Iterator[Any]:
    """What can be decoded, from where the container stands."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.error.FFmpegError:
            return
        if packet is None:
            return
        with suppress(av.error.FFmpegError):
            yield from packet.decode()
