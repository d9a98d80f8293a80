"""`diffeat segment PICTURES --proposals MASK2FORMER`: things and stuff, as segments."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from diffeat.cli.options import comma_list, option, print_json

PROPOSALS = ("proposals", "vocabulary", "clip", "stuff", "object_threshold", "overlap_threshold")
"""Options of this way alone."""


def proposals_options(command: Callable) -> Callable:
    """Options of `diffeat segment` that say something of proposals."""
    for one in reversed((
        option("--proposals", metavar="FOLDER|HUB-ID", help="A Mask2Former of transformers, with "
               "weights: masks of its own classes, merged to segments (panoptic)."),
        option("--vocabulary", metavar="WORDS|FILE", help="--proposals: classes of your own, such "
               "as cat,dog,sky, or a file of words with synonyms; --clip names the masks."),
        option("--clip", metavar="FOLDER|HUB-ID", help="--vocabulary: a CLIP of transformers, that "
               "sees each mask's pixels alone."),
        option("--stuff", callback=comma_list, metavar="NAMES", help="--proposals: classes that "
               "cannot be counted, such as sky,grass: one segment each."),
        option("--object-threshold", type=click.FloatRange(0, 1), help="--proposals: a mask counts "
               "if its class is likelier than this (0.8; 0 with --vocabulary)."),
        option("--overlap-threshold", type=click.FloatRange(0, 1), help="--proposals: a mask of "
               "which others hide more is dropped: the share that must stay (0.8)."),
    )):  # fmt: skip
        command = one(command)
    return command


def refuse_odise(head: Any) -> None:
    """UsageError for a kept ODISE, which names masks and makes none."""
    from diffeat.adapt.odise import FORMAT
    from diffeat.adapt.saved_networks import kind_of

    if kind_of(head) == FORMAT:
        raise click.UsageError(f"{head} holds an ODISE, which names masks that others propose; add "
                               "--proposals MASK2FORMER --clip CLIP")  # fmt: skip


def run(what: str, pictures: str | None, values: dict[str, Any]) -> None:
    """Segments of pictures, by the proposals and their own classes."""
    from diffeat.cli.dense import refuse_nothing
    from diffeat.cli.options import open_pictures

    if bool(pictures) != bool(values["head"]):
        raise click.UsageError(
            "--proposals takes PICTURES alone, or, to name masks by a kept ODISE, MODEL PICTURES "
            "--head ODISE.safetensors --clip CLIP"
        )
    model, what = (what, pictures) if pictures else (None, what)
    values = {**values, "model": model}
    refuse_nothing({"-o segments/": values["output"], "--csv P.csv": values["csv_path"],
                    "--truth": values["truth"], "--json": values["as_json"]})  # fmt: skip
    if bool(values["vocabulary"] or values["head"]) != bool(values["clip"]):
        raise click.UsageError("--vocabulary and --clip go together (the words, and what names by "
                               "them), and so do --head and --clip")  # fmt: skip
    for name in ("pictures_at", "batch_size", *(() if values["head"] else ("lora", "denoiser"))):
        if values[name] is not None:
            said = name.removesuffix("_at").replace("_", "-")
            raise click.UsageError(f"--{said} says nothing of --proposals; leave it out")
    for name in ("overlay", "overwrite"):
        if values[name] and not values["output"]:
            raise click.UsageError(f"--{name} is for -o segments/")
    source = open_pictures(what, limit=values["limit"])
    done = _Run(what, source, values)
    done.everything()
    if values["as_json"]:
        print_json(done.facts())
    else:
        for line in done.lines():
            click.echo(line)


class _Run:
    """One run over pictures.

    Attributes:
        counts: class → pixels and segments.
        skipped: id → why it has no segments.
        quality: of what is known; None where nothing is.
    """

    def __init__(self, what: str, source: Any, values: dict[str, Any]):
        import diffeat.companions  # noqa: F401 - before anything imports `probes`
        from diffeat.cli.applying import device_of
        from diffeat.vision.clip import ClipNamer
        from diffeat.vision.proposals import Mask2Former
        from diffeat.words.vocabulary import Vocabulary

        self.what, self.source, self.values = what, source, values
        device = device_of(values["device"])
        self.model = Mask2Former(values["proposals"], device)
        self.names, self.classes = self._own, self.model.classes
        words = Vocabulary.of(values["vocabulary"]) if values["vocabulary"] else None
        if values["head"]:
            self.names, self.classes = self._by_odise(words, device)
        elif words is not None:
            clip = ClipNamer(values["clip"], words, device=device)
            self.names, self.classes = self._by_clip(clip), words.names
        self.things = self._things(values["stuff"] or ())
        self.counts: dict[str, list[int]] = {}
        self.skipped: dict[str, str] = {}
        self.done = 0
        self.folder = self._folder() if values["output"] else None
        self.truth = self.quality = None
        if values["truth"]:
            self._open_truth(values["truth"])

    def everything(self) -> None:
        """Propose, merge, write and compare, a picture at a time."""
        from diffeat.cli.applying import written_table
        from diffeat.cli.ending import warn
        from diffeat.errors import PictureError
        from diffeat.progress import counted

        with (
            written_table(self.values["csv_path"], ["id", "file", "segment", "class", "score",
                                                    "area"]) as add,
            counted(len(self.source), desc="segment", unit="pictures") as bar,
        ):  # fmt: skip
            try:
                for row, name in enumerate(self.source.ids):
                    try:
                        add(self._one(row))
                    except PictureError as error:
                        if self.values["on_error"] != "skip":
                            raise click.ClickException(
                                f"{error}; or leave such out with --on-error skip"
                            ) from error
                        self.skipped[name] = error.reason
                        warn(str(error))
                    bar.update(1)
            finally:  # what lies there is named, also when something ends it
                if self.folder is not None:
                    self.folder.finish()

    def _one(self, row: int) -> list[list[Any]]:
        import numpy as np

        from probes.open_vocabulary.merging import panoptic, probabilities

        picture = np.asarray(self.source.load(row).convert("RGB"))
        found = self.model.propose(picture)
        scores, nothing = self.names(picture, found)
        merged = panoptic(
            scores, probabilities(found.masks), self.things, void=nothing, **self.thresholds
        )  # fmt: skip
        file = ""
        if self.folder is not None:
            self.folder.add(row, merged, picture if self.values["overlay"] else None)
            file = self.folder.file(row)
        if self.quality is not None:
            self._compare(row, merged)
        self.done += 1
        rows = []
        for one in merged.segments:
            name = self.classes[one["class"]]
            count = self.counts.setdefault(name, [0, 0])
            count[0], count[1] = count[0] + one["area"], count[1] + 1
            rows.append([self.source.ids[row], file, one["id"], name, f"{one['score']:.6g}",
                         one["area"]])  # fmt: skip
        return rows or [[self.source.ids[row], file, "", "", "", ""]]

    @property
    def thresholds(self) -> dict[str, float]:
        """Of `panoptic`: those that were asked for, else the published ones."""
        from probes.open_vocabulary.merging import THRESHOLDS

        usual = THRESHOLDS["odise" if self.values["clip"] else "mask2former"]
        asked = {"object_mask_threshold": self.values["object_threshold"],
                 "overlap_threshold": self.values["overlap_threshold"]}  # fmt: skip
        return {**usual, **{name: one for name, one in asked.items() if one is not None}}

    @staticmethod
    def _own(picture: Any, found: Any) -> tuple[Any, Any]:
        """(Q, K) scores and (Q,) chances of nothing, by the Mask2Former's own classes."""
        return found.class_scores, 1 - found.scores

    @staticmethod
    def _by_clip(namer: Any) -> Callable[[Any, Any], tuple[Any, Any]]:
        """The same by a CLIP; what is nothing to the model is nothing of the words."""

        def named(picture: Any, found: Any) -> tuple[Any, Any]:
            scores = namer.scores(picture, found.masks.numpy() > 0)
            return scores * found.scores.numpy()[:, None], 1 - found.scores

        return named

    def _by_odise(self, words: Any, device: str) -> tuple[Callable, tuple[str, ...]]:
        """The same by a kept ODISE, and the names of the classes."""
        from functools import partial

        from diffeat.adapt.odise_proposals import load_odise, named_proposals
        from diffeat.backbones import ModelRequest
        from diffeat.cli.options import model_fields
        from diffeat.loading import load_model

        values = self.values
        backbone = load_model(ModelRequest(values["model"], **model_fields(values)))
        odise = load_odise(values["head"], backbone, values["clip"], device)
        names = (odise.vocabulary_ if words is None else words).names
        return partial(named_proposals, odise, vocabulary=words), names

    def _things(self, stuff: Any) -> frozenset[int]:
        from diffeat.errors import SpecError, nearest

        names = self.classes
        if odd := [one for one in stuff if one not in names]:
            raise SpecError(f"--stuff: {odd[0]!r} is no class"
                            f"{nearest(odd[0], names)}; expected some of {', '.join(names[:12])}"
                            f"{', …' if len(names) > 12 else ''}")  # fmt: skip
        return frozenset(k for k, name in enumerate(names) if name not in stuff)

    def _folder(self) -> Any:
        from functools import partial

        from diffeat.errors import SpecError
        from diffeat.search.dense.segments import SegmentFolder
        from diffeat.viz.masks import class_colours
        from diffeat.viz.segments import segment_overlay

        output, names = self.values["output"], self.classes
        for place in (self.what, self.values["proposals"]):
            if Path(place).exists() and Path(place).resolve() == output.resolve():
                raise SpecError(f"-o {output} holds {place}, which could be written over; name "
                                "another folder")  # fmt: skip
        draw = partial(segment_overlay, names=names, colours=class_colours(names))
        made_by = {"proposals": self.model.name, "weights": self.model.fingerprint,
                   "classes": list(names), "clip": self.values["clip"],
                   "head": self.values["head"] and str(self.values["head"]),
                   "stuff": sorted(set(range(len(names))) - self.things),
                   "thresholds": self.thresholds}  # fmt: skip
        found = SegmentFolder(
            output, self.source.ids, names, self.things,
            draw if self.values["overlay"] else None, made_by, self.what,
        )  # fmt: skip
        found.begin(self.values["overwrite"])
        return found

    def _open_truth(self, name: str) -> None:
        """Truth, and which of its classes the model's are, by their names."""
        from diffeat.errors import SpecError
        from diffeat.targets.panoptic import open_segments
        from probes.metrics import PanopticQuality

        self.truth = open_segments(name).of(self.source.ids)
        number = {one.casefold(): k for k, one in enumerate(self.truth.classes)}
        self.known = [number.get(one.casefold(), -1) for one in self.classes]
        if max(self.known) < 0:
            raise SpecError(
                f"--truth {name} has the classes {', '.join(self.truth.classes[:8])} …, and "
                f"what names here {', '.join(self.classes[:8])} …: none is the same"
            )
        self.quality = PanopticQuality(self.truth.classes, self.truth.things)

    def _compare(self, row: int, merged: Any) -> None:
        """Segments of classes that truth does not have are left out: their pixels are none's."""
        import numpy as np

        kept = [{**one, "class": self.known[one["class"]]} for one in merged.segments
                if self.known[one["class"]] >= 0]  # fmt: skip
        ids = np.where(np.isin(merged.ids, [one["id"] for one in kept]), merged.ids, 0)
        truth = self.truth.segmented(row)
        self.quality.update((ids, kept), truth, self.truth.groups[row])

    def facts(self) -> dict[str, Any]:
        """Plain values of all that was done."""
        found = {
            "proposals": self.model.name, "of": self.what, "pictures": len(self.source),
            "segmented": self.done, "skipped": self.skipped,
            "output": self.values["output"] and str(self.values["output"]),
            "segments": {name: {"pixels": a, "segments": b} for name, (a, b) in
                         self.counts.items()},
        }  # fmt: skip
        if self.quality is not None and len(self.quality):
            found["scores"] = self.quality.compute()
        return found

    def lines(self) -> list[str]:
        """For people."""
        where = f"{self.values['output']}: " if self.values["output"] else ""
        many = sum(count for _, count in self.counts.values())
        found = [f"{where}{many:,} segments in {self.done:,} of {len(self.source):,} pictures"]
        order = sorted(self.counts.items(), key=lambda one: -one[1][0])
        if order:
            shown = ", ".join(f"{name} {count}" for name, (_, count) in order[:10])
            found.append(shown + (f", … ({len(order)} classes)" if len(order) > 10 else ""))
        if self.quality is not None and len(self.quality):
            value = self.quality.quality()
            if len(self.quality.groups.names) > 1 and value == value:
                one = self.quality.interval()
                found.append(f"PQ {100 * one.value:.2f} % (95 % interval {100 * one.low:.2f} to "
                             f"{100 * one.high:.2f}) of {len(self.quality)} pictures")  # fmt: skip
            found += self.quality.lines()
        return found
