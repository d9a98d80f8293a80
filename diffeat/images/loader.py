"""Decoding and preprocessing in threads, a bounded number of batches ahead of the compute."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image

from diffeat.errors import PictureError, SpecError
from diffeat.images.colour import CONVERTED
from diffeat.images.decode import fit_and_place
from diffeat.images.sources import Source

PREFETCH = 3  # batches in flight: one being used, two being decoded
Fitted = tuple[tuple[np.ndarray, tuple[int, ...], tuple[int, int], np.ndarray], bool]
"""What `fit_and_place` gives, and whether the picture's colours were brought to sRGB."""


@dataclass(frozen=True)
class PictureBatch:
    """Pictures of one batch.

    Attributes:
        span: (start, stop) of the batch in the source.
        indices: source indices of the pictures that could be read, ascending.
        pixels: (B, 3, H, W) uint8; with fit "native" a list of B arrays (3, H, W), each with
            its own H and W.
        errors: those that could not.
        boxes: (B, 4) int32; top, left, height and width in pixels of the part of each input
            that shows the picture (see `content_box`).
        sizes: (B, 2) int32; H, W in pixels of each picture as decoded and upright.
        placements: (B, 4) float64; sx, tx, sy, ty of each input (see `diffeat.coords`).
        converted: how many had an ICC profile, by which their colours were brought to sRGB.
    """

    span: tuple[int, int]
    indices: list[int]
    pixels: np.ndarray | list[np.ndarray]
    errors: list[PictureError]
    boxes: np.ndarray
    sizes: np.ndarray
    placements: np.ndarray
    converted: int = 0


def check_on_error(on_error: str) -> None:
    """SpecError unless it is "fail" or "skip"."""
    if on_error not in ("fail", "skip"):
        raise SpecError(f"on_error={on_error!r}; expected 'fail' or 'skip'")


def load_batches(
    source: Source,
    spans: Sequence[tuple[int, int]],
    size: tuple[int, int] | None,
    fit: str = "squash",
    resample: str = "bicubic",
    workers: int = 2,
    on_error: str = "fail",
    multiple: int = 1,
    mirror: bool = False,
    kind: type[PictureBatch] = PictureBatch,
    corrupt: Callable[[Image.Image, str], Image.Image] | None = None,
) -> Iterator[PictureBatch]:
    """Decode the pictures of each span of the source, in order.

    Pillow releases the interpreter lock while it decodes and resizes, so threads suffice. At
    most `PREFETCH` batches are held, whatever the number of pictures.

    Args:
        source: where the pictures come from.
        spans: (start, stop) index ranges, one batch each.
        size: (H, W) in pixels; not used, and may be None, with fit "native".
        fit: "squash", "crop", "box-crop", "pad" or "native".
        resample: name of the filter.
        workers: number of threads, at least 1.
        on_error: "fail" raises the first PictureError, "skip" collects them.
        multiple: with fit "native", what the sides are rounded to, in pixels.
        mirror: whether every picture is mirrored first.
        kind: of the batches that come out.
        corrupt: what is made of every picture and its id first (see `diffeat.images.corrupt`).

    Raises:
        PictureError: a picture cannot be read and on_error is "fail".
        SpecError: unknown `on_error`, or no `size` with a fit that needs one.
    """

    check_on_error(on_error)
    if size is None and fit != "native":
        raise SpecError(f"fit={fit!r} needs a size; give (H, W) in pixels, or use fit='native'")

    def read(index: int) -> Fitted:
        image = source.load(index)
        converted = CONVERTED in image.info
        image = image if corrupt is None else corrupt(image, source.ids[index])
        return fit_and_place(image, size, fit, resample, mirror, multiple), converted

    pending: deque[tuple[tuple[int, int], list[Future]]] = deque()
    upcoming = iter(spans)
    pool = ThreadPoolExecutor(max(1, workers), thread_name_prefix="diffeat-decode")
    try:
        while True:
            while len(pending) < PREFETCH and (span := next(upcoming, None)) is not None:
                pending.append((span, [pool.submit(read, index) for index in range(*span)]))
            if not pending:
                return
            span, futures = pending.popleft()
            yield _gather(span, futures, None if fit == "native" else size, on_error, kind)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _gather(
    span: tuple[int, int],
    futures: list[Future],
    size: tuple[int, int] | None,
    on_error: str,
    kind: type[PictureBatch],
) -> PictureBatch:
    """Wait for the pictures of one batch; they are stacked where all have one `size`."""
    indices, fitted, errors, converted = [], [], [], 0
    for index, future in zip(range(*span), futures, strict=True):
        try:
            placed, profiled = future.result()
        except PictureError as error:
            if on_error == "fail":
                raise
            errors.append(error)
            continue
        indices.append(index)
        fitted.append(placed)
        converted += profiled
    arrays, boxes, sizes, placements = map(list, zip(*fitted, strict=True)) if fitted else ([],) * 4
    if size is not None:
        arrays = np.stack(arrays) if arrays else np.empty((0, 3, *size), np.uint8)
    boxes = np.array(boxes, np.int32).reshape(-1, 4)
    sizes = np.array(sizes, np.int32).reshape(-1, 2)
    placements = np.array(placements, np.float64).reshape(-1, 4)
    return kind(span, indices, arrays, errors, boxes, sizes, placements, converted)
