"""`diffeat match` of two pictures: their maps, the points, and what is written of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np

import diffeat.companions  # noqa: F401 - before anything imports `probes`
from diffeat.cli.match_cells import (
    cells_words,
    check_one,
    named,
    refuse_options_of_models,
    spec_of_maps,
)
from diffeat.cli.match_drawn import draw
from diffeat.cli.match_options import Points, matcher_of, points_of, told
from diffeat.cli.match_page import page_alone, page_dict, page_lines, write_html
from diffeat.cli.options import model_fields, print_json
from diffeat.errors import SourceError, SpecError, StoreError, nearest

COLUMNS = ("source", "target", "source_x", "source_y", "target_x", "target_y", "score", "valid")
"""Of the table of matches; where points have names, a column `point` follows."""
SIDES = ("source", "target")
SHOWN = 20
"""Matches on the terminal."""


class Side(NamedTuple):
    """One of two pictures: its name, its `probes.maps.Maps`, and what loads its pixels."""

    name: str
    maps: Any
    load: Callable[[], Any]


class Found(NamedTuple):
    """What was matched by what."""

    what: str
    cells: tuple
    matcher: Any
    source: Side
    target: Side
    points: Points
    matches: Any

    @property
    def title(self) -> str:
        """Of what is drawn."""
        return f"{self.what}: {cells_words(self.cells)}"

    def rows(self) -> list[dict[str, Any]]:
        """The table of matches."""
        both = self.source.name, self.target.name
        return match_rows(both, self.points.at, self.matches, self.points.names)


def match_two(what: str, names: tuple[str, ...], from_file: bool, values: dict) -> None:
    """Match two pictures of a file or straight from a model, and write what is asked for; of more
    than two, or of several cells, a page."""
    matcher, page = matcher_of(values), None
    with ExitStack() as stack:
        sides_of = _from_file if from_file else _from_model
        sides, cells = sides_of(stack, what, names, values)
        if page_alone(names, cells, values):
            page = write_html(what, sides, cells, values["html_path"])
            if values["as_json"]:
                return print_json({"features": what, "page": page_dict(page)})
            return click.echo("\n".join(page_lines(page)))
        source, target = sides
        _check_region(values["region"], target)
        points = points_of(values, source.maps, source.name)
        with told():
            matches = matcher.match(source.maps, target.maps, points.at,
                                    region=values["region"], check=values["check"])  # fmt: skip
        found = Found(what, cells, matcher, source, target, points, matches)
        if values["output"]:
            write_matches(values["output"], found.rows())
        draw(found, values)
        if values["html_path"]:
            page = write_html(what, sides, cells, values["html_path"], points.at[:1].ravel())
    say(found, values, page)


def _from_model(
    _stack: ExitStack, what: str, names: tuple[str, ...], values: dict
) -> tuple[list[Side], tuple]:
    """Pictures straight from a model; their maps are kept in memory."""
    from diffeat.backbones import ModelRequest
    from diffeat.extraction import Plan, extract, load_for
    from diffeat.noise import plain_t
    from diffeat.progress import track
    from probes.cells import Cells

    spec = named(spec_of_maps(what, values), values["category"])
    sources = [_one_picture(name) for name in names]
    backbone = load_for(ModelRequest(what, **model_fields(values)), spec)
    plan = Plan(backbone, spec)
    cells = tuple((block.name, plain_t(level.t)) for block in plan.blocks for level in plan.levels)
    if not page_alone(names, cells, values):
        check_one(what, cells, values)
    sides = []
    for source in track(sources, desc="extract", unit="pictures"):
        found = extract(backbone, source, spec, batch_size=values["batch_size"])
        placed = {"sizes": found.sizes, "placements": found.placements}
        own = Cells({cell: found[cell] for cell in cells}, **placed, input_size=plan.size)
        with told():
            sides.append(Side(source.ids[0], own.maps(0), lambda one=source: one.load(0)))
    return sides, cells


def _one_picture(name: str) -> Any:
    """The source of a single picture.

    Raises:
        SpecError: it stands for several.
    """
    from diffeat.cli.options import open_pictures

    source = open_pictures(name)
    if len(source) != 1:
        raise SpecError(
            f"{name} holds {len(source):,} pictures; expected one file. Of many pairs give a list: "
            "diffeat match MODEL --pairs LIST.csv"
        )
    return source


def _from_file(
    stack: ExitStack, what: str, names: tuple[str, ...], values: dict
) -> tuple[list[Side], tuple]:
    """Pictures of a feature file, by their ids."""
    from diffeat.search.matching.bound import bind
    from diffeat.store import FeatureStore, find_originals
    from diffeat.targets.pairs import PointPairs, Truth

    refuse_options_of_models(what, values)
    store = stack.enter_context(FeatureStore(what))
    ids = _ids_of(store, names)
    first = Truth(np.zeros((1, 2)), None)  # a point that every picture has
    chain = ids[:-1], ids[1:], (first,) * (len(ids) - 1)
    pair = PointPairs(what, *chain, lambda: _said_to_lie(store, ids, values))
    chosen = {"blocks": values["blocks"], "timesteps": store.native(values["timesteps"])}
    bound = bind(pair, [store], outside="wrong", **chosen)
    if not page_alone(names, bound.keys, values):
        check_one(what, bound.keys, values)
    found, sides = bound.cells(), []
    for name, row in zip(ids, (bound.pairs.source[0], *bound.pairs.target), strict=True):

        def load(name: str = name) -> Any:
            source, (place,) = find_originals(store, [name], values["pictures_at"])
            return source.load(place)

        sides.append(Side(name, found.maps(row), load))
    return sides, bound.keys


def _said_to_lie(store: Any, ids: tuple[str, ...], values: dict) -> Any:
    """The source of the pictures, where a user or the file says it; `bind` looks at them.

    Raises:
        SourceError: they are not at hand; whoever draws says so.
        ChangedPictures: they are others by now.
    """
    from diffeat.store import ChangedPictures, find_originals

    if values["pictures_at"] is not None:
        return find_originals(store, ids, values["pictures_at"])[0]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a place that nobody named now
            return find_originals(store, ids)[0]
    except ChangedPictures:
        raise
    except StoreError as error:
        raise SourceError(str(error)) from error


def _ids_of(store: Any, names: tuple[str, ...]) -> tuple[str, ...]:
    """The ids that names stand for, whole or by the file's name.

    Raises:
        SpecError: none, or several; names the nearest.
    """
    from diffeat.targets.by_id import match_ids

    found = match_ids(tuple(dict.fromkeys(names)), store.ids)
    rows = dict(zip(dict.fromkeys(names), found.rows.tolist(), strict=True))
    for name, row in rows.items():
        if row < 0:
            several = found.ambiguous.get(name)
            why = f"; it may be {' or '.join(several)}" if several else nearest(name, store.ids)
            raise SpecError(
                f"{store.path} has no picture {name!r}{why}; see `diffeat info {store.path}`"
            )
    return tuple(store.ids[rows[name]] for name in names)


def _check_region(region: Any, target: Side) -> None:
    """SpecError where a box lies wholly outside the second picture."""
    if region is None:
        return
    x1, y1, x2, y2 = region
    height, width = target.maps.size
    if x2 < 0 or y2 < 0 or x1 > width - 1 or y1 > height - 1:
        raise SpecError(
            f"--region {x1:g},{y1:g},{x2:g},{y2:g} lies outside {target.name}, which has "
            f"{width}×{height} pixels"
        )


def match_rows(
    both: tuple[str, str], points: np.ndarray, matches: Any, names: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """The table of one pair's matches.

    Args:
        both: the two pictures.
        points: (n, 2) of the source.
        matches: `probes.pairs.Matches` of them.
        names: n names of the points, or ().
    """
    rows = zip(points.tolist(), matches.points.tolist(), matches.score.tolist(),
               matches.valid.tolist(), names or [None] * len(points), strict=True)  # fmt: skip
    return [
        dict(zip(COLUMNS, (*both, *at, *to, score, valid), strict=True))
        | ({} if name is None else {"point": name})
        for at, to, score, valid, name in rows
    ]


def write_matches(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """The table of matches as CSV, `valid` as 1 or 0."""
    from diffeat.search.grid import write_rows

    write_rows(path, (row | {"valid": int(row["valid"])} for row in rows))


def say(found: Found, values: dict[str, Any], page: dict[str, Any] | None = None) -> None:
    """What was found, for people or programs."""
    from diffeat.search.matching.rules import described, matcher_text

    rows = found.rows()
    if values["as_json"]:
        cells = [{"block": block, "t": t} for block, t in found.cells]
        print_json({"features": found.what, "cells": cells, **described(found.matcher),
                    "source": found.source.name, "target": found.target.name,
                    "matches": rows, **({"page": page_dict(page)} if page else {})})  # fmt: skip
        return
    valid = int(found.matches.valid.sum())
    click.echo(f"{found.title}; {matcher_text(found.matcher)}")
    click.echo(f"{_shown(found.source)} → {_shown(found.target)}: {len(rows)} points, "
               f"{valid} valid")  # fmt: skip
    click.echo("\n".join([*match_table(rows), *(page_lines(page) if page else [])]))


def _shown(side: Side) -> str:
    height, width = side.maps.size
    return f"{side.name} ({width}×{height})"


def match_table(rows: Sequence[dict[str, Any]], total: int | None = None) -> Iterator[str]:
    """Lines of the first matches, for people; `total` where `rows` are not all."""
    total = len(rows) if total is None else total
    wide = max([0, *(len(row.get("point", "")) + 2 for row in rows[:SHOWN])])
    yield f"{'':<{wide}}{'source x':>8} {'y':>7}   {'target x':>8} {'y':>7} {'score':>8}  valid"
    for row in rows[:SHOWN]:
        at, to = (f"{row[f'{side}_x']:>8.1f} {row[f'{side}_y']:>7.1f}" for side in SIDES)
        yield (f"{row.get('point', ''):<{wide}}{at}   {to} {row['score']:>8.4f}  "
               f"{'yes' if row['valid'] else 'no'}")  # fmt: skip
    if total > SHOWN:
        yield f"… {total:,} points; -o M.csv writes all"
