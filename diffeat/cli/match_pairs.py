"""`diffeat match --pairs`: many pairs of pictures, and how often their points are found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from typing import Any, NamedTuple

import click

import diffeat.companions  # noqa: F401 - before anything imports `probes`
from diffeat.cli.ending import note, resumable
from diffeat.cli.extracted import extracted, features_folder
from diffeat.cli.match_cells import check_one, refuse_options_of_models, spec_of_maps
from diffeat.cli.match_options import COUNTED, given, matcher_of
from diffeat.cli.match_two import SHOWN, match_rows, match_table, write_matches
from diffeat.cli.options import model_fields, print_json
from diffeat.errors import PictureError

NOT_KEPT = "no pair is kept; with --out FOLDER finished pairs are, and a second run goes on"


class Result(NamedTuple):
    """What one matcher made of all pairs.

    Attributes:
        name: of its cells.
        scored: what was counted; None of pairs without a truth.
        found: where each point was found; None where nobody asks.
    """

    name: str
    scored: Any
    found: Any


def match_pairs(what: str, more: Sequence[str], from_file: bool, values: dict[str, Any]) -> None:
    """Score the pairs of a list or set, or match those that have no truth."""
    matcher = matcher_of(values)
    _check_conventions(values)
    targets, truth = _targets(values)
    ways = _conventions(targets, values) if truth else ()
    left = f"finished pairs are kept in {values['out']}; run the same command again"
    with ExitStack() as stack, resumable(left if values["out"] else NOT_KEPT):
        bound = (_of_files if from_file else _of_model)(stack, (what, *more), targets, values)
        results = _results(matcher, bound, ways, values)
        _write(results, bound, values)
        _say(what, results, bound, matcher, values)


def _say(
    what: str, results: Sequence[Result], bound: Any, matcher: Any, values: dict[str, Any]
) -> None:
    """What was found, for people or programs."""
    if values["as_json"]:
        print_json({"features": what, "pairs": values["pairs"],
                    **_plain(results, bound, matcher, values["check"])})  # fmt: skip
    elif results[0].scored is not None:
        click.echo("\n\n".join(one.scored.table() for one in results))
    else:
        _say_matches(what, results, bound, matcher, values["check"])


def _say_matches(
    what: str, results: Sequence[Result], bound: Any, matcher: Any, check: float | None
) -> None:
    """The first matches of pairs without a truth, and by what they were found."""
    from diffeat.search.matching.rules import matcher_text
    from diffeat.search.matching.scored import pairs_text, told_text

    points = sum(map(len, bound.pairs.source_points))
    said = f"{pairs_text(bound, points)}, without a truth{told_text(bound.conditioned)}"
    for one in results:
        click.echo(f"{what}: {one.name}; {said}")
        click.echo(matcher_text(matcher, check))
        click.echo("\n".join(match_table(list(islice(_rows(one, bound), SHOWN)), points)))


def _plain(
    results: Sequence[Result], bound: Any, matcher: Any, check: float | None
) -> dict[str, Any]:
    """The same as plain values."""
    from diffeat.search.matching.rules import matcher_text

    if results[0].scored is not None:
        return {"tables": [one.scored.to_dict() for one in results]}
    rows = [row for one in results for row in _rows(one, bound, len(results) > 1)]
    return {"cells": [one.name for one in results], "matcher": matcher_text(matcher, check),
            "left_out": dict(bound.left_out), "noted": bound.noted, "matches": rows}  # fmt: skip


def _targets(values: dict[str, Any]) -> tuple[Any, bool]:
    """The pairs, and whether they say where points truly lie."""
    from diffeat.targets.pairs import open_pairs

    drop = values["outside"] == "drop"
    targets = open_pairs(values["pairs"], outside="drop" if drop else "refuse")
    truth = targets.truth(0).target_points is not None
    if truth:
        return targets, True
    nothing = f"{values['pairs']} says nothing of where points lie in the targets, so nothing can "
    if counted := given(COUNTED):
        raise click.UsageError(f"{nothing}be counted; leave {', '.join(counted)} out")
    if not (values["output"] or values["as_json"]):
        raise click.UsageError(f"{nothing}be counted; write the matches with -o M.csv")
    return targets, False


def _check_conventions(values: dict[str, Any]) -> None:
    """UsageError for ways of counting that there are not."""
    from probes.metrics.conventions import AGGREGATES, PRESETS

    presets, aggregates = values["preset"] or (), values["aggregate"] or ()
    if presets and (aggregates or values["reference"]):
        raise click.UsageError("--preset says what --reference and --aggregate say; expected "
                               "one or the other")  # fmt: skip
    for option, asked, known in (
        ("preset", presets, PRESETS),
        ("aggregate", aggregates, AGGREGATES),
    ):
        if wrong := [name for name in asked if name not in known]:
            raise click.UsageError(
                f"--{option} {wrong[0]!r}; expected {', '.join(known)}, several with commas"
            )


def _conventions(targets: Any, values: dict[str, Any]) -> tuple[Any, ...]:
    """The ways of counting: those of options, else per point and per pair, by the box where each
    target has one, else by its picture.

    Raises:
        SpecError: the pairs lack what they ask for; before any feature is computed.
    """
    from diffeat.search.matching.scored import check_said
    from probes.metrics.conventions import Convention, conventions_of

    if values["preset"]:
        ways = tuple(way for name in values["preset"] for way in conventions_of(name))
    else:
        boxes = (targets.truth(pair).target_box for pair in range(len(targets)))
        boxed = values["reference"] is None and all(box is not None for box in boxes)
        reference = values["reference"] or ("box" if boxed else "image")
        ways = tuple(Convention(reference, one) for one in values["aggregate"] or ("point", "pair"))
    check_said(targets, ways)
    return ways


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
    from diffeat.search.stored import warn_of_pairs_seen

    outside = "wrong" if values["outside"] == "wrong" else "refuse"
    found = bind(targets, stores, outside=outside, missing=values["missing"], **cells)
    warn_of_pairs_seen(found)
    return found


def _of_model(stack: ExitStack, names: Sequence[str], targets: Any, values: dict[str, Any]) -> Any:
    """The pairs, bound to the maps of their pictures, each of which is computed once."""
    from diffeat.backbones import ModelRequest
    from diffeat.extraction import Plan
    from diffeat.loading import load
    from diffeat.noise import plain_t

    model = names[0]
    spec = spec_of_maps(model, values)
    plan = Plan(load(model, "meta"), spec)
    cells = [(block.name, plain_t(level.t)) for block in plan.blocks for level in plan.levels]
    check_one(model, cells, values)  # before hours of work
    path = values["cache"] or features_folder(stack, None, "--cache F.h5") / "maps.h5"
    request = ModelRequest(model, **model_fields(values))
    try:
        store = extracted(stack, request, targets.pictures(), spec, path, values,
                          kept=bool(values["cache"]))  # fmt: skip
    except PictureError as error:
        raise click.ClickException(
            f"{error}; or leave such out with --on-error skip --missing leave-out"
        ) from error
    return _bound(targets, [store], values)


def _results(matcher: Any, bound: Any, ways: Sequence[Any], values: dict[str, Any]) -> list[Result]:
    """What was found by all cells as one, or by each; every point is matched once.

    Args:
        ways: of counting; none of pairs without a truth.
    """
    from diffeat.search.journal import Journal
    from diffeat.search.judge import Mix
    from diffeat.search.matching.scored import match_all, score_pairs

    journal, results = Journal(values["out"]), []
    how = {"journal": journal, "check": values["check"]}
    for one in [Mix((key,)) for key in bound.keys] if values["each"] else [Mix(bound.keys)]:
        if ways:
            scored = score_pairs(matcher, bound, one, ways, values["alphas"],
                                 keep=bool(values["output"]), **how)  # fmt: skip
            results.append(Result(scored.name, scored, scored.found))
        else:
            results.append(Result(str(one), None, match_all(matcher, bound, one, **how)))
    if values["out"]:
        note(f"{values['out']}: {journal.found} pieces of work were there already, "
             f"{journal.computed} computed now")  # fmt: skip
    return results


def _rows(result: Result, bound: Any, named: bool = False) -> Iterator[dict[str, Any]]:
    """Rows of every match, in the order of the pairs.

    Args:
        named: say in each of which cells.
    """
    targets, cells = bound.targets, {"features": result.name} if named else {}
    for pair, points in enumerate(bound.pairs.source_points):
        both = targets.source[pair], targets.target[pair]
        rows = match_rows(both, points, result.found[pair], targets.truth(pair).names)
        yield from ({**row, **cells} for row in rows)


def _write(results: Sequence[Result], bound: Any, values: dict[str, Any]) -> None:
    """The tables as CSV; of several cells one file each, numbered."""
    for option in ("output", "csv_path", "by_class"):
        path = values[option]
        for place, one in enumerate(results if path else ()):
            several = len(results) > 1
            own = path.with_stem(f"{path.stem}-{place}") if several else path
            if option == "output":
                write_matches(own, _rows(one, bound))
            else:
                one.scored.write_csv(own, rows="pair" if option == "csv_path" else "class")
            if several:
                note(f"{own}: {one.name}")
