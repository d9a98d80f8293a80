"""Average precision of masks of things, as COCO counts it, by its own code (pycocotools)."""

from __future__ import annotations

from typing import Any

import numpy as np

from probes.lazy import as_numpy
from probes.metrics.detection import AveragePrecision


class MaskAveragePrecision(AveragePrecision):
    """AP over IoU .50 … .95, AP50 and AP75 of masks that come picture by picture.

    Counted as `AveragePrecision` counts boxes, by the IoU of masks; those of one picture may
    overlap.

    Args:
        classes: K.

    Raises:
        ImportError: pycocotools is not installed (pip install 'diffeat[detection]').

    Source: Lin et al. 2014, "Microsoft COCO", and its evaluation code.
    """

    KIND = "segm"

    def update(self, found: Any, known: Any, group: Any = None) -> MaskAveragePrecision:
        """Take note of one picture.

        Args:
            found: (n, H, W) bool masks, (n,) labels, (n,) scores, such as
                `probes.open_vocabulary.merging.instances` gives.
            known: (m, H, W) bool masks, (m,) labels, and if there are crowds (m,) bool.
            group: what the picture belongs to; None: it is its own.

        Raises:
            ValueError: lengths or sizes that differ; labels outside 0 … K − 1.
        """
        masks, labels, scores = self._checked("found", *found)
        true, true_labels, crowd = self._checked("known", *(*known, None)[:3])
        if masks.shape[1:] != true.shape[1:] and len(masks) and len(true):
            raise ValueError(f"masks found are {masks.shape[1:]}, those known {true.shape[1:]}; "
                             "expected one size")  # fmt: skip
        height, width = (true if len(true) else masks).shape[1:]
        picture = self._another(group, height=int(height), width=int(width))
        for mask, label, many in zip(true, true_labels, crowd, strict=True):
            self._known.append({
                "id": len(self._known) + 1, "image_id": picture, "category_id": int(label) + 1,
                "segmentation": _encoded(mask), "area": int(mask.sum()), "bbox": [0, 0, 0, 0],
                "iscrowd": int(many),
            })  # fmt: skip
        for mask, label, score in zip(masks, labels, scores, strict=True):
            self._found.append({
                "image_id": picture, "category_id": int(label) + 1, "score": float(score),
                "segmentation": _encoded(mask),
            })  # fmt: skip
        return self

    def _checked(self, name: str, masks: Any, labels: Any, third: Any) -> tuple[np.ndarray, ...]:
        masks, labels = np.asarray(as_numpy(masks)), np.asarray(as_numpy(labels), np.int64)
        third = np.zeros(len(labels)) if third is None else np.asarray(as_numpy(third))
        if masks.ndim != 3 or masks.dtype != bool or not len(masks) == len(labels) == len(third):
            raise ValueError(f"{name}: masks are {masks.dtype} of shape {masks.shape}, with "
                             f"{len(labels)} labels and {len(third)} further numbers; expected "
                             "(n, H, W) bool and n of each")  # fmt: skip
        odd = labels[(labels < 0) | (labels >= self.classes)]
        if len(odd):
            raise ValueError(f"{name} has the label {odd[0]}; expected 0 … {self.classes - 1}")
        return masks, labels, third


def _encoded(mask: np.ndarray) -> dict[str, Any]:
    """COCO's run lengths of a mask."""
    from pycocotools.mask import encode

    return encode(np.asfortranarray(mask, np.uint8))
