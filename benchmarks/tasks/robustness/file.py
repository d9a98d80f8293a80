"""What a benchmark file of robustness says."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.tasks.matching.file import MeasuredBenchmark
from diffeat.errors import SpecError
from diffeat.specs import ExtractSpec


@dataclass(frozen=True, kw_only=True)
class RobustnessBenchmark(MeasuredBenchmark):
    """A file whose task is robustness.

    Attributes:
        train, test: labelled pictures.
        train_limit, test_limit: class-balanced subsets, or None for all.
        corruptions: NAME:SEVERITY or cifar:NAME:SEVERITY, of test pictures.
        held: share of `train` that chooses penalty and block.
        side: of the pictures whose raw pixels are a row.
    """

    train: str
    test: str
    corruptions: tuple[str, ...] = ()
    train_limit: int | None = None
    test_limit: int | None = None
    held: float = 0.2
    side: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        where = f"benchmark {self.name}"
        if not self.corruptions or len(set(self.corruptions)) < len(self.corruptions):
            raise SpecError(f"{where}: corruptions = {list(self.corruptions)}; expected one at "
                            "least, each once")  # fmt: skip
        if "corrupt" in self.extract or not 0 < self.held < 1 or self.side < 1:
            raise SpecError(f"{where}: held = {self.held}, side = {self.side}; expected a share in "
                            "(0, 1), pixels, and no corrupt in extract")  # fmt: skip

    def check_specs(self) -> None:
        super().check_specs()
        for corruption in self.corruptions:
            ExtractSpec.from_dict({**self.extract, "corrupt": corruption})
