"""Mixers that are trained by what is known of every pixel: labels, or depth."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from probes.batches import Batches
from probes.cells import Cells
from probes.checks import named_classes
from probes.dense.base import gathered, known_only
from probes.dense.framed import Framing, label_size
from probes.dense.pyramid import LOGITS, read
from probes.dense.truth import DepthMaps, Masks, count_classes
from probes.held_out import split_rows, validation_share
from probes.layers import resized
from probes.lazy import Rows
from probes.maps import Maps

PIXELWISE = ("segmentation", "depth")
PIXELS = ("ignore_", "seen_", "train_size_")
"""Fitted attributes that a mixer has of pixels alone."""


class PixelHead(nn.Module):
    """A 1×1 layer on the mixed map, brought to the labels' grid.

        depth = exp(y),    y begun at the mean logarithm of the depths in training

    Args:
        net: gives (n, width, H, W).
        outputs: K classes; 0: depth.
        size: (H, W) of labels in training.
    """

    def __init__(self, net: nn.Module, outputs: int, size: tuple[int, int]):
        super().__init__()
        self.net, self.size, self.depth = net, tuple(size), not outputs
        self.head = nn.Conv2d(net.width, max(1, outputs), 1)

    def grid(self, *cells: torch.Tensor) -> torch.Tensor:
        """S arrays (n, C_s, h_s, w_s) → (n, K, h, w)."""
        return self.head(self.net(*cells))

    def forward(self, *cells: torch.Tensor) -> torch.Tensor:
        found = resized(self.grid(*cells), self.size)
        return found[:, 0].exp() if self.depth else found  # metres, (n, H, W)


def pixel_data(
    mixer: Any, cells: Cells, values: Any, validation: Any, groups: Any,
    rng: np.random.Generator, device: torch.device, classes: int | Sequence[str] | None,
    ignore: int,
) -> tuple[Batches, Batches | None]:  # fmt: skip
    """Batches of pictures and their pixels, for training and validation; notes what follows.

    Raises:
        ValueError: targets that are no masks or depths of the pictures' sizes, nothing known.
    """
    if mixer.objective_ == "segmentation":
        if classes is None:
            classes = count_classes(values, ignore)
        mixer.classes_, mixer.ignore_ = named_classes(classes), int(ignore)
    mixer.n_outputs_ = len(mixer.classes_) if mixer.objective_ == "segmentation" else 0
    mixer.train_size_ = label_size(cells, mixer._size())
    memory = int(mixer.memory_mb * 2**20)
    make = Framing(mixer.cells_, mixer.train_size_, mixer.batch_size, memory, device)
    targets, held, mixer.left_out_ = make.targets(_truth(mixer, values, cells)), None, 0
    fraction = validation_share(validation, mixer.validation_fraction)
    rows, kept = split_rows(len(cells), fraction, groups, rng)
    if fraction:
        held = make.batches(cells, targets, kept, 4)
    elif isinstance(validation, (tuple, list)):
        cells_held, known = mixer._given(validation)
        cells_held.like(mixer.cells_, mixer.shapes_)
        name = "validation targets"
        held = make.batches(cells_held, make.targets(_truth(mixer, known, cells_held), name),
                            share=4)  # fmt: skip
    _look(mixer, targets, rows)
    return make.batches(cells, targets, rows), held


def _truth(mixer: Any, values: Any, cells: Cells) -> Masks | DepthMaps:
    if mixer.objective_ == "depth":
        return DepthMaps(values, cells)
    return Masks(values, cells, len(mixer.classes_), mixer.ignore_)


def _look(mixer: Any, targets: Rows, rows: np.ndarray) -> None:
    """Which classes training has; ValueError where nothing is known."""
    counts = np.zeros(max(1, mixer.n_outputs_), np.int64)
    for row in rows.tolist():
        found = targets[row : row + 1]
        known = found[np.isfinite(found) if mixer.objective_ == "depth" else found != mixer.ignore_]
        if mixer.objective_ == "depth":
            counts[0] += known.size
        else:
            counts += np.bincount(known, minlength=len(counts))
    if not counts.any():
        raise ValueError("no pixel of the training pictures is known; expected some that are")
    if mixer.objective_ == "segmentation":
        mixer.seen_ = counts > 0
        if not mixer.seen_.all():
            names = ", ".join(map(str, mixer.classes_[~mixer.seen_][:10]))
            warnings.warn(f"classes without a pixel in training ({names}) are never predicted",
                          UserWarning, stacklevel=4)  # fmt: skip


def pixel_head(mixer: Any, net: nn.Module, batches: Any) -> PixelHead:
    """The untrained module of a mixer that is trained by pixels."""
    found = PixelHead(net, mixer.n_outputs_, mixer.train_size_)
    if not found.depth:
        return found
    total, count = 0.0, 0
    for _, targets in batches.ordered():
        if targets is not None:  # else the module is built for weights that are there already
            logs = targets[targets > 0].double().log()
            total, count = total + float(logs.sum()), count + len(logs)
    nn.init.zeros_(found.head.weight)
    nn.init.constant_(found.head.bias, total / max(1, count))
    return found


def pixel_predictions(mixer: Any, cells: Cells) -> Iterator[np.ndarray]:
    """(H, W) class indices or float32 metres a picture, read from the layer's map."""
    for row in range(len(cells)):
        maps = cells.maps(row)
        arrays = [torch.from_numpy(np.asarray(maps[key], np.float32))[None]
                  for key in mixer.cells_]  # fmt: skip
        with torch.no_grad():
            found = mixer.module_.grid(*arrays)[0]
        where = Maps({LOGITS: found}, maps.size, maps.input_size, maps.placement)
        yield gathered((first, _said(mixer, strip)) for first, strip in read(where, LOGITS))


def _said(mixer: Any, strip: torch.Tensor) -> torch.Tensor:
    """(K, r, W) → (r, W)."""
    if mixer.objective_ == "depth":
        return strip[0].exp()
    return known_only(strip, mixer.seen_).argmax(0)


def pixel_score(mixer: Any, cells: Cells, values: Any, measure: Any) -> float:
    """Mean intersection over union, or minus the mean absolute relative error; ValueError where
    nothing is known."""
    truth = _truth(mixer, values, cells)
    for row, found in enumerate(pixel_predictions(mixer, cells)):
        measure.update(torch.from_numpy(found)[None], torch.from_numpy(truth[row])[None])
    if mixer.objective_ != "depth":
        return measure.compute()
    if not len(measure.errors):
        raise ValueError("depth is known of no pixel; expected some")
    return -measure.compute()
