"""The fault tests in their quick form, and whether they would see a difference."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

import benchmarks.faults
from benchmarks.__main__ import cli
from benchmarks.faults import KILLS, QUICK_KILLS, scenarios
from benchmarks.faults.commands import BAR, kept
from benchmarks.faults.content import digest, hashes
from benchmarks.faults.disk import LIMIT
from benchmarks.faults.table import markdown
from benchmarks.report import markdown as report
from diffeat.errors import StoreError

ENDS = {"SIGTERM": [143, 0], "Ctrl-C": [130, 0]}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def quick(tmp_path_factory) -> tuple[dict, str]:
    """What faults.json holds, and what was printed."""
    out = tmp_path_factory.mktemp("faults")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "run", "faults", "--quick", "--out", str(out)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads((out / "faults.json").read_text("utf-8")), done.stdout


def test_all_ends_are_equal(quick):
    result, _ = quick
    assert result["equal"]
    assert [one["different"] for one in result["scenarios"]] == [[]] * len(result["scenarios"])
    assert {one["sha256"] for one in result["scenarios"]} == {result["reference"]["sha256"]}


def test_what_was_done(quick):
    result, _ = quick
    by_name = {one["name"]: one for one in result["scenarios"]}
    kills = [one for name, one in by_name.items() if name.startswith("kill ")]
    assert len(kills) == QUICK_KILLS == result["kills"]
    assert set(by_name) == {one["name"] for one in kills} | {"full disk", "SIGTERM", "Ctrl-C"}
    for one in kills:
        assert one["codes"] == [-9, 0]
        assert one["runs"] == 2
        assert 0 <= one["again"] <= result["reference"]["pictures"]
    for name, codes in ENDS.items():
        assert by_name[name]["codes"] == codes
    full = by_name["full disk"]["codes"]
    assert full == ([1, 0] if result["disk"] == LIMIT else [1, 1, 0])
    assert by_name["full disk"]["kept"] == result["reference"]["pictures"]  # nothing was lost


def test_what_is_compared(quick):
    """Every data set of such a file."""
    names = set(quick[0]["reference"]["hashes"])
    assert {"ids", "labels", "boxes", "skipped/ids", "skipped/reasons"} < names
    assert {f"features/{b}/t{t}" for b in ("up.0", "up.1") for t in (20, 60)} < names


def test_what_is_written_and_printed(quick):
    result, printed = quick
    assert result["seed"] == 0
    assert result["environment"]["cores"] == os.cpu_count()
    assert markdown(result) in printed
    assert "| SIGTERM | SIGTERM to the command | 2 |" in printed


def test_report_of_a_recorded_run(quick, tmp_path):
    (tmp_path / "faults.json").write_text(json.dumps(quick[0]), "utf-8")
    assert markdown(quick[0]) in report(tmp_path)


# --- without running anything -----------------------------------------------------------------


def write(path: Path, **changes) -> Path:
    values = {"a": np.arange(6.0).reshape(2, 3), "b": np.arange(3), "ids": ["x", "ü"]} | changes
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, value in values.items():
            text = h5py.string_dtype() if name == "ids" else None
            file.create_dataset(name, data=value, dtype=text)
        file.attrs.update({"complete": True, "fingerprint": "f"})
    return path


def test_the_same_content_has_the_same_hashes(tmp_path):
    first, second = hashes(write(tmp_path / "1.h5")), hashes(write(tmp_path / "2.h5"))
    assert first == second
    assert digest(first) == digest(second)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("a", np.nextafter(np.arange(6.0), 9).reshape(2, 3)),
        ("a", np.arange(6.0, dtype=np.float32).reshape(2, 3)),
        ("a", np.arange(6.0).reshape(3, 2)),
        ("b", np.array([0, 2, 1])),
        ("ids", ["ü", "x"]),
    ],
)
def test_a_difference_is_seen(tmp_path, name, value):
    lab = scenarios.Lab(tmp_path, "cpu", scenarios.QUICK)
    lab.wanted = hashes(write(tmp_path / "wanted.h5"))
    seen = lab.compare("n", "d", write(tmp_path / "1.h5", **{name: value}), [0], 0, 0, 0.0)
    assert (seen.equal, seen.different) == (False, [name])
    assert seen.sha256 != digest(lab.wanted)
    assert lab.compare("n", "d", write(tmp_path / "2.h5"), [0], 0, 0, 0.0).equal


def test_missing_and_left_things_are_seen(tmp_path):
    lab = scenarios.Lab(tmp_path, "cpu", scenarios.QUICK)
    lab.wanted = hashes(write(tmp_path / "wanted.h5"))
    (tmp_path / "1.h5.parts").mkdir()
    seen = lab.compare("n", "d", write(tmp_path / "1.h5", c=[1]), [0], 0, 0, 0.0)
    assert (seen.equal, seen.different) == (False, ["c", "parts are left"])


def test_unequal_ends_fail_the_command(quick, tmp_path, monkeypatch):
    bad = json.loads(json.dumps(quick[0]))
    bad["scenarios"][0] |= {"equal": False}
    bad["equal"] = False
    monkeypatch.setattr(benchmarks.faults, "run_faults", lambda *args: bad)
    done = CliRunner().invoke(cli, ["run", "faults", "--out", str(tmp_path)])
    assert isinstance(done.exception, StoreError)  # which `main` turns into exit code 1
    assert done.exception.exit_code == 1
    assert "| NO |" in done.output


def test_options(monkeypatch, tmp_path):
    for wrong in (["speed", "--kills", "3"], ["faults", "--part", "a"], ["faults", "--quick",
                  "--record"]):  # fmt: skip
        done = CliRunner().invoke(cli, ["run", *wrong, "--out", str(tmp_path)])
        assert done.exit_code == 2, done.output
    assert KILLS == 20


def test_what_the_bar_counts():
    said = b"\rextract:   0%|   | 16/48 [00:00<?, ?img/s]\rextract:  66%|##  | 32/48 [00:01<00:01,"
    assert [int(count) for count in BAR.findall(said)] == [16, 32]
    assert BAR.findall(b"\rmerge: 100%|###| 2/2 [00:00<00:00, 7shard/s]") == []


def test_pictures_in_shards(tmp_path):
    folder = tmp_path / "f.h5.parts"
    folder.mkdir()
    for k, spans in enumerate(([(0, 4)], [(2, 6), (8, 9)])):
        with h5py.File(folder / f"shard-{k}.h5", "w") as file:
            file.attrs["spans"] = np.array(spans)
    assert kept(tmp_path / "f.h5", 20) == 7
    (tmp_path / "f.h5").touch()
    assert kept(tmp_path / "f.h5", 20) == 20
