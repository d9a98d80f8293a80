"""`diffeat segment --words`: masks of words, by the attention of a text-to-image model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click

from diffeat.cli.options import comma_list, model_fields, open_pictures, option, print_json

WORDS = ("words", "background", "normalise", "weights", "rescale", "refine", "heat", "guidance")
"""Options of this way alone."""
UNSAID = "every step"
"""Stands for t where none is given: of a generation all of them are meant."""
IMAGES, MASKS, PROMPTS = "images", "masks", "prompts.csv"
"""Where painted pictures, their masks and their prompts lie."""


def words_options(command: Callable) -> Callable:
    """Options of `diffeat segment` that say something of words."""
    for each in (
        option("--guidance", type=float, metavar="G", help="--noise generation: guidance of every "
               "step (7.5 is usual; default 1, none)."),
        option("--heat", is_flag=True, help="--words, -o: also each word's heat over the picture "
               "(heat/)."),
        option("--refine", callback=comma_list, metavar="BLOCKS", help="Spread heat by the mean of "
               "these self-attention maps, such as up.1.attn.*:self.map."),
        option("--rescale", is_flag=True, default=None, help="Divide each pixel's attention by "
               "that to the whole prompt first."),
        option("--weights", type=click.Choice(["even", "concentration", "coherence",
                                               "agreement"]),
               help="How much each head counts, by its own map (default even)."),
        option("--normalise", type=click.Choice(["word", "picture", "none"]), help="Heat between 0 "
               "and 1: each word by itself (default), all together, or as it is."),
        option("--background", metavar="T|otsu|none|WORDS", help="Heat below which a pixel is "
               "background (default 0.4), Otsu's threshold, no background, or words such as "
               "sky,grass that are."),
        option("--words", metavar="cat,dog|FILE", help="Masks of words, by a text-to-image MODEL "
               "without training. --prompt: {words} are all of them (default \"a photo of "
               "{words}\"), {word} one at a time."),
    ):  # fmt: skip
        command = each(command)
    return command


def run(what: str, pictures: str | None, values: dict[str, Any]) -> None:
    """Masks of words, of pictures or of what the model paints."""
    from diffeat.cli.dense import refuse_nothing

    refuse_nothing({"-o masks/": values["output"], "--csv P.csv": values["csv_path"],
                    "--truth": values["truth"], "--json": values["as_json"]})  # fmt: skip
    asked = Asked.of(what, pictures, values)
    (_painted if asked.paints else _of_pictures)(asked)


@dataclass
class Asked:
    """What the options mean.

    Attributes:
        model, pictures: as they were named; pictures None where the model paints them.
        values: the options.
        spec: of the forward.
        masks: a `WordMasks`.
        options: `HeatOptions`.
        backbone: the model, once it is clear that it can do this.
    """

    model: str
    pictures: str | None
    values: dict[str, Any]
    spec: Any
    masks: Any
    options: Any
    backbone: Any = field(default=None)

    @classmethod
    def of(cls, what: str, pictures: str | None, values: dict[str, Any]) -> Asked:
        """Everything checked that needs no weights."""
        from diffeat.cli.applying import is_file
        from diffeat.words.vocabulary import Vocabulary
        from diffeat.zero_shot.heat import HeatOptions
        from diffeat.zero_shot.word_masks import Background, WordMasks

        if is_file(what):
            raise click.UsageError(f"{what} holds features, which no words were read with; "
                                   "expected diffeat segment MODEL PICTURES --words …")  # fmt: skip
        spec = _spec(values)
        _check(what, pictures, values, spec)
        vocabulary = Vocabulary.of(values["words"])
        given = {"normalise": values["normalise"]} if values["normalise"] else {}
        if values["background"] is not None:
            given["background"] = Background.of(values["background"])
        masks = WordMasks(vocabulary, **given)
        options = HeatOptions(
            values["weights"] or "even", bool(values["rescale"]), values["refine"] or (),
            guidance=1.0 if values["guidance"] is None else values["guidance"],
        )  # fmt: skip
        found = cls(what, pictures, values, spec, masks, options)
        found._load()
        return found

    @property
    def paints(self) -> bool:
        """Whether the model paints the pictures itself."""
        return self.spec.noise == "generation"

    def _load(self) -> None:
        """The model; words and blocks are looked for in its architecture first."""
        import warnings

        from diffeat.backbones import ModelRequest
        from diffeat.loading import load_model
        from diffeat.zero_shot.painted import check_guidance, every_step
        from diffeat.zero_shot.prompts import runs_of

        request = ModelRequest(self.model, **model_fields(self.values))
        bare = replace(request, device="meta", dtype="auto", lora=None, denoiser=None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # whoever works with the model will say it
            architecture = load_model(bare)
            check_guidance(architecture, self.options.guidance)
            if self.spec.timesteps == (UNSAID,):
                every = every_step(architecture, self.spec.steps)
                self.spec = replace(self.spec, timesteps=every)
            own = self.spec.captions or "{class}" in self.spec.prompt
            missing = "leave-out" if own or "{category}" in self.spec.prompt else "refuse"
            runs_of(architecture, self.masks.classes, self.spec.prompt, missing)
        self.backbone = load_model(request)

    def heat(self) -> Any:
        """What makes the heat."""
        from diffeat.zero_shot.heat import WordHeat

        return WordHeat(self.backbone, self.spec, self.options, self.values["batch_size"])

    @property
    def made_by(self) -> dict[str, Any]:
        """What says that two runs make the same masks."""
        how = {name: getattr(self.options, name) for name in self.options.__dataclass_fields__}
        return {
            "words": list(self.masks.vocabulary.words), "model": self.backbone.fingerprint,
            "spec": self.spec.to_dict(), "background": str(self.masks.background),
            "normalise": self.masks.normalise,
            "heat": {name: list(one) if isinstance(one, tuple) else one
                     for name, one in how.items()},
        }  # fmt: skip


def _spec(values: dict[str, Any]) -> Any:
    """The spec of the options, with what words do where nothing is said."""
    from diffeat.cli.spec_options import spec_of
    from diffeat.errors import SpecError
    from diffeat.zero_shot.heat import ALL_MAPS
    from diffeat.zero_shot.prompts import DEFAULT_PROMPT

    known = {"timesteps": (UNSAID,), "blocks": ALL_MAPS, "prompt": DEFAULT_PROMPT}
    spec = spec_of(values["recipe"], values["spec_file"], values, known)
    if not spec.prompt and spec.captions is None:
        spec = replace(spec, prompt=DEFAULT_PROMPT)
    if spec.timesteps == (UNSAID,) and spec.noise != "generation":
        raise SpecError("no timesteps given; expected -t, --recipe, or --spec with a file that "
                        "has them")  # fmt: skip
    for name in ("tokens", "embeddings"):
        if getattr(spec, name) is not None:
            raise SpecError(f"{name} are given, and --words says which tokens are meant; leave "
                            "them out")  # fmt: skip
    return spec


def _check(what: str, pictures: str | None, values: dict[str, Any], spec: Any) -> None:
    """UsageError for options that do not go together."""
    paints = spec.noise == "generation"
    if paints and pictures:
        raise click.UsageError("--noise generation paints pictures of its own; leave "
                               f"{pictures} out, and say how many: --limit 8")  # fmt: skip
    if not paints and not pictures:
        raise click.UsageError("--words needs a MODEL and PICTURES: diffeat segment MODEL PICTURES "
                               "--words cat; or --noise generation --limit 8")  # fmt: skip
    if paints:
        for name, why in (("truth", "nobody knows"), ("on_error", None)):
            if why and values[name]:
                raise click.UsageError(f"--{name} of painted pictures {why}; leave it out")
        if not values["output"] or not values["limit"]:
            raise click.UsageError("--noise generation needs -o made/ and --limit N, the number of "
                                   "pictures")  # fmt: skip
        if spec.ensemble != 1:
            raise click.UsageError("--noise generation paints each picture once; leave --ensemble "
                                   "out")  # fmt: skip
        if spec.captions is not None or "{class}" in spec.prompt or "{category}" in spec.prompt:
            raise click.UsageError("--noise generation takes one --prompt, with {words} or {word}")
    if values["guidance"] is not None and not paints:
        raise click.UsageError("--guidance is for --noise generation")
    for name in ("overlay", "heat", "overwrite"):
        if values[name] and not values["output"]:
            raise click.UsageError(f"--{name} is for -o masks/")
    for name in ("uncertainty", "pictures_at"):
        if values[name]:
            raise click.UsageError(f"--{name.removesuffix('_at')} is for --head")


# --- of pictures ------------------------------------------------------------------------------


def _of_pictures(asked: Asked) -> None:
    """Masks of the pictures of a source."""
    from diffeat.cli.dense import loader
    from diffeat.cli.ending import warn
    from diffeat.conditioned import check_targets, conditioned, marked
    from diffeat.errors import PictureError
    from diffeat.zero_shot.pictures import pieces_of_heat, runs_for

    values, spec = asked.values, asked.spec
    source = open_pictures(asked.pictures, limit=values["limit"])
    if values["on_error"] == "fail":
        source.check_readable()
    told = conditioned(spec)
    if values["truth"]:
        check_targets(asked.model, told, values["allow_conditioned"])
    runs = runs_for(asked.backbone, asked.masks.classes, spec, source)
    _check_words(asked, source, runs)
    heat = asked.heat()
    asked.masks.input_size = heat.forward(runs(0)[0]).plan.size
    tally = _tally(asked, source)
    folder = _folder(asked, values["output"], source.ids, asked.pictures, values["truth"])
    pieces = pieces_of_heat(heat, source, runs, values["workers"], values["on_error"])
    load = loader(source, len(source), None)
    try:
        work = _work(asked, list(source.ids), folder, load, tally)
        work.run(len(source), _drawn(asked, pieces, folder, load), values["csv_path"], "segment")
    except PictureError as error:
        raise click.ClickException(f"{error}; or leave such out with --on-error skip") from error
    if told:
        warn(marked(told))
    work.warn_of_skipped(asked.pictures, len(source))
    _tell(asked, work, len(source), tally)


def _check_words(asked: Asked, source: Any, runs: Callable) -> None:
    """SpecError for pictures of whose pixels nothing could be said."""
    from diffeat.errors import SpecError

    for row in range(0 if asked.masks.background.there else len(source)):
        if not any(key for run in runs(row) for key in run.keys):
            raise SpecError(f"the prompt of {source.ids[row]} has none of the words, and there is "
                            "no background that it could be; say --background")  # fmt: skip


def _tally(asked: Asked, source: Any) -> Any:
    """What compares masks with true ones; None where none are named."""
    if asked.values["truth"] is None:
        return None
    from diffeat.search.dense.compared import MaskTally, truth_of

    truth = truth_of(asked.values["truth"], asked.masks, source, list(source.ids))
    return MaskTally(asked.masks, truth)


def _work(asked: Asked, ids: list[str], folder: Any, load: Callable, tally: Any) -> Any:
    from diffeat.cli.dense import DenseRun

    faults = asked.values["on_error"] == "skip"
    shown = load if asked.values["overlay"] else None
    return DenseRun(asked.masks, ids, folder, shown, tally, False, faults)


def _folder(asked: Asked, output: Path | None, ids: Any, what: str, truth: Any = None) -> Any:
    """The folder of masks, ready and begun; None where none is wanted."""
    if output is None:
        return None
    from diffeat.cli.dense import begun_folder

    inputs = {"the pictures": what, "true masks": truth}
    return begun_folder(asked.masks, list(ids), {**asked.values, "output": output}, what, inputs,
                        asked.made_by, asked.values["overlay"])  # fmt: skip


def _drawn(asked: Asked, pieces: Iterator[Any], folder: Any, load: Callable) -> Iterator[Any]:
    """The pieces; the heat of each picture is drawn as it passes, where that is wanted."""
    from diffeat.search.dense.written import HEATS
    from diffeat.viz.heat import heat_sheet
    from diffeat.zero_shot.word_masks import HEAT, heat_on

    names = [one.name for one in asked.masks.classes]
    for piece in pieces:
        for place, row in enumerate(piece.rows.tolist() if asked.values["heat"] else ()):
            picture = load(row)
            maps = heat_on(piece.arrays[HEAT][place], picture.shape[:2], asked.masks.input_size,
                           piece.placements[place])  # fmt: skip
            folder.show(heat_sheet(picture, maps, names), HEATS, row)
        yield piece


def _tell(asked: Asked, work: Any, count: int, tally: Any) -> None:
    """For programs or for people."""
    from diffeat.cli.segment_head import print_masks

    values = asked.values
    paths = {name: values[name] and str(values[name]) for name in ("output", "csv_path")}
    facts = {
        "words": list(asked.masks.vocabulary.names), "of": asked.pictures or asked.model,
        "model": asked.model, "prompt": asked.spec.prompt, **paths, **work.facts(count),
    }  # fmt: skip
    if values["as_json"]:
        print_json(facts)
    else:
        print_masks(facts, tally)


# --- of what the model paints -----------------------------------------------------------------


def _painted(asked: Asked) -> None:
    """Pictures that the model paints, and their masks."""
    from diffeat.zero_shot.painted import name_of, runs_by_picture

    output, count = asked.values["output"], asked.values["limit"]
    classes, words = asked.masks.classes, len(asked.masks.vocabulary)
    runs = runs_by_picture(asked.backbone, classes, asked.spec.prompt, count, words)
    heat = asked.heat()
    asked.masks.input_size = heat.forward(runs[0]).plan.size  # where blocks are looked for
    _check_images(output, asked.values["overwrite"])
    ids, kept = [name_of(k) for k in range(count)], {}
    folder = _folder(asked, output / MASKS, ids, asked.model)
    load = lambda row: kept[row].pixels  # noqa: E731
    work = _work(asked, ids, folder, load, None)
    pieces = _drawn(asked, _paint(output, heat, runs, kept), folder, load)
    work.run(count, pieces, asked.values["csv_path"], "paint")
    _tell(asked, work, count, None)


def _check_images(output: Path, overwrite: bool) -> None:
    """SpecError where pictures lie that this command did not paint."""
    from diffeat.errors import SpecError
    from diffeat.search.dense.written import NOTES

    images, note = output / IMAGES, output / MASKS / NOTES["masks"]
    if not overwrite and not note.exists() and images.is_dir() and any(images.iterdir()):
        raise SpecError(f"{images} is in use, and {note} does not say that its pictures were "
                        "painted; name another folder, or say --overwrite")  # fmt: skip


def _paint(output: Path, heat: Any, runs: Any, kept: dict[int, Any]) -> Iterator[Any]:
    """Pieces of one painted picture each, which is written first; `kept` holds the last."""
    import numpy as np

    from diffeat.cli.applying import written_table
    from diffeat.search.applied import Piece
    from diffeat.search.dense.written import write_picture
    from diffeat.zero_shot.painted import paint
    from diffeat.zero_shot.word_masks import HEAT

    with written_table(output / PROMPTS, ["id", "prompt"]) as add:
        for row, one in enumerate(paint(heat, runs)):
            write_picture(one.pixels, output / IMAGES / f"{one.id}.png")
            add([[one.id, one.prompt]])
            kept.clear()
            kept[row] = one
            size = np.array([one.pixels.shape[:2]], np.int64)
            whole = np.array([[1.0, 0.0, 1.0, 0.0]])
            yield Piece({HEAT: one.heat[None]}, np.array([row]), {}, size, whole)
