"""`diffeat segment`: what every pixel shows, by a kept head, by words, or as parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from diffeat.cli.grouped import Grouped
from diffeat.cli.options import (
    allow_conditioned_option,
    batch_size_option,
    comma_list,
    json_option,
    limit_option,
    model_options,
    on_error_option,
    option,
    speed_options,
    threads_option,
    workers_option,
)
from diffeat.cli.outputs import OutputPath, command
from diffeat.cli.segment_parts import PARTS, parts_options
from diffeat.cli.segment_proposals import PROPOSALS, proposals_options
from diffeat.cli.segment_words import WORDS, words_options
from diffeat.cli.spec_options import MADE, recipe_option, spec_file_option, spec_options

WAYS = {
    "head": ("uncertainty",),
    "words": WORDS,
    "parts": PARTS,
    "proposals": PROPOSALS,
}
"""What says it → options that are for it alone."""
OF_MODEL = ("timesteps", "blocks", "recipe", "spec_file", *MADE)
"""Options that a head does not need: it knows its features."""
GROUPS = {
    "What says it": ("head", *WORDS, *PARTS, *PROPOSALS),
    "What is written": ("output", "overlay", "uncertainty", "csv_path", "pictures_at", "overwrite",
                        "as_json"),
    "What it is compared with": ("truth",),
    "Of pictures, whose features are computed now": ("batch_size", "workers", "on_error"),
    "--words, --parts: which features": OF_MODEL,
}  # fmt: skip
"""Options of the help by what they are for."""


@command(cls=Grouped, groups=GROUPS)
@click.argument("what", metavar="FILE|MODEL|PICTURES")
@click.argument("pictures", metavar="[PICTURES]", required=False)
@option("--head", type=click.Path(path_type=Path), metavar="H.safetensors",
        help="A segmentation head that was kept, by diffeat probe --masks … --save.")  # fmt: skip
@words_options
@parts_options
@proposals_options
@option("-o", "--output", type=OutputPath(folder=True), metavar="FOLDER", help="A mask per "
        "picture, at its own size (PNG with a palette), and classes.json.")  # fmt: skip
@option("--overlay", is_flag=True, help="-o: also the pictures under their classes (overlays/).")
@option("--uncertainty", is_flag=True, help="--head, -o: also how little sure the head is at each "
        "pixel (uncertainty/).")  # fmt: skip
@option("--csv", "csv_path", type=OutputPath((".csv",)), help="Write a row per picture: its file, "
        "uncertainty, share of each class, mIoU where it is known.")  # fmt: skip
@option("--pictures", "pictures_at", metavar="PICTURES", help="--overlay of a FILE: where its "
        "pictures lie, if not where they were extracted from.")  # fmt: skip
@option("--overwrite", is_flag=True, help="Write into -o although it is in use.")
@option("--truth", metavar="DIR|NAME", help="True masks: a folder, or a named set such as "
        "camvid:val. --proposals: true segments, FOLDER:SPLIT in COCO's panoptic layout, or "
        "masks:NAME, the pieces of masks. Says how good they are.")  # fmt: skip
@option("-t", "--timesteps", callback=comma_list, help="Noise levels (of a file: only these).")
@option("-b", "--blocks", callback=comma_list, help="Blocks (of a file: only these).")
@recipe_option
@spec_file_option
@spec_options(*MADE)
@limit_option("Only so many pictures: of PICTURES class-balanced, of a file the first.")
@batch_size_option()
@workers_option()
@on_error_option
@allow_conditioned_option
@model_options
@speed_options
@json_option
@threads_option
def segment(what, pictures, **values) -> None:
    """Tell classes or parts apart at every pixel: by a kept head, by words, or without either.

    \b
    diffeat segment FEATURES.h5 --head H.safetensors -o masks/     features that are stored
    diffeat segment PICTURES --head H.safetensors -o masks/        straight from the pictures
    diffeat segment MODEL PICTURES --head H.safetensors -o masks/  by a model of another name
    diffeat segment MODEL PICTURES --head VPD.safetensors -o …     a trained VPD
    diffeat segment sd21 PICTURES --words cat,dog -t 301 -o masks/ words, by a text-to-image model
    diffeat segment unet-cifar10 PICTURES --parts diffcut -o parts/
    diffeat segment PICTURES --proposals MASK2FORMER -o segments/  things and stuff (panoptic)
    diffeat segment MODEL PICTURES --head ODISE.safetensors --proposals MASK2FORMER --clip CLIP …

    A file must hold the head's features: the same model, every field of the spec, its blocks and
    t; else it is refused, field by field. Of PICTURES the head's model extracts them now, batch by
    batch; nothing is stored, and memory is that of a batch. Masks are class indices, called by the
    pictures' ids; FOLDER/classes.json names them. With --on-error skip a picture that cannot be
    read has a row without a prediction in the CSV, and why.
    """
    from diffeat.cli import (
        segment_head,
        segment_parts,
        segment_proposals,
        segment_vpd,
        segment_words,
    )

    way = _way(values)
    of_head = segment_vpd.run if way == "head" and segment_vpd.is_vpd(values["head"]) else (
        segment_head.run
    )  # fmt: skip
    runs = {"head": of_head, "words": segment_words.run, "parts": segment_parts.run,
            "proposals": segment_proposals.run}  # fmt: skip
    if way == "head":
        segment_proposals.refuse_odise(values["head"])
    runs[way](what, pictures, values)


def _way(values: dict[str, Any]) -> str:
    """What says the masks: a key of `WAYS`.

    Raises:
        click.UsageError: none or several of them; options of another one.
    """
    asked = [way for way in WAYS if _given(values[way])]
    if asked == ["head", "proposals"]:  # ODISE: the head names what is proposed
        asked = ["proposals"]
    if len(asked) != 1:
        said = " and ".join(f"--{way}" for way in asked) or "none of them"
        raise click.UsageError(
            f"{said}; expected one: --head H.safetensors, --words cat,dog, --parts diffcut, or "
            "--proposals MASK2FORMER"
        )
    (way,) = asked
    for other, names in WAYS.items():
        for name in names if other != way else ():
            if _given(values[name]):
                raise click.UsageError(f"--{name.replace('_', '-')} is for --{other}, not for "
                                       f"--{way}")  # fmt: skip
    for name in OF_MODEL if way in ("head", "proposals") else ():
        if values[name] is not None:
            knows = "a head knows its features" if way == "head" else "proposals need none"
            raise click.UsageError(f"--{name.replace('_', '-')} is for --words and --parts; "
                                   f"{knows}")  # fmt: skip
    return way


def _given(value: Any) -> bool:
    """Whether an option was said; 0 and "" are."""
    return value is not None and value is not False
