"""Long work tells how far it is: a bar on a terminal, elsewhere a line a minute."""

from __future__ import annotations

import ast
import io
import re
import sys
from pathlib import Path

import pytest

import diffeat
from diffeat import progress
from diffeat.progress import counted, duration_text, new_voice, say, track

ROOT = Path(diffeat.__file__).parent.parent


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def after(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def voice(clock):
    return new_voice(60, clock)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class TestLines:
    def test_a_line_a_minute_with_count_rate_and_time_left(self, clock, voice, capsys):
        with counted(10_000, desc="extract", unit="pictures", voice=voice) as bar:
            for _ in range(6):
                clock.after(30)
                bar.update(600)
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.splitlines() == [
            "extract: 1,200 of 10,000 pictures, 20/s, 7 min 20 s left",  # 8800 at 20/s
            "extract: 2,400 of 10,000 pictures, 20/s, 6 min 20 s left",
            "extract: 3,600 of 10,000 pictures, 20/s, 5 min 20 s left",
            "extract: 3,600 of 10,000 pictures, 20/s, took 3 min",
        ]
        assert "\r" not in said.err

    def test_short_work_says_nothing(self, clock, voice, capsys):
        with counted(3, desc="extract", unit="pictures", voice=voice) as bar:
            for _ in range(3):
                clock.after(19)
                bar.update()
        assert capsys.readouterr().err == ""

    def test_an_earlier_run_does_not_count_for_the_rate(self, clock, voice, capsys):
        with counted(1000, initial=880, desc="extract", unit="pictures", voice=voice) as bar:
            clock.after(60)
            bar.update(60)
        line = capsys.readouterr().err.splitlines()[0]
        assert line == "extract: 940 of 1,000 pictures, 1/s, 1 min left"

    def test_what_was_there_at_once_does_not_count_for_it_either(self, clock, voice, capsys):
        with counted(20, desc="search", unit="cells", voice=voice) as bar:
            for _ in range(10):  # of a journal
                clock.after(0.01)
                bar.update()
            for _ in range(2):
                clock.after(60)
                bar.update()
        lines = capsys.readouterr().err.splitlines()
        assert lines[1] == "search: 12 of 20 cells, 1/min, 8 min left"

    def test_what_is_inside_shares_the_line_and_the_minute(self, clock, voice, capsys):
        for _ in track(range(2), desc="search", unit="cells", voice=voice):
            with counted(100, desc="t=20", unit="pictures", voice=voice) as bar:
                for _ in range(9):
                    clock.after(10)
                    bar.update(10)
        assert capsys.readouterr().err.splitlines() == [
            "search: 0 of 2 cells; t=20: 60 of 100 pictures, 1/s, 40 s left",
            "search: 1 of 2 cells; t=20: 30 of 100 pictures, 1/s, 1 min 10 s left",
            "search: 1 of 2 cells; t=20: 90 of 100 pictures, 1/s, 10 s left",
            "search: 2 of 2 cells, 40/h, took 3 min",
        ]

    def test_what_follows_shares_the_minute(self, clock, voice, capsys):
        """Ten things of 40 s each are told about every minute, not never and not at once."""
        for _ in range(10):
            with counted(4, desc="merge", unit="shards", voice=voice) as bar:
                for _ in range(4):
                    clock.after(10)
                    bar.update()
        lines = [line for line in capsys.readouterr().err.splitlines() if "left" in line]
        assert 4 <= len(lines) <= 6

    def test_another_run_begins_anew(self, clock, voice, capsys):
        with counted(1, desc="extract", unit="pictures", voice=voice):
            pass
        clock.after(3600)
        with counted(2, desc="extract", unit="pictures", voice=voice) as bar:
            clock.after(5)
            bar.update()
        assert capsys.readouterr().err == ""

    def test_without_a_total(self, clock, voice, capsys):
        with counted(None, desc="dit", unit="steps", voice=voice) as bar:
            bar.set_postfix(loss="0.1234")
            clock.after(60)
            bar.update(7)
        assert capsys.readouterr().err.splitlines()[0] == "dit: 7 steps, 7/min, loss 0.1234"

    def test_where_it_stood_when_it_failed(self, clock, voice, capsys):
        def fail():
            with counted(9, desc="probe", unit="cells", voice=voice) as bar:
                clock.after(120)
                bar.update()
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        assert capsys.readouterr().err.splitlines()[-1] == "probe: 1 of 9 cells, 30/h, took 2 min"
        assert voice.counts == []

    def test_without_stderr(self, clock, voice, monkeypatch):
        monkeypatch.setattr(sys, "stderr", None)
        with counted(1, desc="extract", unit="pictures", voice=voice) as bar:
            clock.after(60)
            bar.update()

    def test_the_voice_of_a_thread_speaks_each_minute(self):
        voice = progress._own_voice()
        assert voice is progress._own_voice()
        assert voice.every == 60


class TestBars:
    def test_on_a_terminal(self, monkeypatch):
        monkeypatch.setattr(sys, "stderr", Terminal())
        with counted(4, desc="extract", unit="pictures", initial=1) as bar:
            bar.update(3)
        said = sys.stderr.getvalue()
        assert re.search(r"\rextract: 100%\|.*\| 4/4 \[", said)
        assert "img/s" in said

    def test_asked_for(self, capsys):
        assert list(track("ab", desc="merge", unit="shards", show=True)) == ["a", "b"]
        assert "merge: 100%" in capsys.readouterr().err

    def test_asked_to_be_silent(self, monkeypatch, clock, voice):
        monkeypatch.setattr(sys, "stderr", Terminal())
        with counted(4, desc="e", unit="pictures", show=False, voice=voice) as bar:
            clock.after(600)
            bar.update(4)
        assert sys.stderr.getvalue() == ""

    def test_a_line_above_them(self, capsys):
        say("note: so")
        assert capsys.readouterr().err == "note: so\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59.6, "1 min"), (250, "4 min 10 s"), (3600, "1 h"), (11_100, "3 h 5 min"),
     (187_200, "2 d 4 h"), (1e9, "11,574 d 1 h")],
)  # fmt: skip
def test_times(seconds, text):
    assert duration_text(seconds) == text


@pytest.mark.parametrize(
    ("rate", "text"), [(1234.4, "1,234/s"), (99.96, "100/s"), (35.24, "35.2/s"), (0.99, "0.99/s"),
                       (0.5, "30/min"), (0.01, "36/h"), (1e-5, "0.036/h")],
)  # fmt: skip
def test_rates(rate, text):
    assert progress._per_time(rate) == f", {text}"


def test_no_other_bars():
    """All bars of diffeat and its benchmarks are made in one place."""
    for path in [*(ROOT / "diffeat").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]:
        calls = [
            ast.unparse(node.func)
            for node in ast.walk(ast.parse(path.read_text("utf-8")))
            if isinstance(node, ast.Call)
        ]
        assert "tqdm" not in calls or path.name == "progress.py", path
