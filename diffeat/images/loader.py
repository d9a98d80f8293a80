"""Decoding and preprocessing in threads, a bounded number of batches ahead of the compute."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from diffeat.errors import PictureError, SpecError
from diffeat.images.decode import fit_picture
from diffeat.images.sources import Source

PREFETCH = 3  # batches in flight: one being used, two being decoded


@dataclass(frozen=True)
class PictureBatch:
    """Pictures of one batch.

    Attributes:
        span: (start, stop) of the batch in the source.
        indices: source indices of the pictures that could be read, ascending.
        pixels: (B, 3, H, W) uint8.
        errors: those that could not.
    """

    span: tuple[int, int]
    indices: list[int]
    pixels: np.ndarray
    errors: list[PictureError]


def check_on_error(on_error: str) -> None:
    """SpecError unless it is "fail" or "skip"."""
    if on_error not in ("fail", "skip"):
        raise SpecError(f"on_error={on_error!r}; expected 'fail' or 'skip'")


def load_batches(
    source: Source,
    spans: Sequence[tuple[int, int]],
    size: tuple[int, int],
    fit: str = "squash",
    resample: str = "bicubic",
    workers: int = 2,
    on_error: str = "fail",
) -> Iterator[PictureBatch]:
    """Decode the pictures of each span of the source, in order.

    Pillow releases the interpreter lock while it decodes and resizes, so threads suffice. At
    most `PREFETCH` batches are held, whatever the number of pictures.

    Args:
        source: where the pictures come from.
        spans: (start, stop) index ranges, one batch each.
        size: (H, W) in pixels.
        fit: "squash", "crop" or "pad".
        resample: name of the filter.
        workers: number of threads, at least 1.
        on_error: "fail" raises the first PictureError, "skip" collects them.

    Raises:
        PictureError: a picture cannot be read and on_error is "fail".
        SpecError: unknown `on_error`.
    """

    check_on_error(on_error)

    def read(index: int) -> np.ndarray:
        return fit_picture(source.load(index), size, fit, resample)

    pending: deque[tuple[tuple[int, int], list[Future]]] = deque()
    todo = iter(spans)
    pool = ThreadPoolExecutor(max(1, workers), thread_name_prefix="diffeat-decode")
    try:
        while True:
            while len(pending) < PREFETCH and (span := next(todo, None)) is not None:
                pending.append((span, [pool.submit(read, index) for index in range(*span)]))
            if not pending:
                return
            yield _gather(*pending.popleft(), size, on_error)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _gather(
    span: tuple[int, int], futures: list[Future], size: tuple[int, int], on_error: str
) -> PictureBatch:
    indices, arrays, errors = [], [], []
    for index, future in zip(range(*span), futures, strict=True):
        try:
            arrays.append(future.result())
            indices.append(index)
        except PictureError as error:
            if on_error == "fail":
                raise
            errors.append(error)
    pixels = np.stack(arrays) if arrays else np.empty((0, 3, *size), np.uint8)
    return PictureBatch(span, indices, pixels, errors)
