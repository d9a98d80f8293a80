"""A Ray cluster of two workers on this machine, one of which is killed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engines.common import BROKEN, COUNT, ENVIRONMENT, same

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("ray")


@pytest.fixture(scope="module")
def said(model, pictures, folder) -> subprocess.CompletedProcess:
    """How `tests.engines.ray_runs` went."""
    return subprocess.run(
        [sys.executable, "-m", "tests.engines.ray_runs", *map(str, (model, pictures, folder))],
        cwd=Path(__file__).parents[2],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


@pytest.fixture(scope="module")
def seen(said) -> dict:
    """What it saw."""
    lines = [line for line in said.stdout.splitlines() if line.startswith("{")]
    assert lines, said.stderr
    return json.loads(lines[0])


def test_two_actors_make_what_one_process_makes_and_one_is_killed(seen, folder, reference):
    assert seen["killed"] == {"actors": 2, "shards": seen["killed"]["shards"]}
    assert "error" not in seen["equal"], seen["equal"]
    assert same(folder / "f.h5", reference)
    assert seen["equal"]["status"] == "done"
    assert seen["equal"]["where"] == "2 Ray actors"
    assert (seen["equal"]["pictures"], seen["equal"]["skipped"]) == (COUNT - 1, 1)
    assert seen["equal"]["computed"] >= COUNT - 1


def test_complete_is_complete(seen):
    assert (seen["again"]["status"], seen["again"]["computed"]) == ("already complete", 0)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("unreadable", "PictureError", f"ü{BROKEN:03d}.png"),
        ("block", "SpecError", "did you mean 'mid'"),
        ("model", "ModelError", "nowhere"),
    ],
)
def test_errors_are_those_of_one_process(seen, name, error, message):
    assert seen[name].get("error") == error, seen[name]
    assert message in seen[name]["message"]
    assert "Traceback" not in seen[name]["message"]
    assert not seen[name]["file"]


def test_sigterm_reaches_the_driver(said):
    """It stops as after Ctrl-C, and is not ended from within Ray's own handler."""
    assert said.returncode == 0, said.stderr
    last = json.loads([line for line in said.stdout.splitlines() if line.startswith("{")][-1])
    assert last == {"stopped": True, "kept": last["kept"], "file": False}
    assert last["kept"] >= 1
