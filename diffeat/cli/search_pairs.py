"""`diffeat search --task matching`: its options, and the maps of a model through a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import click
from click.core import ParameterSource

from diffeat.cli.dense_options import DENSE
from diffeat.cli.extracted import extracted, features_file, features_folder
from diffeat.cli.options import model_fields, open_pictures, option, positive_numbers

OWN = ("pair_list", "test_pairs", "alphas", "reference", "aggregate", "resolution", "outside",
       "missing")  # fmt: skip
"""Options of matching alone."""
LABELLED = ("score", "labels", "test_labels", "columns", "groups")
"""Options of tasks whose pictures have a label each."""
OTHERS = ("score", "penalties", "labels", "test_labels", "columns", "groups", "test", "limit",
          "duplicates")  # fmt: skip
"""Options of tasks whose pictures have a target each."""


missing_option = option(
    "--missing", type=click.Choice(("refuse", "leave-out")), default="refuse", show_default=True,
    help="matching, masks, depth: pairs or masks whose pictures a file lacks.",
)  # fmt: skip


def pairs_options(command: Callable) -> Callable:
    """--pairs, --test-pairs, and how what is found is counted."""
    for each in (
        option("--outside", type=click.Choice(("refuse", "wrong")), default="refuse",
               show_default=True, help="matching: points that a crop does not show."),
        option("--resolution", type=click.Choice(("picture", "similarity", "site")),
               default="picture", show_default=True, help="matching: features as if upsampled to "
               "the picture, the similarity map upsampled, or the nearest site."),
        option("--aggregate", default="point", show_default=True, metavar="WORD",
               help="matching: point, pair, picture, class, class-weighted, class-pair."),
        option("--reference", type=click.Choice(("box", "image", "extent")), help="matching: what "
               "errors are measured in (default: the target's box, else its picture)."),
        option("--alpha", "alphas", callback=positive_numbers, help="matching: a point is found "
               "within alpha times the reference; cells are judged by the first (default: "
               "0.1,0.05; depth: 0.02,0.01,0.04)."),
        option("--test-pairs", metavar="LIST", help="matching: pairs of the test; without, those "
               "of --pairs are split by their groups."),
        option("--pairs", "--pair-list", "pair_list", metavar="LIST", help="matching: pairs with "
               "what corresponds: a CSV, a named set (spair:test), or a folder in its layout."),
    ):  # fmt: skip
        command = each(command)
    return command


def check_pairs_options(kind: Any) -> None:
    """UsageError for options that the task has no use for."""
    context = click.get_current_context()
    unused, text = _unused(kind.takes)
    wrong = [
        one.opts[0]
        for one in context.command.params
        if one.name in unused
        and context.get_parameter_source(one.name) is ParameterSource.COMMANDLINE
    ]
    asked = context.params
    if (
        kind.takes == "pairs"
        and asked.get("save_path")
        and not (asked["mixer"] or asked["selectors"])
    ):
        raise click.UsageError("--save: matching keeps no head, only a mixer that is trained; ask "
                               "for one with --mixer and --split 0.6,0.2,0.2")  # fmt: skip
    if wrong:
        raise click.UsageError(f"{', '.join(wrong)}: {text}")


def _unused(takes: str) -> tuple[tuple[str, ...], str]:
    """Options that tasks of these targets have no use for, and what to say of them."""
    if takes == "pairs":
        return (*OTHERS, *DENSE), (
            "of tasks whose pictures have labels or masks; matching takes pairs (--pairs, "
            "--test-pairs) and keeps no head"
        )
    pairs = tuple(name for name in OWN if name != "missing")
    if takes in ("masks", "depth"):
        return (*pairs, *LABELLED), (
            "not for segmentation and depth estimation, which take --masks or --depth; groups are "
            "those of the set, and --head says what learns"
        )
    return (*OWN, *DENSE), (
        "for --task matching, homography and depth, or with --masks and --depth"
    )


def pair_choice(values: dict[str, Any], pairs: str | None = None) -> Any:
    """The `PairChoice` of the options; `pairs` where no option names them."""
    from diffeat.search.matching.task import PairChoice

    given = {name: values[name] for name in OWN if name != "pair_list" and name in values}
    if given.get("alphas") is not None:
        given["alphas"] = tuple(given["alphas"])
    return PairChoice(values["pair_list"] or pairs, **given)


def maps_of_model(
    stack: ExitStack, what: str, second: str | None, values: dict[str, Any], spec: Any
) -> tuple[Any, list[Any]]:
    """The pairs of a search straight from a model, and feature files of their pictures' maps.

    Every picture is computed once. The files lie in --out, where a second run finds them; without
    it they go with `stack`.
    """
    from diffeat.backbones import ModelRequest
    from diffeat.search.matching.task import parts_of

    if values["pool"] not in (None, "none"):
        raise click.UsageError(f"--pool {values['pool']}: vectors, in which no place can be found; "
                               "leave it out, matching takes maps")  # fmt: skip
    spec = replace(spec, pool="none")
    choice = pair_choice(values, second)
    targets = choice.opened()
    choice.check(targets)
    parts_of(targets, values["split"], values["seed"])  # before hours of work
    folder = features_folder(stack, values["out"], "--out FOLDER")
    request = ModelRequest(what, **model_fields(values))
    stores = []
    for source in _sources(targets, second if values["pair_list"] else None):
        path = folder / features_file("maps", spec, request, source)
        stores.append(
            extracted(stack, request, source, spec, path, values, kept=bool(values["out"]))
        )
    return choice, stores


def _sources(targets: Sequence[Any], pictures: str | None) -> Sequence[Any]:
    """The pictures of the pairs: those that are named, or what each list says, each once."""
    return sources_of(targets) if pictures is None else [open_pictures(pictures)]


def sources_of(targets: Sequence[Any]) -> list[Any]:
    """The pictures of each list of pairs that no earlier one has."""
    found, seen = [], set()
    for one in targets:
        source = one.pictures()
        rows = [row for row, name in enumerate(source.ids) if name not in seen]
        seen |= set(source.ids)
        if rows:
            found.append(source if len(rows) == len(source) else source.take(rows))
    return found
