"""`diffeat match`."""

from __future__ import annotations

from pathlib import Path

import click

from diffeat.cli.match_options import (
    box_of,
    frames_options,
    given,
    matcher_options,
    points_options,
    stride_of,
)
from diffeat.cli.match_page import check_count
from diffeat.cli.options import (
    batch_size_option,
    comma_list,
    json_option,
    model_options,
    on_error_option,
    option,
    positive_numbers,
    speed_options,
    threads_option,
    workers_option,
)
from diffeat.cli.outputs import HTML, PICTURES, OutputPath, command
from diffeat.cli.spec_options import recipe_option, spec_file_option, spec_options
from diffeat.specs import HELP

WARPED = ("region", "heat_path", "warp_path", "sheet_path", "stride", "html_path")
"""Options of two pictures alone."""
SHOWN = ("points", "points_file", "grid", "png_path", "mask", "pictures_at", "category")
"""Options of two pictures and of clips."""
FRAMES = ("truth", "chained", "top_k", "last")
"""Options of clips alone."""
SCORED = ("alphas", "reference", "aggregate", "preset", "each", "out", "by_class", "outside")
"""Options of lists of pairs alone."""
MANY = ("cache", "csv_path", "missing", "on_error")
"""Options of lists of pairs and of clips."""
KINDS = {
    "two pictures": (*FRAMES, *SCORED, *MANY),
    "lists of pairs (--pairs)": (*WARPED, *SHOWN, *FRAMES),
    "a clip": (*WARPED, *SCORED),
}
"""What is matched → options that are for something else."""
MADE = tuple(name for name in HELP if name not in ("timesteps", "blocks", "pool", "low_pass"))
"""Fields of a spec that say how the features of a model are made; `--low-pass` is of tracked points
here."""


@command()
@click.argument("what", metavar="FILE|MODEL")
@click.argument("pictures", nargs=-1, metavar="[A B … | FILE | FRAMES]")
@option("--pairs", "--pair-list", "pairs", metavar="LIST|SET", help="Many pairs, with what "
        "corresponds: a CSV, a named set (spair:test) or a folder in its layout.")  # fmt: skip
@option("-t", "--timesteps", callback=comma_list, help="Noise levels (of a file: only these).")
@option("-b", "--blocks", callback=comma_list, help="Blocks (of a file: only these).")
@option("--combine", type=click.Choice(("sum", "concat")), help="Several cells at once: the sum "
        "of their similarities, or their vectors as one.")  # fmt: skip
@option("--each", is_flag=True, help="--pairs: a table for each cell.")
@matcher_options
@option("--check", type=click.FloatRange(0), metavar="PX", help="Not valid where a match, matched "
        "back, misses its point by more; of --pairs such a match counts as wrong.")  # fmt: skip
@points_options
@frames_options
@option("--region", callback=box_of, metavar="X1,Y1,X2,Y2", help="Look only there in the second "
        "picture.")  # fmt: skip
@option("-o", "--output", type=OutputPath((".csv",), either=True), help="Write every match as CSV; "
        "FRAMES --mask: a folder for the masks.")  # fmt: skip
@option("--png", "png_path", type=OutputPath(PICTURES, strict=True), help="Draw both pictures "
        "with a line per match; FRAMES: some of them.")  # fmt: skip
@option("--heat", "heat_path", type=OutputPath(PICTURES, strict=True), help="Draw how like the "
        "second picture is to each point (of the first few).")  # fmt: skip
@option("--mask", type=click.Path(path_type=Path, dir_okay=False), help="Of the first picture, a "
        "PNG of labels: carried to the second by --warp; of FRAMES to all of them.")  # fmt: skip
@option("--warp", "warp_path", type=OutputPath((".png",), strict=True), help="The second picture, "
        "or with --mask its labels, made of what the first shows at the same places.")  # fmt: skip
@option("--warp-sheet", "sheet_path", type=OutputPath(PICTURES, strict=True), help="Draw both "
        "pictures and what was carried over.")  # fmt: skip
@option("--stride", callback=stride_of, default="4", show_default=True, metavar="PX|site",
        help="--warp: match every so many-th pixel, or sites of the map.")  # fmt: skip
@option("--html", "html_path", type=OutputPath(HTML, strict=True), help="Write a page to look "
        "at, also of up to 8 pictures: click a point, choose t and block.")  # fmt: skip
@option("--pictures", "pictures_at", metavar="PICTURES", help="FILE: where the pictures lie, if "
        "not where it says; for what is drawn.")  # fmt: skip
@option("--category", metavar="WORD", help="MODEL: what both pictures show, for a prompt or "
        "recipe with {class}.")  # fmt: skip
@option("--alphas", "--alpha", "alphas", callback=positive_numbers, default="0.05,0.1,0.15",
        show_default=True, help="--pairs: found is what lies within alpha·reference.")  # fmt: skip
@option("--reference", type=click.Choice(("box", "image", "extent")), help="--pairs: what errors "
        "are measured in: the larger side of the target's box, of the picture, or of the key "
        "points' extent.")  # fmt: skip
@option("--aggregate", callback=comma_list, metavar="point|pair|picture|class,…",
        help="--pairs: what is averaged.")  # fmt: skip
@option("--preset", callback=comma_list, metavar="dift|sd-dino|geoaware|hyperfeatures,…",
        help="--pairs: count as a paper does.")  # fmt: skip
@option("--outside", type=click.Choice(("refuse", "wrong", "drop")), default="refuse",
        show_default=True, help="--pairs: wrong: points that a crop does not show count as not "
        "found; drop: those outside of their picture are left out.")  # fmt: skip
@option("--missing", type=click.Choice(("refuse", "leave-out")), default="refuse",
        show_default=True, help="--pairs, FRAMES: pictures that a file lacks.")  # fmt: skip
@option("--out", type=OutputPath(folder=True), help="--pairs: folder that keeps finished pairs; a "
        "second run matches none of them again.")  # fmt: skip
@option("--cache", type=OutputPath((".h5", ".hdf5")), help="MODEL --pairs, FRAMES: keep the "
        "maps in this file; a second run computes none of them again.")  # fmt: skip
@option("--csv", "csv_path", type=OutputPath((".csv",)), help="--pairs: write the counts of each "
        "pair; FRAMES --mask: areas of each frame, and J and F with --truth.")  # fmt: skip
@option("--class-csv", "by_class", type=OutputPath((".csv",)), help="--pairs: write the table by "
        "class.")  # fmt: skip
@recipe_option
@spec_file_option
@spec_options(*MADE, before="MODEL: ")
@batch_size_option("MODEL: ")
@workers_option("MODEL: ")
@on_error_option
@model_options
@speed_options
@json_option
@threads_option
def match(what, pictures, **values) -> None:
    """Find points of one picture in another, and say how often that is right.

    \b
    diffeat match MODEL A.jpg B.jpg -t 20 -b up.1 --png lines.png   two pictures
    diffeat match FILE.h5 A B --points "120,80 30,40" -o M.csv      two of a file, by id
    diffeat match FILE.h5 A B C --html page.html                    a page to click on
    diffeat match FILE.h5 [FILE2.h5] --pairs spair:test             the share of points found
    diffeat match MODEL --pairs LIST.csv -t 20 -b up.1 --cache F.h5 the same, from a model
    diffeat match FILE.h5|MODEL FRAMES --mask first.png -o masks/   a mask through a clip
    diffeat match FILE.h5|MODEL FRAMES --points "120,80" -o T.csv   points through a clip

    Without points a grid of them is looked for. x and y are pixels of the upright picture, 0,0 the
    centre of the first one; the CSV has source, target, source_x, source_y, target_x, target_y,
    score, valid. A LIST has a point a row (source,target,source_x,source_y,target_x,target_y;
    docs/matching.md); of one without target_x and target_y the matches are written alone. Features
    are computed once a picture. FRAMES is a folder of frames, a video, or a clip of FILE.h5
    (docs/video.md).
    """
    from diffeat.cli.match_frames import match_frames
    from diffeat.cli.match_pairs import match_pairs
    from diffeat.cli.match_two import match_two

    from_file = Path(what).suffix in (".h5", ".hdf5")
    _check_usage(what, pictures, from_file, values)
    if values["pairs"]:
        match_pairs(what, pictures, from_file, values)
    elif len(pictures) == 1:
        match_frames(what, pictures[0], from_file, values)
    else:
        match_two(what, pictures, from_file, values)


def _check_usage(what: str, pictures: tuple[str, ...], from_file: bool, values: dict) -> None:
    """UsageError unless arguments and options go together."""
    if values["pairs"]:
        most = 1 if from_file else 0
        if len(pictures) > most or not all(name.endswith((".h5", ".hdf5")) for name in pictures):
            raise click.UsageError(
                f"{' '.join(pictures)} beside --pairs {values['pairs']}; the list names the "
                "pictures" + (", so at most another feature file is expected" if from_file else "")
            )
    elif len(pictures) not in ((2,) if values["html_path"] else (1, 2)):
        check_count(what, pictures, values)
    kind = "lists of pairs (--pairs)" if values["pairs"] else (
        "a clip" if len(pictures) == 1 else "two pictures"
    )  # fmt: skip
    if wrong := given(KINDS[kind]):
        raise click.UsageError(f"{', '.join(wrong)}: not for {kind}")
    if kind == "a clip":
        _check_clip(pictures[0], values)
        return
    if values["output"] and values["output"].is_dir():
        raise click.UsageError(f"-o {values['output']} is a folder; expected a .csv")
    if values["mask"] and not (values["warp_path"] or values["sheet_path"]):
        raise click.UsageError("--mask is carried to the second picture: give --warp OUT.png, or "
                               "--warp-sheet to look at it")  # fmt: skip


def _check_clip(frames: str, values: dict) -> None:
    """UsageError unless a mask or points go through a clip, and the output is of their kind."""
    points = given(("points", "points_file", "grid", "chained"))
    if values["mask"] is None and not points:
        raise click.UsageError(f"what is to be followed through {frames}: --mask first.png, or "
                               "--points; of two pictures name both")  # fmt: skip
    if values["mask"] is not None and points:
        raise click.UsageError(f"--mask with {', '.join(points)}; expected one of them")
    if values["mask"] is None:
        if wrong := given(("truth", "csv_path", "top_k", "last")):
            raise click.UsageError(f"{', '.join(wrong)}: for --mask")
        if values["output"] and values["output"].is_dir():
            raise click.UsageError(f"-o {values['output']} is a folder; expected a .csv for points")
    elif values["output"] and (values["output"].suffix == ".csv" or values["output"].is_file()):
        raise click.UsageError(f"-o {values['output']}: masks go into a folder; areas into --csv")
    wanted = ("output", "png_path", "as_json") + (("csv_path", "truth") if values["mask"] else ())
    if not any(values[name] for name in wanted):
        what = "-o FOLDER, --png, --csv or --truth" if values["mask"] else "-o TRACKS.csv or --png"
        raise click.UsageError(f"nothing would come of it: give {what}, or --json")
