"""docs/api.md: it names everything that is public, its calls are true, its examples run."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
from pathlib import Path

import pytest

from tests.scripts.conftest import SCRIPTS

PAGE = Path(__file__).parent.parent / "docs" / "api.md"
ROW = re.compile(r"^\| `([\w.]+)` \| `(.+?)` \| (.*) \|$", re.M)
HIDDEN = {"diffeat.cli", "diffeat.tests"}
"""Packages with an `__all__` that are no room of the page."""


@pytest.fixture(scope="module")
def writer():
    sys.path.insert(0, str(SCRIPTS))
    import api_page

    yield api_page
    sys.path.remove(str(SCRIPTS))


@pytest.fixture(scope="module")
def rows() -> list[tuple[str, str, str]]:
    """(room, call, what it is) of every line."""
    return ROW.findall(PAGE.read_text("utf-8"))


def test_it_is_what_the_script_writes(writer):
    assert PAGE.read_text("utf-8") == writer.page(), "run python scripts/api_page.py"


def test_every_public_name_stands_there_once(rows):
    """Of every package with an `__all__`, by identity: a name of two rooms has one line."""
    named = [f"{room}.{call.partition('(')[0]}" for room, call, _ in rows]
    assert len(named) == len(set(named))
    shown = {id(getattr(importlib.import_module(name.rpartition(".")[0]),
                        name.rpartition(".")[2])) for name in named}  # fmt: skip
    packages = [path.parent for top in ("diffeat", "probes", "benchmarks")
                for path in (PAGE.parent.parent / top).rglob("__init__.py")]  # fmt: skip
    rooms = [".".join(path.relative_to(PAGE.parent.parent).parts) for path in packages]
    found = 0
    for room in set(rooms) - HIDDEN:
        module = importlib.import_module(room)
        for name in getattr(module, "__all__", ()):
            assert id(getattr(module, name)) in shown, f"{room}.{name}"
            found += 1
    assert found > 200
    assert "diffeat.extract_to_file" in named


def test_every_name_says_what_it_is(rows):
    assert [(room, call) for room, call, text in rows if not text.strip()] == []


def test_the_calls_are_true(rows):
    """Parsed by Python itself: names, order, kinds and plain defaults of the real signature."""
    checked = 0
    for room, shown, _ in rows:
        name, bracket, _ = shown.partition("(")
        value = getattr(importlib.import_module(room), name)
        if not bracket:
            continue
        text = re.sub(r"(?:, |(?<=\())…\)$", ")", shown.replace("\\|", "|"))
        text = re.sub(r"\*\)$", ")", text.replace(", *)", ")"))
        given = ast.parse(f"def {text.replace('=…', '=...')}: pass").body[0].args
        real = list(inspect.signature(value).parameters.values())
        positional = [*given.posonlyargs, *given.args]
        defaults = dict(zip([a.arg for a in positional][::-1], given.defaults[::-1], strict=False))
        defaults |= {
            a.arg: d for a, d in zip(given.kwonlyargs, given.kw_defaults, strict=True) if d
        }
        names = [a.arg for a in [*positional, *filter(None, [given.vararg]), *given.kwonlyargs,
                                 *filter(None, [given.kwarg])]]  # fmt: skip
        assert names == [one.name for one in real][: len(names)], shown
        left = [
            one
            for one in real[len(names) :]
            if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)
        ]
        assert all(one.default is not one.empty for one in left), shown
        for one in real[: len(names)]:
            assert (one.name in defaults) == (one.default is not one.empty), (shown, one.name)
            told = ast.literal_eval(defaults[one.name]) if one.name in defaults else ...
            assert told is ... or told == one.default, (shown, one.name)
        by_name = {one.name for one in real[: len(names)] if one.kind == one.KEYWORD_ONLY}
        assert {a.arg for a in given.kwonlyargs} == by_name, shown
        checked += 1
    assert checked > 150


def test_the_examples_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    given: dict = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.S)
    assert len(blocks) > 8
    for block in blocks:
        assert len([line for line in block.splitlines() if line]) <= 4, block
        exec(compile(block, str(PAGE), "exec"), given)
    given["store"].close()
    assert (tmp_path / "features.h5").is_file()
    assert given["features"]["up.1", 20].shape == (4, 4 * 96)
    assert given["report"].best.validation > 0.3
    assert "did you mean 'unet-cifar10'" in capsys.readouterr().out


def test_a_missing_name_of_a_topic_is_told(writer):
    with pytest.raises(ValueError, match="no public name"):
        writer.matching("diffeat.nothing", writer.every_name())
