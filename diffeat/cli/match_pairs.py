"""`diffeat match --pairs`: many pairs of pictures, and how often their points are found."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import numpy as np

from diffeat.cli.ending import note, resumable
from diffeat.cli.match_cells import cells_words, check_one, refuse_options_of_models, spec_of_maps
from diffeat.cli.match_options import matcher_of
from diffeat.cli.match_two import match_rows, match_table, write_matches
from diffeat.cli.options import model_fields, print_json
from diffeat.errors import PictureError

NOT_KEPT = "no pair is kept; with --out FOLDER finished pairs are, and a second run goes on"


def match_pairs(what: str, more: Sequence[str], from_file: bool, values: dict[str, Any]) -> None:
    """Score the pairs of a list or set, or match those that have no truth."""
    matcher, ways = matcher_of(values), _conventions(values)
    targets, truth = _targets(values)
    left = f"finished pairs are kept in {values['out']}; run the same command again"
    with ExitStack() as stack, resumable(left if values["out"] else NOT_KEPT):
        bound = (_of_files if from_file else _of_model)(stack, (what, *more), targets, values)
        tables = _scored(matcher, bound, ways, values) if truth else []
        matches = list(_matches(matcher, bound)) if values["output"] or not truth else []
    if values["output"]:
        write_matches(values["output"], matches)
    if values["as_json"]:
        found = {"tables": [one.to_dict() for one in tables]} if truth else {"matches": matches}
        print_json({"features": what, "pairs": values["pairs"], **found})
    elif truth:
        click.echo("\n\n".join(one.table() for one in tables))
    else:
        click.echo(f"{what}: {cells_words(bound.keys)}; {len(bound):,} pairs without a truth")
        click.echo("\n".join(match_table(matches)))
    _write(tables, values)


def _targets(values: dict[str, Any]) -> tuple[Any, bool]:
    """The pairs, and whether they say where points truly lie."""
    from diffeat.targets.pairs import open_pairs

    drop = values["outside"] == "drop"
    targets = open_pairs(values["pairs"], outside="drop" if drop else "refuse")
    truth = targets.truth(0).target_points is not None
    if not truth and not (values["output"] or values["as_json"]):
        raise click.UsageError(
            f"{values['pairs']} says nothing of where points lie in the targets, so nothing can be "
            "counted; write the matches with -o M.csv"
        )
    return targets, truth


def _conventions(values: dict[str, Any]) -> tuple[Any, ...] | None:
    """The ways of counting that options name; None leaves them to the pairs."""
    from probes.metrics.conventions import AGGREGATES, PRESETS, Convention, conventions_of

    presets, aggregates = values["preset"] or (), values["aggregate"] or ()
    if presets and (aggregates or values["reference"]):
        raise click.UsageError("--preset says what --reference and --aggregate say; expected "
                               "one or the other")  # fmt: skip
    for option, given, known in (
        ("preset", presets, PRESETS),
        ("aggregate", aggregates, AGGREGATES),
    ):
        if wrong := [name for name in given if name not in known]:
            raise click.UsageError(
                f"--{option} {wrong[0]!r}; expected {', '.join(known)}, several with commas"
            )
    if presets:
        return tuple(way for name in presets for way in conventions_of(name))
    if not (aggregates or values["reference"]):
        return None
    reference = values["reference"] or "box"
    return tuple(Convention(reference, one) for one in aggregates or ("point", "pair"))


def _usual(bound: Any) -> tuple[Any, ...]:
    """Per point and per pair, by the box where each target has one, else by its picture."""
    from probes.metrics.conventions import Convention

    reference = "image" if np.isnan(bound.boxes).any() else "box"
    return Convention(reference, "point"), Convention(reference, "pair")


def _of_files(stack: ExitStack, names: Sequence[str], targets: Any, values: dict[str, Any]) -> Any:
    """The pairs, bound to feature files that share the pictures."""
    from diffeat.store import FeatureStore

    refuse_options_of_models(names[0], values)
    stores = [stack.enter_context(FeatureStore(name)) for name in names]
    steps = stores[0].native(values["timesteps"])
    bound = _bound(targets, stores, values, blocks=values["blocks"], timesteps=steps)
    check_one(names[0], bound.keys, values)
    return bound


def _bound(targets: Any, stores: Sequence[Any], values: dict[str, Any], **cells: Any) -> Any:
    from diffeat.search.matching import bind

    outside = "wrong" if values["outside"] == "wrong" else "refuse"
    return bind(targets, stores, outside=outside, missing=values["missing"], **cells)


def _of_model(stack: ExitStack, names: Sequence[str], targets: Any, values: dict[str, Any]) -> Any:
    """The pairs, bound to the maps of their pictures, each of which is computed once."""
    from diffeat.backbones import ModelRequest
    from diffeat.extraction import Plan
    from diffeat.jobs import extract_to_file
    from diffeat.loading import load
    from diffeat.noise import plain_t
    from diffeat.store import FeatureStore

    model = names[0]
    spec = spec_of_maps(model, values)
    plan = Plan(load(model, "meta"), spec)
    cells = [(block.name, plain_t(level.t)) for block in plan.blocks for level in plan.levels]
    check_one(model, cells, values)  # before hours of work
    path = values["cache"]
    if path is None:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="diffeat-match-"))
        path = Path(folder) / "maps.h5"
        note("maps go to a temporary file that is removed at the end; --cache F.h5 keeps them")
    run = {name: values[name] for name in ("batch_size", "workers", "on_error")}
    request = ModelRequest(model, **model_fields(values))
    try:
        done = extract_to_file(request, targets.pictures(), spec, path, announce=True, **run)
    except PictureError as error:
        raise click.ClickException(
            f"{error}; or leave such out with --on-error skip --missing leave-out"
        ) from error
    if values["cache"]:
        note(f"{path}: {done.pictures:,} pictures, {done.computed:,} computed now")
    return _bound(targets, [stack.enter_context(FeatureStore(path))], values)


def _scored(matcher: Any, bound: Any, ways: Any, values: dict[str, Any]) -> list[Any]:
    """What was counted, of all cells as one or of each."""
    from diffeat.search.journal import Journal
    from diffeat.search.judge import Mix
    from diffeat.search.matching import score_pairs

    journal = Journal(values["out"])
    candidates = bound.keys if values["each"] else [Mix(bound.keys)]
    found = [
        score_pairs(matcher, bound, one, ways or _usual(bound), values["alphas"], journal=journal)
        for one in candidates
    ]
    if values["out"]:
        note(f"{values['out']}: {journal.found} pieces of work were there already, "
             f"{journal.computed} computed now")  # fmt: skip
    return found


def _matches(matcher: Any, bound: Any) -> Iterator[dict[str, Any]]:
    """Rows of every match, in the order of the pairs."""
    from diffeat.progress import counted
    from diffeat.search.matching.stream import stream

    rows, targets = np.arange(len(bound)), bound.targets
    found: dict[int, list[dict[str, Any]]] = {}
    with counted(len(bound), desc="match", unit="pairs") as bar:
        for pair, matches in stream(matcher, bound, bound.cells(), rows):
            both = targets.source[pair], targets.target[pair]
            names, points = targets.truth(pair).names, bound.pairs.source_points[pair]
            found[pair] = match_rows(both, points, matches, names)
            bar.update()
    for pair in rows.tolist():
        yield from found[pair]


def _write(tables: Sequence[Any], values: dict[str, Any]) -> None:
    """The tables as CSV; of several cells one file each."""
    for option, rows in (("csv_path", "pair"), ("by_class", "class")):
        path = values[option]
        if path is None:
            continue
        if len(tables) == 1:
            tables[0].write_csv(path, rows=rows)
        for place, one in enumerate(tables if len(tables) > 1 else ()):
            one.write_csv(path.with_stem(f"{path.stem}-{place}"), rows=rows)
