"""What a benchmark file of open vocabularies says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from benchmarks.files import Benchmark, check_names
from diffeat.errors import SpecError
from probes.open_vocabulary.merging import THRESHOLDS

MASKS: Mapping[str, str] = MappingProxyType({
    "proposals": "a Mask2Former's", "random": "a Mask2Former's with random weights",
    "truth": "the true ones", "whole": "one over all",
})  # fmt: skip
"""Where the masks of a system come from."""
NAMES: Mapping[str, str] = MappingProxyType({
    "clip": "a CLIP that sees each mask's pixels alone, by the words", "own": "the Mask2Former's "
    "own classes of the same names", "odise": "ODISE's head, by the words",
    "chance": "drawn", "frequent": "the class of most training pixels",
})  # fmt: skip
"""Who names them."""


@dataclass(frozen=True)
class System:
    """A row of the table.

    Attributes:
        name: of the row.
        masks: a key of `MASKS`. names: a key of `NAMES`.
        head: names = "odise": the file of the head, or one below a folder of data sets.
        thresholds: a key of `probes.open_vocabulary.merging.THRESHOLDS`.
    """

    name: str
    masks: str
    names: str
    head: str = ""
    thresholds: str = "odise"


@dataclass(frozen=True, kw_only=True)
class OpenVocabularyBenchmark(Benchmark):
    """A file whose task is open-vocabulary segmentation.

    Attributes:
        train: segments that the commonest class is counted on: "FOLDER:SPLIT" in COCO's or
            ADE20K's panoptic layout, a folder below those of the data sets; or "masks:NAME", the
            connected pieces of a named set's masks.
        test: the same, of what is measured.
        proposals: a Mask2Former of transformers, a folder or hub id; "" where no system asks.
        model: the diffusion model of ODISE's heads.
        clip: a CLIP of transformers, likewise.
        words: a vocabulary (see `diffeat.words.vocabulary`) whose classes are the set's, in its
            order; "" takes the names of the set.
        templates: texts that a word is put into; the mean of their embeddings is the word's.
        systems: the rows; differences are to the first.
        test_limit: pictures that are measured, by a hash of the ids; None: all.
        smallest: of "masks:NAME", pixels of a piece at least.
        seed: of what is drawn.
    """

    train: str
    test: str
    systems: tuple[System, ...]
    proposals: str = ""
    model: str = ""
    clip: str = ""
    words: str = ""
    templates: tuple[str, ...] = ("a photo of a {}.",)
    test_limit: int | None = None
    smallest: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        where = f"benchmark {self.name}"
        check_names(where, [one.name for one in self.systems])
        for one in self.systems:
            for field, known in (("masks", MASKS), ("names", NAMES), ("thresholds", THRESHOLDS)):
                if getattr(one, field) not in known:
                    raise SpecError(f"{where}, {one.name}: {field} = {getattr(one, field)!r}; "
                                    f"expected {', '.join(known)}")  # fmt: skip
            if one.names == "own" and one.masks not in ("proposals", "random"):
                raise SpecError(f"{where}, {one.name}: names = 'own' are those of proposals")
            if one.masks in ("proposals", "random") and not self.proposals:
                raise SpecError(f"{where}, {one.name}: expected proposals, a Mask2Former")
            if one.names == "odise" and not (self.model and self.clip):
                raise SpecError(f"{where}, {one.name}: expected model and clip, of the head")
            if one.names == "clip" and not self.clip:
                raise SpecError(f"{where}, {one.name}: expected clip, a CLIP")
            if (one.names == "odise") != bool(one.head):
                raise SpecError(f"{where}, {one.name}: head goes with names = 'odise', and that "
                                "with a head")  # fmt: skip
        if not self.templates or any("{}" not in one for one in self.templates):
            raise SpecError(f"{where}: templates = {list(self.templates)}; expected texts with "
                            "{} where the word goes")  # fmt: skip
