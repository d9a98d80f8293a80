"""How commands speak beside their answer, and how they end."""

from __future__ import annotations

import errno
import signal
import sys

import click
import numpy as np
import pytest

from benchmarks.__main__ import main as benchmarks_main
from diffeat.cli import cli
from diffeat.cli.ending import Interrupted, Terminated, interruptible, os_error_text, resumable
from tests.store.conftest import Job


def stopped(*_args, **_options):
    raise KeyboardInterrupt


def ended(*_args, **_options):
    signal.raise_signal(signal.SIGTERM)


FILE = "diffeat.store.FeatureStore.__init__"
DEEP = {
    "models": ("diffeat.backbones.locate.bundled_models",), "blocks": ("diffeat.loading.load", "m"),
    "recipes": ("diffeat.recipes.recipe_names",), "info": (FILE, "f.h5"),
    "channels": ("diffeat.images.open_source", "m", "p", "-t", "20", "-b", "mid"),
    "extract": ("diffeat.jobs.extract_to_file", "unet-cifar10", "digits", "-o", "x.h5",
                "-t", "20", "-b", "mid"),
    "verify": (FILE, "f.h5"), "merge": (FILE, "x.h5", "f.h5", "f.h5"),
    "export": (FILE, "f.h5", "-o", "x.npz"), "view": (FILE, "f.h5", "-o", "new/x.png"),
    "probe": (FILE, "f.h5"), "search": (FILE, "f.h5", "--out", "cells"),
    "predict": ("diffeat.search.kept.load_head", "h.safetensors", "f.h5"),
    "align": (FILE, "f.h5"),
}  # fmt: skip
"""Verb → what it calls, and its arguments."""


@pytest.fixture
def stop_in(monkeypatch, tmp_path):
    """Stops a verb in what it calls, by a function."""
    monkeypatch.chdir(tmp_path)
    Job(tmp_path / "f.h5", 12, shape=(3,), labels=np.arange(12) % 2, class_names=("a", "b")).write()

    def patch(verb: str, how) -> tuple[str, ...]:
        name, *arguments = DEEP[verb]
        monkeypatch.setattr(name, how)
        return verb, *arguments

    return patch


@pytest.mark.parametrize(
    ("verb", "how", "code"),
    [*((verb, stopped, 130) for verb in DEEP), ("extract", ended, 143), ("info", ended, 143)],
)
def test_a_verb_that_is_stopped_says_so(diffeat, stop_in, tmp_path, verb, how, code):
    answer = diffeat(*stop_in(verb, how))
    assert (answer.code, answer.out) == (code, "")
    *before, line = answer.err.splitlines()
    assert line.startswith("interrupted")
    assert all(one.startswith(("note: ", "plan: ")) for one in before)
    assert not (tmp_path / "new").exists()  # what was made for nothing


def test_every_verb_ends_in_this_way():
    made = interruptible(print).__code__
    assert [verb for verb, one in cli.commands.items() if one.callback.__code__ is not made] == []


def test_a_search_says_what_is_kept(diffeat, stop_in):
    arguments = stop_in("search", stopped)
    assert "finished cells are kept in cells; run the same command" in diffeat(*arguments).err
    assert "with --out FOLDER finished cells are" in diffeat("search", "f.h5").err


def test_a_search_goes_on_where_it_was_stopped(diffeat, monkeypatch, tmp_path):
    from diffeat.search.classification import Classification

    path = tmp_path / "f.h5"
    Job(path, 60, shape=(3,), labels=np.arange(60) % 2, class_names=("a", "b")).write()
    arguments = ("search", path, "-C", 1, "--out", tmp_path / "cells")
    with monkeypatch.context() as patch:
        patch.setattr(Classification, "test", stopped)
        assert diffeat(*arguments).code == 130
    kept = list((tmp_path / "cells").glob("*.json"))
    assert kept
    answer = diffeat(*arguments)
    assert answer.code == 0, answer.err
    assert f"{len(kept)} results were there already" in answer.out


@pytest.mark.parametrize(
    ("arguments", "message", "usage"),
    [
        (("info",), "Missing argument 'FILE'.", True),
        (("bogus",), "No such command 'bogus'.", True),
        (("models", "--bogus"), "No such option '--bogus'.", True),
        (("export", "f.h5", "-o", "a.csv"), ".npz or .zarr", True),
        (("info", "f.h5"), "f.h5: no such file", False),
    ],
)
def test_errors_begin_with_one_word(diffeat, monkeypatch, tmp_path, arguments, message, usage):
    monkeypatch.chdir(tmp_path)
    answer = diffeat(*arguments)
    assert answer.code == (2 if usage else 1)
    text = " ".join(answer.err.split("error: ")[-1].split())
    assert message in text
    *before, _ = answer.err.split("error: ")
    assert bool(before[0]) == usage
    if usage:
        assert before[0].startswith("Usage: ")
        assert "--help' for help." in before[0]
    assert "Error" not in answer.err


def test_no_arguments_show_the_help(diffeat):
    answer = diffeat()
    assert answer.code == 2
    assert "Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted" in answer.err


@pytest.mark.parametrize(
    ("arguments", "code", "start"),
    [
        (("run", "bogus"), 2, "error: "),
        (("run",), 2, "Usage: "),
        (("run", "speed", "--kills", "3"), 2, "Usage: "),
    ],
)
def test_benchmarks_speak_alike(monkeypatch, capsys, tmp_path, arguments, code, start):
    monkeypatch.chdir(tmp_path)
    assert _benchmarks(monkeypatch, *arguments) == code
    said = capsys.readouterr().err
    assert said.startswith(start)
    assert "error: " in said


@pytest.mark.parametrize(("how", "code"), [(stopped, 130), (ended, 143)])
def test_benchmarks_can_be_stopped(monkeypatch, capsys, tmp_path, how, code):
    monkeypatch.setattr("benchmarks.catalogue.open_benchmark", how)
    assert _benchmarks(monkeypatch, "run", "digits", "--out", str(tmp_path / "new")) == code
    told = "interrupted: run the same command again to continue\n"
    assert capsys.readouterr() == ("", told)
    assert not (tmp_path / "new").exists()


def _benchmarks(monkeypatch, *arguments: str) -> int:
    import warnings

    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
    try:
        benchmarks_main()
    except SystemExit as end:
        return end.code
    finally:
        signal.signal(signal.SIGTERM, handler)
    return 0


def test_what_is_left_is_told():
    @interruptible
    @resumable("all is kept")
    def work(error):
        raise error

    for error, code in ((KeyboardInterrupt(), 130), (Terminated(), 143)):
        with pytest.raises(Interrupted) as caught:
            work(error)
        assert (caught.value.message, caught.value.exit_code) == ("interrupted: all is kept", code)
    with pytest.raises(ZeroDivisionError):
        work(ZeroDivisionError())


def test_ctrl_c_before_the_command_begins(diffeat, monkeypatch):
    monkeypatch.setattr(click.Context, "invoke", stopped)
    answer = diffeat("models")
    assert (answer.code, answer.err.strip()) == (130, "interrupted")


def test_errors_of_the_system_in_words():
    missing = FileNotFoundError(errno.ENOENT, "No such file or directory", "a.csv")
    assert os_error_text(missing) == "a.csv: No such file or directory"
    assert os_error_text(OSError(errno.ENOSPC, "No space left on device")) == (
        "No space left on device"
    )
    assert os_error_text(OSError(1, "Not permitted", "a", None, "b")) == "a → b: Not permitted"
    assert os_error_text(OSError("a broken file")) == "a broken file"
