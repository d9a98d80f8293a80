"""Average precision of boxes, as COCO counts it, by its own code (pycocotools)."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from probes.metrics.intervals import Interval, drawn_groups

DRAWS = 500
"""Of groups; each of them counts the whole curve anew."""
NUMBERS = {"AP": slice(None), "AP50": 0, "AP75": 5}
"""Name → places among COCO's ten overlaps .50, .55 … .95."""


class AveragePrecision:
    """AP over IoU .50 … .95, AP50 and AP75 of boxes that come picture by picture.

    Precision at 101 recalls, averaged over these, over overlaps and over the classes that occur;
    at most 100 boxes of a picture count, the likeliest; boxes round many things ("crowd") are
    neither right nor wrong to find.

    Args:
        classes: K.

    Raises:
        ImportError: pycocotools is not installed (pip install 'diffeat[detection]').

    Source: Lin et al. 2014, "Microsoft COCO", and its evaluation code.
    """

    KIND = "bbox"
    """What pycocotools compares: boxes, or masks ("segm")."""

    def __init__(self, classes: int):
        _pycocotools()
        self.classes, self.groups = classes, []
        self._images: list[dict[str, Any]] = []
        self._known: list[dict[str, Any]] = []
        self._found: list[dict[str, Any]] = []

    def __len__(self) -> int:
        return len(self.groups)

    def update(self, found: Any, known: Any, group: Any = None) -> AveragePrecision:
        """Take note of one picture.

        Args:
            found: `probes.detection.Boxes` with scores.
            known: `probes.detection.Boxes`.
            group: what the picture belongs to; None: it is its own.

        Raises:
            ValueError: what was found has no scores; labels outside 0 … K − 1.
        """
        if found.scores is None:
            raise ValueError("what was found has no scores; expected one a box")
        for name, boxes in (("found", found), ("known", known)):
            odd = boxes.labels[(boxes.labels < 0) | (boxes.labels >= self.classes)]
            if len(odd):
                raise ValueError(f"{name} has the label {odd[0]}; expected 0 … {self.classes - 1}")
        picture = self._another(group)
        crowd = np.zeros(len(known), bool) if known.crowd is None else known.crowd
        for box, label, many in zip(known.boxes, known.labels, crowd, strict=True):
            x1, y1, x2, y2 = map(float, box)
            self._known.append({
                "id": len(self._known) + 1, "image_id": picture, "category_id": int(label) + 1,
                "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1),
                "iscrowd": int(many),
            })  # fmt: skip
        for box, label, score in zip(found.boxes, found.labels, found.scores, strict=True):
            x1, y1, x2, y2 = map(float, box)
            self._found.append({
                "image_id": picture, "category_id": int(label) + 1, "score": float(score),
                "bbox": [x1, y1, x2 - x1, y2 - y1],
            })  # fmt: skip
        return self

    def _another(self, group: Any, **facts: Any) -> int:
        """The number of one more picture, from 1."""
        picture = len(self.groups) + 1
        self.groups.append(f"picture {picture}" if group is None else group)
        self._images.append({"id": picture, **facts})
        return picture

    def compute(self) -> dict[str, float]:
        """AP, AP50 and AP75 in [0, 1].

        Raises:
            ValueError: no picture with a box was counted.
        """
        return _numbers(self._evaluated())

    def interval(self, name: str = "AP50", seed: int = 0, draws: int = DRAWS) -> Interval:
        """One of the numbers with its 95 % interval: groups are drawn anew.

        Raises:
            ValueError: fewer than two groups.
        """
        names, owner = np.unique(np.asarray(self.groups, str), return_inverse=True)
        if len(names) < 2:
            raise ValueError(f"{len(names)} groups; expected two at least")
        run = self._evaluated()
        value, values = _numbers(run)[name], []
        pictures, every = list(run.params.imgIds), run.evalImgs
        for drawn in drawn_groups(len(names), seed, draws):
            counts = drawn[0][owner]
            values.append(_numbers(_again(run, pictures, every, counts))[name])
        values = np.asarray(values)
        kept = values[np.isfinite(values)]
        low, high = np.percentile(kept, [2.5, 97.5])
        return Interval(value, float(low), float(high), len(kept), len(values) - len(kept))

    def _evaluated(self) -> Any:
        """COCO's evaluation of all pictures, before numbers are made of it."""
        COCO, COCOeval = _pycocotools()
        if not self._known:
            what = {"bbox": "box", "segm": "mask"}[self.KIND]
            raise ValueError(f"no {what} of any picture is known; expected at least one")
        truth = COCO()
        truth.dataset = {
            "images": [dict(one) for one in self._images],
            "annotations": [dict(one) for one in self._known],
            "categories": [{"id": k + 1} for k in range(self.classes)],
        }
        with contextlib.redirect_stdout(io.StringIO()):
            truth.createIndex()
            found = truth.loadRes([dict(one) for one in self._found]) if self._found else COCO()
            if not self._found:
                found.dataset = {**truth.dataset, "annotations": []}
                found.createIndex()
            run = COCOeval(truth, found, self.KIND)
            run.params.areaRng, run.params.areaRngLbl = [[0, 1e10]], ["all"]
            run.params.maxDets = [100]
            run.evaluate()
            run.accumulate()
        return run


def _again(run: Any, pictures: Sequence[int], every: Sequence[Any], counts: np.ndarray) -> Any:
    """The same pictures, each so often; what was compared stays compared."""
    chosen = np.repeat(np.arange(len(pictures)), counts)
    size = len(pictures)
    run.evalImgs = [every[start + k] for start in range(0, len(every), size) for k in chosen]
    run.params.imgIds = run._paramsEval.imgIds = list(range(len(chosen)))
    with contextlib.redirect_stdout(io.StringIO()):
        run.accumulate()
    return run


def _numbers(run: Any) -> dict[str, float]:
    precision = run.eval["precision"][:, :, :, 0, 0]  # (overlaps, recalls, K)
    found = {}
    for name, places in NUMBERS.items():
        some = precision[places]
        some = some[some > -1]
        found[name] = float(some.mean()) if some.size else float("nan")
    return found


def _pycocotools() -> tuple[Any, Any]:
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise ImportError(
            "average precision is counted by pycocotools, which is not installed; "
            "pip install 'diffeat[detection]'"
        ) from error
    return COCO, COCOeval
