"""From masks with classes to one picture: semantic, instance and panoptic segmentation.

Q masks, each with K class probabilities p (Q, K) and a probability m (Q, H, W) at every pixel:

    semantic    S_k(x) = sum over q of p_qk · m_q(x)
    instances   the top (q, k) of all Q·K by p_qk, each worth p_qk · mean of m_q where m_q > ½
    panoptic    every pixel goes to the kept mask of the largest  max_k p_qk · m_q(x); a mask that
                kept too little of itself is dropped; masks of one stuff class are one segment

Source: Cheng et al. 2021, "Per-Pixel Classification is Not All You Need" (MaskFormer), section 3.4;
Cheng et al. 2022, "Masked-attention Mask Transformer" (Mask2Former), whose code multiplies the
scores of instances so; Xu et al. 2023 (ODISE) merges likewise.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from probes.lazy import as_numpy

THRESHOLDS: Mapping[str, Mapping[str, float]] = MappingProxyType({
    "mask2former": MappingProxyType({"object_mask_threshold": 0.8, "overlap_threshold": 0.8}),
    "odise": MappingProxyType({"object_mask_threshold": 0.0, "overlap_threshold": 0.8}),
})  # fmt: skip
"""Thresholds of `panoptic` as published, by system: those of their configurations for COCO."""
VOID = 0
"""Id of pixels that belong to no segment."""


class Panoptic(NamedTuple):
    """A picture in segments.

    Attributes:
        ids: (H, W) int32 ids of segments, `VOID` where there is none.
        segments: {"id", "class", "score", "area"} of each, by ascending id from 1.
    """

    ids: np.ndarray
    segments: list[dict[str, Any]]


class Instances(NamedTuple):
    """Things of a picture, the likeliest first; their masks may overlap.

    Attributes:
        masks: (n, H, W) bool.
        labels: (n,) int64 classes.
        scores: (n,) float64.
    """

    masks: np.ndarray
    labels: np.ndarray
    scores: np.ndarray


def probabilities(logits: Any) -> np.ndarray:
    """(…,) float32 in [0, 1]: 1 / (1 + exp(−logit)), without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * np.asarray(as_numpy(logits), np.float32)))


def semantic(class_scores: Any, masks: Any) -> np.ndarray:
    """What every pixel shows: S_k(x) = sum over q of p_qk · m_q(x).

    Args:
        class_scores: (Q, K) probabilities of the classes, without that of no object.
        masks: (Q, H, W) probabilities of the masks (see `probabilities`).

    Returns:
        (K, H, W) float32; its argmax over K is the semantic segmentation.

    Raises:
        ValueError: other shapes, or numbers outside [0, 1].

    Source: MaskFormer, section 3.4, semantic inference.
    """
    scores, masks = _checked(class_scores, masks)
    return np.tensordot(scores.T.astype(np.float32), masks, 1)


def instances(
    class_scores: Any,
    masks: Any,
    *,
    things: Collection[int] | None = None,
    top: int = 100,
    mask_threshold: float = 0.5,
    least_score: float = 0.0,
) -> Instances:
    """The likeliest things: p_qk times the mean of m_q over its own pixels.

    Args:
        class_scores: (Q, K) probabilities of the classes, without that of no object.
        masks: (Q, H, W) probabilities of the masks.
        things: classes that are countable; others are left out after `top`. None: all are.
        top: pairs of mask and class that are looked at, the likeliest of all Q·K.
        mask_threshold: a mask is where its probability is larger.
        least_score: what is worth less is left out.

    Returns:
        Them, without those whose mask is nowhere.

    Raises:
        ValueError: other shapes, numbers outside [0, 1], or `top` below 1.

    Source: Mask2Former's code: `top` of COCO is 100, the threshold ½.
    """
    scores, masks = _checked(class_scores, masks)
    if top < 1:
        raise ValueError(f"top={top}; expected 1 pair of mask and class, or more")
    flat = scores.ravel()
    best = np.argsort(-flat, kind="stable")[:top]
    queries, labels = np.divmod(best, scores.shape[1])
    worth = {}
    for query in np.unique(queries):
        inside = masks[query] > mask_threshold
        if inside.any():
            worth[query] = float(masks[query][inside].mean(dtype=np.float64))
    wanted = None if things is None else set(things)
    found = [
        (flat[at] * worth[query], query, label)
        for at, query, label in zip(best, queries, labels, strict=True)
        if query in worth and (wanted is None or int(label) in wanted)
    ]
    found = sorted((one for one in found if one[0] >= least_score), key=lambda one: -one[0])
    order = [int(query) for _, query, _ in found]
    return Instances(
        masks[order] > mask_threshold,
        np.array([label for _, _, label in found], np.int64),
        np.array([score for score, _, _ in found], np.float64),
    )


def panoptic(
    class_scores: Any,
    masks: Any,
    things: Collection[int],
    *,
    void: Any = None,
    object_mask_threshold: float = THRESHOLDS["mask2former"]["object_mask_threshold"],
    overlap_threshold: float = THRESHOLDS["mask2former"]["overlap_threshold"],
    mask_threshold: float = 0.5,
    smallest: int = 1,
) -> Panoptic:
    """One segment for every pixel, or none.

        c_q = argmax_k p_qk    s_q = max_k p_qk    kept where s_q > object_mask_threshold
        o(x) = argmax over the kept of s_q · m_q(x)

    Mask q is dropped where |{o = q}| < overlap_threshold · |{m_q ≥ ½}|: others hide it. Its segment
    is {o = q and m_q ≥ ½}. A second mask of a stuff class joins the first one's segment, which
    keeps the score of the first; things stay apart. Masks come in the order that they are given in.

    Args:
        class_scores: (Q, K) probabilities of the classes, without that of no object.
        masks: (Q, H, W) probabilities of the masks.
        things: classes that are countable; the others are stuff.
        void: (Q,) probabilities of no object; masks of which it is the largest are dropped.
        object_mask_threshold, overlap_threshold: see `THRESHOLDS`.
        mask_threshold: a mask is where its probability is at least this.
        smallest: segments of fewer pixels are dropped; published codes have 1.

    Returns:
        Segments; "area" are their pixels.

    Raises:
        ValueError: other shapes, or numbers outside [0, 1].

    Source: MaskFormer, section 3.4, general inference, and its code.
    """
    scores, masks = _checked(class_scores, masks)
    labels, best = scores.argmax(1), scores.max(1)
    kept = best > object_mask_threshold
    if void is not None:
        nothing = np.asarray(as_numpy(void), np.float64)
        if nothing.shape != best.shape:
            raise ValueError(f"void has shape {nothing.shape}; expected {best.shape}, one a mask")
        kept &= nothing <= best
    ids = np.zeros(masks.shape[1:], np.int32)
    order = np.flatnonzero(kept)
    if not len(order):
        return Panoptic(ids, [])
    owner = _owners(masks, best, order)
    segments: list[dict[str, Any]] = []
    merged: dict[int, dict[str, Any]] = {}
    for query in order:
        label, inside, won = int(labels[query]), masks[query] >= mask_threshold, owner == query
        own = won & inside
        if own.sum() < smallest or not own.any():
            continue
        if won.sum() < overlap_threshold * inside.sum():
            continue
        segment = None if label in things else merged.get(label)
        if segment is None:
            segment = {"id": len(segments) + 1, "class": label, "score": float(best[query]),
                       "area": 0}  # fmt: skip
            segments.append(segment)
            merged.setdefault(label, segment)
        ids[own] = segment["id"]
        segment["area"] += int(own.sum())
    return Panoptic(ids, segments)


def _owners(masks: np.ndarray, best: np.ndarray, order: np.ndarray) -> np.ndarray:
    """(H, W) the mask of the largest s_q · m_q(x) among some; the first of equal ones."""
    most = np.full(masks.shape[1:], -1.0, np.float32)
    owner = np.full(masks.shape[1:], -1, np.int64)
    for query in order:  # one at a time: products of all would double the memory
        here = np.float32(best[query]) * masks[query]
        larger = here > most
        most[larger], owner[larger] = here[larger], query
    return owner


def _checked(class_scores: Any, masks: Any) -> tuple[np.ndarray, np.ndarray]:
    """(Q, K) float64 and (Q, H, W) float32, in [0, 1]."""
    scores = np.asarray(as_numpy(class_scores), np.float64)
    masks = np.asarray(as_numpy(masks), np.float32)
    if scores.ndim != 2 or masks.ndim != 3 or len(scores) != len(masks) or not scores.shape[1]:
        raise ValueError(f"class scores have shape {scores.shape}, masks {masks.shape}; expected "
                         "(Q, K) and (Q, H, W) of the same Q masks")  # fmt: skip
    for name, values in (("class scores", scores), ("masks", masks)):
        if values.size and not (values.min() >= -1e-5 and values.max() <= 1 + 1e-5):
            raise ValueError(f"{name} go from {values.min():.4g} to {values.max():.4g}; expected "
                             "probabilities: softmax of class logits, sigmoid of mask "
                             "logits")  # fmt: skip
    return scores, masks
