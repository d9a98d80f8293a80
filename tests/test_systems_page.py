"""docs/systems.md: what it says runs can be asked for, what it names exists, all recipes are in."""

from __future__ import annotations

import ast
import json
import re
import shlex
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import click
import pytest

import diffeat
import probes
from benchmarks.__main__ import cli as benchmarks_cli
from benchmarks.catalogue import open_benchmark
from diffeat.cli import cli
from diffeat.cli.spec_options import spec_of
from diffeat.extraction import Plan
from diffeat.recipes import recipe_names
from diffeat.vision.names import defaults_for
from tests.twins import STAND_INS, configs_only

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "systems.md").read_text("utf-8")
HEADER = "| system | takes of the network | state | here | shown by | lacks, or why |"
STATES = ("runs", "part", "not yet", "outside")


@dataclass(frozen=True)
class Row:
    """A system of the page."""

    kind: str
    system: str
    takes: str
    state: str
    commands: tuple[str, ...]
    tests: tuple[str, ...]
    remark: str


def parse(text: str) -> list[Row]:
    """Every line of every table with the header of systems."""
    found, kind, inside = [], "", False
    for line in text.splitlines():
        if line.startswith("## "):
            kind, inside = line[3:], False
        elif line == HEADER:
            inside = True
        elif not line.startswith("|"):
            inside = False
        elif inside and not line.startswith("|---"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            assert len(cells) == 6, line
            system, takes, state, here, shown, remark = cells
            commands = tuple(re.findall(r"`([^`]+)`", here))
            tests = tuple(filter(None, shown.split("<br>")))
            found.append(Row(kind, system, takes, state, commands, tests, remark))
    return found


ROWS = parse(TEXT)
COMMANDS = [(row.system, command) for row in ROWS for command in row.commands]


@pytest.fixture(scope="module")
def full_of(tmp_path_factory):
    """Backbone of full size without weights, by name."""
    root = tmp_path_factory.mktemp("full")

    @cache
    def loaded(model):
        hub = "/" in model and ":" not in model
        return diffeat.load(str(configs_only(model, root / "hub")) if hub else model, device="meta")

    return lambda model: loaded(STAND_INS.get(model, model))


def parsed(group: click.Group, words: list[str]) -> tuple[str, dict]:
    """The verb and the values that click makes of a command; it fails where the user would."""
    with group.make_context("", words[:1]) as context:
        _, command, _ = group.resolve_command(context, words[:1])
        with command.make_context(words[0], words[1:], parent=context) as inner:
            return words[0], inner.params


class TestRows:
    def test_there_are_many_of_all_states_and_kinds(self):
        assert len(ROWS) > 60
        assert {row.state for row in ROWS} == set(STATES)
        assert len({row.kind for row in ROWS}) >= 13
        assert len({row.system for row in ROWS}) == len(ROWS)

    @pytest.mark.parametrize("row", ROWS, ids=lambda row: row.system[:30])
    def test_a_row_has_what_its_state_wants(self, row):
        working = row.state in ("runs", "part")
        assert bool(row.commands) == bool(row.tests) == working, row
        if row.state != "runs":
            assert row.remark, "what lacks, or the reason"
        assert (row.state == "outside") == row.kind.startswith("Outside"), row
        assert re.search(
            r"20[12]\d|survey|control|as sources|in REPA|in DDAE|the same", row.system
        ), row

    def test_reasons_of_what_is_outside_are_those_of_their_heading(self):
        reasons = {"data": "makes training data", "pictures": "makes pictures",
                   "source": "diffusion is the head"}  # fmt: skip
        for row in ROWS:
            if row.state == "outside":
                assert row.remark.startswith(reasons[row.kind.split()[-1]]), row

    def test_every_recipe_is_there(self):
        shown = [re.search(r"--recipe (\S+)", command) for _, command in COMMANDS]
        assert {found[1] for found in shown if found} == set(recipe_names())

    def test_every_named_test_exists(self):
        kinds = (ast.FunctionDef, ast.ClassDef)
        for name in {name for row in ROWS for name in row.tests}:
            path, *inside = name.split("::")
            body = ast.parse((ROOT / path).read_text("utf-8")).body
            for one in inside:
                named = [node for node in body if isinstance(node, kinds) and node.name == one]
                assert len(named) == 1, name
                body = named[0].body
            assert name.rpartition("::")[2].startswith("test_"), name


class TestCommands:
    @pytest.mark.parametrize(("system", "command"), COMMANDS, ids=lambda text: text[:60])
    def test_it_can_be_asked_for(self, system, command, full_of, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        words = shlex.split(command)
        if words[0] == "diffeat":
            verb, values = parsed(cli, words[1:])
            assert verb in ("extract", "probe", "search", "align", "channels", "match", "segment",
                            "heads", "cluster", "explain")  # fmt: skip
            if verb in ("extract", "channels"):
                self.check_extraction(values, full_of)
        elif words[:3] == ["python", "-m", "benchmarks"]:
            _, values = parsed(benchmarks_cli, words[3:])
            assert open_benchmark(values["name"]).title
        else:
            assert eval(command, {"diffeat": self.rooms(), "probes": probes})

    @staticmethod
    def rooms():
        import diffeat.adapt

        return diffeat

    @staticmethod
    def check_extraction(values, full_of):
        """Blocks and levels are there, on the configuration of the model, without weights."""
        model = values["model"].removesuffix("@random")
        spec = spec_of(values.get("recipe"), values.get("spec_file"), values, defaults_for(model))
        plan = Plan(full_of(model), spec)
        assert plan.blocks
        assert plan.levels

    def test_what_cannot_be_asked_for_fails(self, full_of):
        """The check itself: a block, a recipe and an option that are not there."""
        start = ["extract", "sd21", "PICTURES", "-o", "F.h5", "-t", "1", "-b", "up.9"]
        _, values = parsed(cli, start)
        with pytest.raises(diffeat.DiffeatError, match=r"up\.9"):
            self.check_extraction(values, full_of)
        _, values = parsed(cli, [*start, "--recipe", "dift-sd"])
        with pytest.raises(diffeat.DiffeatError, match="unknown"):
            self.check_extraction(values, full_of)
        with pytest.raises(click.UsageError):
            parsed(cli, [*start, "--recipes", "dift-sd21"])


class TestRecords:
    """The figures under "Where our records differ" are those of the files."""

    @pytest.mark.parametrize(
        ("record", "system", "shown"),
        [
            ("gdc-cifar10", "linear, 1×1", "58.7"),
            ("gdc-cifar10", "linear, 2×2", "65.8"),
            ("gdc-cifar10", "linear, 4×4", "68.6"),
            ("gdc-cifar10", "CNN, mirrored maps", "70.7"),
            ("gdc-cifar10", "attention, mirrored maps", "71.1"),
            ("gdc-cifar10", "MLP, 4×4", "72.3"),
            ("difformer-cifar10", "attention, best cell", "58.8"),
            ("difformer-cifar10", "DifFormer, 3 blocks × 3 t", "60.9"),
            ("difformer-cifar10", "linear on a greedy set", "61.8"),
            ("ddae-cifar10-unet", "linear (L2 path)", "59.5"),
            ("ddae-finetune-cifar10", "fine-tuned, all", "60.7"),
            ("diffeed-cifar10", "one pass, linear head", "50.4"),
            ("diffeed-cifar10", "DifFeed, linear head", "52.2"),
            ("diffeed-cifar10", "linear probe of stored features (L-BFGS to the end)", "57.9"),
        ],
    )
    def test_figures(self, record, system, shown):
        result = json.loads((ROOT / "benchmarks" / "results" / f"{record}.json").read_text("utf-8"))
        [test] = [one["test"] for one in result["systems"] if one["name"] == system]
        assert abs(100 * test - float(shown)) <= 0.0501
        told = TEXT.partition("## Where our records differ")[2].splitlines()
        assert any(line.endswith(f"| {record} |") and shown in line for line in told)
