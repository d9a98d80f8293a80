"""How well dense flows were found: shares of the object's pixels, and how smooth flows are.

A flow of a picture of H×W pixels is (H, W, 2): pixel (x, y) lies at (x + u, y + v) of the other
picture. The two directions of a pair are two flows, and count as two pairs.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np

SIDES = ("target", "source")


def flow_error(found: Any, truth: Any) -> np.ndarray:
    """(H, W) float64 |found − truth|, the end-point error in pixels; inf where nothing was found.

    Args:
        found, truth: (H, W, 2) u, v in pixels; what is nan in `found` was not found.

    Raises:
        ValueError: other shapes.
    """
    found, truth = np.asarray(found, np.float64), np.asarray(truth, np.float64)
    if found.shape != truth.shape or found.ndim != 3 or found.shape[2] != 2:
        raise ValueError(f"flows have shapes {found.shape} and {truth.shape}; expected (H, W, 2), "
                         "twice the same")  # fmt: skip
    error = np.linalg.norm(found - truth, axis=2)
    return np.where(np.isnan(found).any(2), np.inf, error)


def flow_smoothness(flow: Any, mask: Any = None) -> float:
    """How much a flow changes from pixel to pixel; 0 of a plain shift of the whole picture.

        sum (|Δx u| + |Δx v| + |Δy u| + |Δy v|) / M

    with differences of neighbours in x and y. With a mask, the flow is 0 outside, so that the
    object's edge counts, and M is the number of its pixels; without, M is twice that of all.
    Published beside TSS's shares: lower is smoother, the truth's own is what to compare with.

    Args:
        flow: (H, W, 2) u, v in pixels, finite (in the mask).
        mask: (H, W) bool of the object.

    Raises:
        ValueError: other shapes, nothing in the mask, flows that are not finite there.

    Source: Zhang et al. 2023, "A Tale of Two Features" (SD+DINO), its code for TSS.
    """
    flow = np.asarray(flow, np.float64)
    if flow.ndim != 3 or flow.shape[2] != 2:
        raise ValueError(f"flow has shape {flow.shape}; expected (H, W, 2)")
    count = 2 * flow[..., 0].size
    if mask is not None:
        mask = _mask(mask, flow.shape[:2])
        flow, count = np.where(mask[..., None], flow, 0), int(mask.sum())
    if not np.isfinite(flow).all():
        raise ValueError("the flow is not finite everywhere; expected a flow at every pixel")
    return float(sum(np.abs(np.diff(flow, axis=axis)).sum() for axis in (0, 1)) / count)


def _mask(mask: Any, size: tuple[int, int]) -> np.ndarray:
    mask = np.asarray(mask, bool)
    if mask.shape != size or not mask.any():
        raise ValueError(f"the mask has shape {mask.shape} and {int(mask.sum())} pixels of the "
                         f"object; expected {size} and at least one")  # fmt: skip
    return mask


class FlowShare:
    """Shares of an object's pixels whose flow is right: |found − truth| ≤ alpha·side.

    The side is the larger one of

    - "target", the picture that the flow leads into: SD+DINO's way, whose code calls it the
      source, because its flows lead from target to source; or
    - "source", the picture whose pixels have the flow: "5 pixels where the larger side is 100" is
      alpha = .05 of it. Papers do not say of which picture it is; this is the reading taken here.

    Args:
        alphas: A shares of the side.
        side: "target" or "source".

    Raises:
        ValueError: no alphas, alphas that are not above 0, another side.

    Source: Taniai, Sinha & Sato 2016, "Joint recovery of dense correspondence and
        cosegmentation in two images"; Zhang et al. 2023 (SD+DINO), pck_tss.py.
    """

    def __init__(self, alphas: Sequence[float] = (0.05, 0.1), side: str = "target"):
        if side not in SIDES:
            raise ValueError(f"side={side!r}; expected one of {SIDES}")
        self.alphas, self.side = tuple(float(alpha) for alpha in alphas), side
        if not self.alphas or not min(self.alphas) > 0:
            raise ValueError(f"alphas={self.alphas}; expected at least one, all above 0")
        self._right, self._pixels, self._parts = array("q"), array("q"), []

    def __str__(self) -> str:
        at = "/".join(f"{alpha:g}" for alpha in self.alphas)
        return f"share of the object's pixels, ≤ {at} of the {self.side}'s larger side, per pair"

    def update(
        self, found: Any, truth: Any, mask: Any, target_size: tuple[int, int], part: str = ""
    ) -> np.ndarray:
        """Count the flow of one direction of a pair; (A,) its shares.

        Args:
            found, truth: (H, W, 2) of the source's pixels; what is nan in `found` is wrong.
            mask: (H, W) bool, pixels of the object with a known flow.
            target_size: (H, W) of the picture that the flow leads into.
            part: of the data set, such as "FG3DCar".

        Raises:
            ValueError: other shapes, nothing in the mask, a truth that is not finite in it.
        """
        errors = flow_error(found, truth)
        mask = _mask(mask, errors.shape)
        if not np.isfinite(np.asarray(truth)[mask]).all():
            raise ValueError("the truth is not finite in the mask; leave such pixels out of it")
        side = max(target_size if self.side == "target" else errors.shape)
        right = [int((errors[mask] <= alpha * side).sum()) for alpha in self.alphas]
        self._right.extend(right)
        self._pixels.append(int(mask.sum()))
        self._parts.append(str(part))
        return np.array(right) / int(mask.sum())

    def counts(self) -> tuple[np.ndarray, np.ndarray]:
        """(P, A) right pixels of each pair and (P,) pixels of its object, int64."""
        right = np.array(self._right, np.int64).reshape(-1, len(self.alphas))
        return right, np.array(self._pixels, np.int64)

    def compute(self, aggregate: str = "pair") -> dict[str, dict[float, float]]:
        """ "" (all) and every part → alpha → share in [0, 1].

        Args:
            aggregate: "pair": the mean of pairs' shares, as is published; "pixel": of all pixels.

        Raises:
            ValueError: nothing was counted, another aggregate.
        """
        if not self._pixels or aggregate not in ("pair", "pixel"):
            raise ValueError(f"{len(self._pixels)} pairs, aggregate={aggregate!r}; expected at "
                             "least one, and 'pair' or 'pixel'")  # fmt: skip
        right, pixels = self.counts()
        parts, found = np.array(self._parts), {}
        for part in ["", *sorted(set(self._parts) - {""})]:
            here = (parts == part) | (part == "")
            each = right[here] / pixels[here][:, None]
            share = each.mean(0) if aggregate == "pair" else right[here].sum(0) / pixels[here].sum()
            found[part] = dict(zip(self.alphas, share.tolist(), strict=True))
        return found


class FlowSmoothness:
    """The mean of pairs' `flow_smoothness`."""

    def __init__(self) -> None:
        self.total, self.count = 0.0, 0

    def update(self, flow: Any, mask: Any = None) -> float:
        """Count one flow; its own smoothness."""
        own = flow_smoothness(flow, mask)
        self.total, self.count = self.total + own, self.count + 1
        return own

    def compute(self) -> float:
        """At least 0; 0 is smoothest.

        Raises:
            ValueError: nothing was counted.
        """
        if not self.count:
            raise ValueError("no flows were counted; expected at least one")
        return self.total / self.count
