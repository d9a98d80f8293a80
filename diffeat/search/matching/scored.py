"""PCK of all pairs, streamed: per pair, per class and over all, by every convention asked for.

    scored = score_pairs(matcher, bound, ("up.1", 20))       # a cell, a `Mix`; None: all cells
    print(scored.table())
    scored.pck.compute(); scored.pck.interval()              # a probes.metrics.pck.PCK, in the
    scored.pck.interval(other=another.pck)                   # order of the pairs of `bound`
    scored.to_dict(); scored.write_csv("pairs.csv"); scored.write_csv("classes.csv", rows="class")
    score_pairs(…, keep=True).found[3]                       # where the points of pair 3 were found
    match_all(matcher, bound, ("up.1", 20))[3]               # of pairs whose truth is not known

With a `Journal` in a folder, pairs that were matched are not matched again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from diffeat.errors import SpecError
from diffeat.hashing import fingerprint
from diffeat.progress import counted
from diffeat.search.grid import aligned, write_rows
from diffeat.search.journal import Journal
from diffeat.search.judge import Candidate, Mix, cells_in
from diffeat.search.matching.bound import BoundPairs, named
from diffeat.search.matching.floors import SAME_PLACE, same_place_pck
from diffeat.search.matching.found import Found
from diffeat.search.matching.rules import described, matcher_of, matcher_text
from diffeat.search.matching.stream import stream
from diffeat.search.tasks import bytes_fingerprint
from diffeat.targets.pairs.base import PairTargets
from probes.cells import Cells
from probes.matching import NearestMatcher
from probes.matching.base import Matcher
from probes.metrics.conventions import Convention
from probes.metrics.pck import ALPHAS, PCK

CHUNK = 1000
"""Pairs of a piece of finished work."""


@dataclass(frozen=True, eq=False)
class Scored:
    """How many points of each pair were found.

    Attributes:
        name: of the features: "up.1 t=20".
        bound: the P pairs.
        pck: what was counted, pair by pair, and every number of it.
        unsaid: (P,) int32 points of which nothing can be said, such as those that an input does
            not show, or whose match a check does not confirm; they count as wrong.
        matcher: what the points were found by.
        found: where each point was found; None where that was not asked for.
    """

    name: str
    bound: BoundPairs
    pck: PCK
    unsaid: np.ndarray
    matcher: str
    found: Found | None = None

    def __len__(self) -> int:
        return len(self.bound)

    @property
    def points(self) -> int:
        """Points of all pairs."""
        return int(self.pck.counts()[1].sum())

    @property
    def remarks(self) -> str:
        """What to know of the pairs: how many, what was left out, what the model was told."""
        unsaid = int(self.unsaid.sum())
        silent = f"; {unsaid:,} points of which nothing can be said count as wrong" * bool(unsaid)
        return pairs_text(self.bound, self.points) + silent + told_text(self.bound.conditioned)

    def per_class(self) -> dict[str, dict[str, Any]]:
        """Class → pairs, points, and PCK per point by alpha, by the first convention."""
        names, (_, points) = np.asarray(self.bound.categories), self.pck.counts()
        found = self.pck.by_category()
        return {
            name: {"pairs": int((names == name).sum()), "points": int(points[names == name].sum()),
                   "pck": found[name]}
            for name in sorted(found)
        }  # fmt: skip

    @cached_property
    def same_place(self) -> PCK:
        """What points score that stay where they are: the floor of a method without training."""
        every = range(len(self))
        return same_place_pck(self.bound, every, self.pck.alphas, self.pck.conventions)

    def table(self) -> str:
        """A line per class and two per convention, each of which is written out.

        The second is that of the same place.
        """
        alphas, ways = self.pck.alphas, self.pck.conventions
        rows = [["class", "pairs", "points", *(f"PCK@{alpha:g}" for alpha in alphas)]]
        classes = self.per_class()
        for name, one in classes.items() if len(classes) > 1 else ():
            rows.append([name, f"{one['pairs']:,}", f"{one['points']:,}",
                         *(f"{100 * one['pck'][alpha]:.1f}" for alpha in alphas)])  # fmt: skip
        for what, pck in (("all", self.pck), (SAME_PLACE, self.same_place)):
            for place, (way, values) in enumerate(pck.table().items()):
                said = way.aggregate + (f" [{place + 1}]" if len(ways) > 1 else "")
                rows.append([f"{what}, {said}", f"{len(self):,}", f"{self.points:,}",
                             *(f"{100 * values[alpha]:.1f}" for alpha in alphas)])  # fmt: skip
        head, *body = aligned(rows, range(1, len(rows[0])))
        notes = [f"[{k + 1}] {way.line(alphas)}" if len(ways) > 1 else way.line(alphas)
                 for k, way in enumerate(ways)]  # fmt: skip
        title = [f"{self.name}: {self.remarks}", self.matcher]
        return "\n".join([*title, head, "-" * len(head), *body, *notes])

    def to_dict(self) -> dict[str, Any]:
        """Plain values: conventions, numbers with intervals, classes, what was left out."""
        values = []
        for way in self.pck.conventions:
            found, ends = self.pck.compute(convention=way), self._intervals(way)
            floor = self.same_place.compute(convention=way)
            values += [{"convention": way.line(), **asdict(way), "alpha": alpha, "pck": value,
                        "interval_95": ends.get(alpha), "same_place": floor[alpha]}
                       for alpha, value in found.items()]  # fmt: skip
        return {
            "features": self.name, "pairs_of": self.bound.name, "pairs": len(self),
            "points": self.points, "unsaid": int(self.unsaid.sum()), "matcher": self.matcher,
            "values": values, "left_out": dict(self.bound.left_out), "noted": self.bound.noted,
            "classes": [{"class": name, **one, "pck": {f"{a:g}": v for a, v in one["pck"].items()}}
                        for name, one in self.per_class().items()],
            **({"told": self.bound.conditioned} if self.bound.conditioned else {}),
        }  # fmt: skip

    def _intervals(self, way: Convention) -> dict[float, tuple[float, float]]:
        """Alpha → 95 % interval; {} of pairs of one group, of which nothing can be said."""
        if len({name for pair in self.bound.groups for name in pair}) < 2:
            return {}
        found = self.pck.interval(convention=way)
        return {alpha: (one.low, one.high) for alpha, one in found.items()}

    def write_csv(self, path: str | Path, rows: str = "pair") -> None:
        """One row per pair or per class ("class"); how it was counted stands in columns."""
        if rows not in ("pair", "class"):
            raise SpecError(f"rows={rows!r}; expected pair or class")
        rule = {
            "features": self.name,
            "convention": self.pck.conventions[0].line(),
            "matcher": self.matcher,
        }
        if self.bound.conditioned:
            rule["told"] = self.bound.conditioned
        found = self._pair_rows() if rows == "pair" else self._class_rows()
        write_rows(path, ({**row, **rule} for row in found))

    def _pair_rows(self) -> Iterator[dict[str, Any]]:
        bound, (right, points) = self.bound, self.pck.counts()
        for pair in range(len(self)):
            counts = zip(self.pck.alphas, right[pair].tolist(), strict=True)
            yield {
                "source": bound.targets.source[pair], "target": bound.targets.target[pair],
                "class": bound.categories[pair], "source_group": bound.groups[pair][0],
                "target_group": bound.groups[pair][1], "points": int(points[pair]),
                **{f"right@{alpha:g}": count for alpha, count in counts},
                "unsaid": int(self.unsaid[pair]),
            }  # fmt: skip

    def _class_rows(self) -> Iterator[dict[str, Any]]:
        for name, one in self.per_class().items():
            values = {f"pck@{alpha:g}": round(value, 6) for alpha, value in one["pck"].items()}
            yield {"class": name, "pairs": one["pairs"], "points": one["points"], **values}


def score_pairs(
    matcher: Matcher | None,
    bound: BoundPairs,
    candidate: Candidate | None = None,
    conventions: Sequence[Convention] = (Convention(),),
    alphas: Sequence[float] = ALPHAS,
    journal: Journal | None = None,
    progress: bool | None = None,
    *,
    check: float | None = None,
    keep: bool = False,
) -> Scored:
    """Match the points of all pairs, and count which are right.

    Args:
        matcher: None is `NearestMatcher()`.
        bound: pairs with their features; `bound.take` gives some of them.
        candidate: a cell, or several as one (sums of cosines, with the weights of a `Mix`); None
            is all cells of `bound`.
        conventions: ways of counting; every point is matched once for all of them.
        alphas: A shares of the reference.
        journal: keeps finished pieces of `CHUNK` pairs.
        progress: show a bar; None shows one on a terminal, and a line a minute elsewhere.
        check: pixels by which a match, matched back, may miss its point: else it counts as wrong.
            None checks nothing.
        keep: also say where each point was found (`Scored.found`).

    Raises:
        SpecError: pairs without a truth, or without what the errors are measured in; points or
            maps that the matcher refuses.
    """
    check_references(bound, conventions)
    total = PCK(alphas, conventions)
    work = _Work(bound, matcher, candidate, check, Found(bound.pairs) if keep else None)
    right = np.zeros((len(bound), *total.state["right"].shape[1:]), np.int32)
    unsaid = np.zeros(len(bound), np.int32)

    def counted_of(rows: np.ndarray, update: Callable) -> dict[str, Any]:
        piece = PCK(alphas, conventions)
        done, silent = count(piece, work.matcher, bound, work.cells, rows, update, check,
                             work.found)  # fmt: skip
        right[done], unsaid[done] = piece.state["right"], silent
        return {"right": right[rows].tolist(), "unsaid": unsaid[rows].tolist()}

    ways = (total.alphas, total.state["counted"].tolist())
    for rows, kept in work.pieces(counted_of, journal or Journal(), ways, progress):
        right[rows], unsaid[rows] = kept["right"], kept["unsaid"]
    points = np.array([len(found) for found in bound.pairs.source_points], np.int32)
    total.load({**total.state, "right": right, "points": points, "picture": bound.targets.target,
                "category": bound.categories, "groups": bound.groups})  # fmt: skip
    return Scored(work.name, bound, total, unsaid, matcher_text(work.matcher, check), work.found)


def match_all(
    matcher: Matcher | None,
    bound: BoundPairs,
    candidate: Candidate | None = None,
    journal: Journal | None = None,
    progress: bool | None = None,
    *,
    check: float | None = None,
) -> Found:
    """Match the points of all pairs, whether or not it is known where they lie.

    Args, Raises: as of `score_pairs`.
    """
    found = Found(bound.pairs)
    work = _Work(bound, matcher, candidate, check, found)

    def matched(rows: np.ndarray, update: Callable) -> dict[str, Any]:
        for pair, matches in stream(work.matcher, bound, work.cells, rows, check):
            found[pair] = matches
            update()
        return {}

    for _ in work.pieces(matched, journal or Journal(), (), progress):
        pass
    return found


class _Work:
    """Pairs that are matched piece by piece, each of which a journal may have already.

    Args:
        found: takes where the points were found; None where nobody asks.
    """

    def __init__(self, bound: BoundPairs, matcher: Matcher | None, candidate: Candidate | None,
                 check: float | None, found: Found | None):  # fmt: skip
        candidate = Mix(bound.keys) if candidate is None else candidate
        self.bound, self.found = bound, found
        self.matcher = matcher_of(matcher or NearestMatcher(), candidate)
        self.cells = bound.cells(cells_in(candidate))
        self.name = str(candidate if isinstance(candidate, Mix) else Mix((candidate,)))
        self._made_of = (str(candidate), getattr(candidate, "weights", None),
                         described(self.matcher), check)  # fmt: skip

    def pieces(
        self, work: Callable[[np.ndarray, Callable], dict[str, Any]], journal: Journal, ways: Any,
        progress: bool | None,
    ) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:  # fmt: skip
        """Pairs, and what was found out about them, now or before.

        Args:
            work: (pairs, called after each of them) → that, as plain values.
            ways: what else finished work depends on.
        """
        bound, found = self.bound, self.found
        name = "pairs" if found is None else "matches"
        # also where nothing is kept: what it reads of the files is asked for when they are closed
        made_of = fingerprint(bound.fingerprint, *self._made_of, ways)
        with counted(len(bound), desc="match", unit="pairs", show=progress) as bar:
            for rows in _chunks(bound, CHUNK if journal.folder else len(bound)):
                if not journal.folder:
                    yield rows, work(rows, bar.update)
                    continue
                key = fingerprint(made_of, bytes_fingerprint(rows))
                kept = journal.read(name, key)
                if kept is None:
                    more = work(rows, bar.update)
                    more |= {} if found is None else {"found": found.pack(rows)}
                    kept = journal.write(name, key, more)
                else:
                    bar.update(len(rows))
                if found is not None:
                    found.unpack(rows, kept["found"])
                yield rows, kept


def _chunks(bound: BoundPairs, size: int) -> Iterator[np.ndarray]:
    """Runs of pairs that share pictures."""
    order = np.lexsort((bound.pairs.target, bound.pairs.source))
    yield from (order[start : start + size] for start in range(0, len(order), size))


def count(
    pck: PCK, matcher: Matcher, bound: BoundPairs, cells: Cells, rows: np.ndarray,
    update: Callable[[], Any] = lambda: None, check: float | None = None,
    kept: Found | None = None,
) -> tuple[list[int], list[int]]:  # fmt: skip
    """Match some pairs and count them.

    Args:
        pck: counts them, in the order in which they are returned.
        update: called after each pair.
        check: see `stream`.
        kept: takes where the points were found.

    Returns:
        The pairs; of how many points of each nothing can be said.
    """
    done, unsaid = [], []
    for pair, found in stream(matcher, bound, cells, rows, check):
        truth = bound.pairs.target_points[pair]
        pck.update(found.points, truth, **bound.about(pair), valid=found.valid)
        if kept is not None:
            kept[pair] = found
        done.append(pair)
        unsaid.append(int((~found.valid).sum()))
        update()
    return done, unsaid


def check_said(targets: PairTargets, conventions: Sequence[Convention]) -> None:
    """SpecError where pairs lack what a way of counting asks for: classes, or of key points boxes.

    Nothing is computed for that, so it can be asked before features are.
    """
    for way in conventions:
        if way.aggregate.startswith("class") and "" in targets.categories:
            pair = targets.categories.index("")
            raise SpecError(
                f"{named(targets, pair)} has no category, so there is no mean over classes "
                f"({way.aggregate}); take another one (--aggregate point, pair or picture), or say "
                "what each pair shows (in a list, the column category)"
            )
    if targets.kind != "points":
        return
    for reference in {one.reference for one in conventions} - {"image"}:
        for pair in range(len(targets)):
            truth = targets.truth(pair)
            _check_reference(Convention(reference), targets, pair, (1, 1), truth.target_box,
                             truth.target_points)  # fmt: skip


def _check_reference(
    way: Convention, targets: PairTargets, pair: int, size: tuple[int, int], box: Any, points: Any
) -> None:
    try:
        way.reference_of(size, box, points)
    except ValueError as error:
        raise SpecError(f"{named(targets, pair)}: {error}; take another reference "
                        "(--reference box, image or extent)") from error  # fmt: skip


def check_references(bound: BoundPairs, conventions: Sequence[Convention]) -> None:
    """SpecError unless every pair has a truth, and what its errors are measured in."""
    if bound.pairs.target_points is None:
        raise SpecError(f"{bound.name} has no points in the targets, so nothing can be counted; "
                        "expected pairs with a truth")  # fmt: skip
    check_said(bound.targets, conventions)
    for way in {one.reference: one for one in conventions}.values():
        for pair, points in enumerate(bound.pairs.target_points):
            _check_reference(way, bound.targets, pair, bound.target_size(pair), bound.box(pair),
                             points)  # fmt: skip


def pairs_text(bound: BoundPairs, points: int) -> str:
    """ "600 pairs, 11,400 points, 40 groups; 3 pairs left out: no common points"."""
    groups = len({name for pair in bound.groups for name in pair})
    text = f"{len(bound):,} pairs, {points:,} points, {groups:,} groups"
    text += "".join(f"; {n:,} {what}" for what, n in bound.noted.items())
    return text + "".join(f"; {n:,} left out: {why}" for why, n in bound.left_out.items())


def told_text(conditioned: str) -> str:
    """What to say where the model was told something of single pictures; "" where it was not."""
    if not conditioned:
        return ""
    if all(one.endswith("in the prompt") for one in conditioned.split(", ")):
        return f"; the prompt names the category, as DIFT's does ({conditioned})"
    return f"; the model was told of each picture: {conditioned}"
