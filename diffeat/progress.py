"""How far long work is: a bar on a terminal; elsewhere, as in a log file, a line a minute.

    extract: 1,200 of 10,000 pictures, 35.2/s, 4 min 10 s left

What is done within a minute says nothing, and there is never a carriage return in a log. Where
one thing is counted inside another (the pictures of a forward within the cells of a search) they
share the line, and so its minute; things that follow each other share the minute, too. A line
comes when something has been finished, so what takes longer than a minute by itself is told late.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, TypeVar

MINUTE = 60.0
"""Seconds between two lines."""
AT_HAND = 1.0
"""Seconds; what is counted in the first of them was there before, and says nothing of the rate."""
SHORT = {"pictures": "img"}
"""Units as a bar has them, which has little room."""
Item = TypeVar("Item")

_of_thread = threading.local()


@contextmanager
def counted(
    total: int | None,
    *,
    desc: str,
    unit: str,
    initial: int = 0,
    show: bool | None = None,
    delay: float = 0.0,
    voice: SimpleNamespace | None = None,
) -> Iterator[Any]:
    """Count work as it is done: `with counted(10, desc="read", unit="files") as bar: bar.update()`.

    Args:
        total: how many there are; None where nobody knows.
        desc: what is done.
        unit: what is counted, in the plural.
        initial: how many of them an earlier run did; the rate does not count these.
        show: True shows a bar wherever stderr goes (a notebook, say), False nothing; None a bar
            on a terminal and lines elsewhere.
        delay: seconds before a bar appears.
        voice: of `new_voice`, who says the lines; None is that of this thread.

    Yields:
        What has `update(count=1)` and `set_postfix(**values)`.
    """
    if show is None and not _on_terminal():
        with _lines(total, desc, unit, initial, voice or _own_voice()) as bar:
            yield bar
        return
    from tqdm import tqdm

    with tqdm(
        total=total, initial=initial, desc=desc, unit=SHORT.get(unit, unit.removesuffix("s")),
        disable=show is False, delay=delay,
    ) as bar:  # fmt: skip
        yield bar


def track(
    items: Iterable[Item],
    *,
    desc: str,
    unit: str,
    show: bool | None = None,
    voice: SimpleNamespace | None = None,
) -> Iterator[Item]:
    """The items, one by one; each counts as done when the next is asked for. See `counted`."""
    total = len(items) if isinstance(items, Sized) else None
    with counted(total, desc=desc, unit=unit, show=show, voice=voice) as bar:
        for item in items:
            yield item
            bar.update()


def say(text: str) -> None:
    """A line on stderr, above the bars that are there."""
    from tqdm import tqdm

    tqdm.write(text, file=sys.stderr)


def new_voice(every: float = MINUTE, clock: Callable[[], float] = time.monotonic) -> Any:
    """Who says the lines, and when the last one was said.

    Args:
        every: seconds between lines.
        clock: seconds that never step back.
    """
    return SimpleNamespace(every=every, clock=clock, counts=[], said=0.0, ended=None)


def duration_text(seconds: float) -> str:
    """ "45 s", "4 min 10 s", "3 h 5 min", "2 d 4 h"."""
    seconds = round(seconds)
    for unit, length, below, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60),
                                      ("min", 60, "s", 1)):  # fmt: skip
        if seconds >= length:
            rest = seconds % length // part
            return f"{seconds // length:,} {unit}" + (f" {rest} {below}" if rest else "")
    return f"{seconds} s"


def _own_voice() -> Any:
    if not hasattr(_of_thread, "voice"):
        _of_thread.voice = new_voice()
    return _of_thread.voice


def _on_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


@contextmanager
def _lines(
    total: int | None, desc: str, unit: str, initial: int, voice: Any
) -> Iterator[SimpleNamespace]:
    """A count that is told in lines."""
    now = voice.clock()
    alone = not voice.counts
    if alone and (voice.ended is None or now - voice.ended >= voice.every):
        voice.said = now  # nothing was said, but the first minute begins
    count = SimpleNamespace(
        desc=desc, unit=unit, total=total, done=initial, began=now, known=initial, since=now,
        noted="", told=False,
    )  # fmt: skip

    def update(number: int = 1) -> None:
        now = voice.clock()
        count.done += number
        if now - count.began < AT_HAND:
            count.known, count.since = count.done, now
        if now - voice.said >= voice.every:
            voice.said = now
            _write(voice.counts, now)

    def set_postfix(values: dict[str, Any] | None = None, **more: Any) -> None:
        noted = {**(values or {}), **more}
        count.noted = "".join(f", {name} {value}" for name, value in noted.items())

    voice.counts.append(count)
    try:
        yield SimpleNamespace(update=update, set_postfix=set_postfix)
    finally:
        voice.counts.remove(count)
        voice.ended = voice.clock()
        if alone and count.told:
            voice.said = voice.ended
            took = f", took {duration_text(voice.ended - count.began)}"
            _print(_counted_text(count) + _rate_text(count, voice.ended)[0] + took + count.noted)


def _write(counts: list[Any], now: float) -> None:
    """One line of all that is being counted: of the innermost with its rate."""
    *outer, inner = counts
    for count in counts:
        count.told = True
    rate, left = _rate_text(inner, now)
    text = _counted_text(inner) + rate + left + inner.noted
    _print("; ".join([*map(_counted_text, outer), text]))


def _counted_text(count: Any) -> str:
    of = "" if count.total is None else f" of {count.total:,}"
    return f"{count.desc}: {count.done:,}{of} {count.unit}"


def _rate_text(count: Any, now: float) -> tuple[str, str]:
    """(", 35.2/s", ", 4 min left"), as far as they are known."""
    done, seconds = count.done - count.known, now - count.since
    if done <= 0 or seconds <= 0:
        return "", ""
    rate = done / seconds
    left = "" if count.total is None else duration_text((count.total - count.done) / rate)
    return _per_time(rate), left and f", {left} left"


def _per_time(rate: float) -> str:
    """Three digits of a rate per second, or of what it is per minute or hour."""
    units = (("s", 1), ("min", 60), ("h", 3600))
    unit, seconds = next((one for one in units if rate * one[1] >= 0.95), units[-1])
    value = rate * seconds
    return f", {value:,.0f}/{unit}" if value >= 99.95 else f", {value:.3g}/{unit}"


def _print(line: str) -> None:
    if sys.stderr is not None:
        print(line, file=sys.stderr, flush=True)
