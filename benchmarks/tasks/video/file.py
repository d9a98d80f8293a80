"""What a benchmark file of videos says."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from benchmarks.tasks.matching.file import MeasuredBenchmark
from diffeat.errors import SpecError


@dataclass(frozen=True, kw_only=True)
class VideoBenchmark(MeasuredBenchmark):
    """A file whose task is video: labels of the first frame go through each clip.

    Attributes:
        clips: those of the report, a named set such as "davis2016:val".
        last, top_k, temperature: of `probes.propagation.LabelPropagator`.
        radius: the same; below 1 it is a share of the map's larger side, so that rows with other
            grids look equally far.
        fewer: clip → its own `last`.
        pixels: (H, W) of inputs whose raw pixels are a row, by patches; () for none.
        alphas: of PCK of joints; the first chooses.
    """

    clips: str
    last: int = 28
    radius: float = 15
    top_k: int = 15
    temperature: float = 0.2
    fewer: dict[str, Any] = field(default_factory=dict)
    pixels: tuple[int, ...] = ()
    alphas: tuple[float, ...] = (0.1, 0.2)

    def __post_init__(self) -> None:
        super().__post_init__()
        where = f"benchmark {self.name}"
        if self.radius <= 0 or (self.radius > 1 and self.radius != int(self.radius)):
            raise SpecError(f"{where}: radius = {self.radius}; expected whole sites, or a share of "
                            "the map's larger side below 1")  # fmt: skip
        if self.last < 1 or self.top_k < 1 or self.temperature <= 0:
            raise SpecError(
                f"{where}: last = {self.last}, top_k = {self.top_k}, temperature = "
                f"{self.temperature}; expected 1 and more, and more than 0"
            )
        if bad := [clip for clip, last in self.fewer.items() if type(last) is not int or last < 1]:
            raise SpecError(f"{where}: fewer = {self.fewer}; expected whole frames for {bad[0]!r}")
        if len(self.pixels) not in (0, 2) or not all(side > 0 for side in self.pixels):
            raise SpecError(f"{where}: pixels = {list(self.pixels)}; expected H and W, or none")
        if not self.alphas or min(self.alphas) <= 0:
            raise SpecError(f"{where}: alphas = {list(self.alphas)}; expected positive shares")
