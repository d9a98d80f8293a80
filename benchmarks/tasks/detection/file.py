"""What a benchmark file of detection says."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from benchmarks.tasks.matching.file import MeasuredBenchmark
from diffeat.errors import SpecError
from probes.detection import BoxDetector


@dataclass(frozen=True, kw_only=True)
class DetectionBenchmark(MeasuredBenchmark):
    """A file whose task is detection: boxes, found on a pyramid of frozen maps.

    Attributes:
        train, test: pictures with masks (a named set such as "horses:train", whose classes get one
            box a picture each) or with boxes in COCO's layout ("coco:FOLDER:SPLIT").
        head: parameters of `probes.detection.BoxDetector`.
        seeds: of trainings; tables have their mean.
        validation: share of the training groups that ends a training.
        pixels: (H, W) of inputs whose raw pixels are a row, by patches; () for none.
    """

    train: str
    test: str
    head: dict[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0, 1, 2)
    validation: float = 0.2
    pixels: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        where = f"benchmark {self.name}"
        known = BoxDetector._get_param_names()
        if odd := sorted(set(self.head) - set(known)):
            raise SpecError(f"{where}: head has {odd[0]!r}; expected some of {', '.join(known)}")
        if not self.seeds:
            raise SpecError(f"{where}: no seeds; expected one at least")
        if not 0 < self.validation < 1:
            raise SpecError(f"{where}: validation = {self.validation}; expected a share")
        if len(self.pixels) not in (0, 2) or not all(side > 0 for side in self.pixels):
            raise SpecError(f"{where}: pixels = {list(self.pixels)}; expected H and W, or none")
