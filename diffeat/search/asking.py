"""Asking a judge: what is known already is read, what is new is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from diffeat.search.journal import Journal
from diffeat.search.judge import Candidate, Judge, Mix, Outcome, cells_in

MEMORY = 2 << 30
"""Bytes that features may take, unless told otherwise."""
Progress = Callable[[Iterable], Iterable]


def ask(
    judge: Judge,
    candidates: Sequence[Candidate],
    parts: Sequence[np.ndarray] | None = None,
    memory: int = MEMORY,
    journal: Journal | None = None,
) -> Iterator[tuple[Candidate, list[Outcome]]]:
    """(candidate, one outcome per split); every cell is read once for all splits.

    Args:
        parts: splits (N,) that share the test part, rows of LEFT_OUT are left out; None is the
            judge's own.

    Yields:
        First what the journal has, then batch by batch what is judged.
    """
    journal, parts = journal or Journal(), [judge.part] if parts is None else parts
    keys = {one: [journal.key(judge, part, *_named(one)) for part in parts] for one in candidates}
    pending = []
    for one in candidates:
        found = [journal.get(cells_in(one)[-1], key) for key in keys[one]]
        if all(found):
            yield one, [Outcome(stored["validation"], stored["setting"]) for stored in found]
        else:
            pending.append(one)
    for batch in judge.batches(pending, memory):
        found = judge.validate_splits(batch, parts)  # a list per split
        for one, outcomes in zip(batch, zip(*found, strict=True), strict=True):
            for key, outcome in zip(keys[one], outcomes, strict=True):
                values = {"validation": outcome.validation, "setting": outcome.setting}
                journal.put(cells_in(one)[-1], key, {**values, **_about(judge, one)})
            yield one, list(outcomes)


def ask_all(
    judge: Judge, candidates: Sequence[Candidate], memory: int, journal: Journal
) -> list[Outcome]:
    """One outcome per candidate, in their order, by the judge's own split."""
    found = {one: outcome for one, [outcome] in ask(judge, candidates, None, memory, journal)}
    return [found[one] for one in candidates]


def ask_test(
    judge: Judge,
    candidate: Candidate,
    setting: float | None,
    memory: int = MEMORY,
    journal: Journal | None = None,
) -> tuple[float, tuple[float, float] | None]:
    """Test score of what was chosen, and its interval where the judge knows it."""
    journal, last = journal or Journal(), cells_in(candidate)[-1]
    key = journal.key(judge, judge.part, *_named(candidate), "test", setting)
    stored = journal.get(last, key)
    if stored is None:
        judge.check_memory(candidate, memory)
        value, interval = judge.settle(judge.test(candidate, setting))
        stored = {"test": value, **({"interval": interval} if interval else {})}
        journal.put(last, key, {**stored, "setting": setting, **_about(judge, candidate)})
    interval = stored.get("interval")
    return stored["test"], None if interval is None else tuple(interval)


def _named(candidate: Candidate) -> tuple:
    """How a journal's key names a candidate."""
    if not isinstance(candidate, Mix):
        return (candidate,)
    if candidate.weights is None:
        return ("set", candidate.cells)
    return ("mix", candidate.cells, candidate.weights)


def _about(judge: Judge, candidate: Candidate) -> dict:
    """What is noted beside a score, for people."""
    noted = {"score": judge.describe().get("score", judge.name)}
    if isinstance(candidate, Mix):
        noted["set"] = candidate.cells
        if candidate.weights is not None:
            noted["weights"] = candidate.weights
    return noted
