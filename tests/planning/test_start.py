"""What an extraction says at its start, what it checks, and what it remembers at its end."""

from __future__ import annotations

import json
from datetime import date

import numpy as np
import pytest
from PIL import Image

import diffeat as package
from diffeat import ExtractSpec
from diffeat.errors import StoreError
from diffeat.extraction.remembered import cache_file
from diffeat.planning import start

MODEL = ("unet-cifar10",)
MAPS = 5 * 32 * 32 * 32 * 2  # bytes
ASKED = ("-t", "20,60", "-b", "down.0", "--pool", "1x1", "--device", "cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFEAT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    """Five pictures."""
    rng = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for k in range(5):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(tmp_path / f"in/{k}.png")
    return tmp_path / "in"


def line(answer) -> str | None:
    found = [text for text in answer.err.splitlines() if text.startswith("plan: ")]
    assert len(found) <= 1
    return found[0] if found else None


def test_the_line_is_said_before_anything_runs_and_not_when_all_is_done(diffeat, folder, tmp_path):
    asked = ("extract", *MODEL, folder, "-o", tmp_path / "f.h5", *ASKED)
    said = line(diffeat(*asked))
    assert said.startswith("plan: 5 pictures × 2 t = 10 forwards, ")
    assert "FLOP" not in said  # nothing is remembered yet
    assert "here" not in said
    assert line(diffeat(*asked)) is None


def test_a_library_call_says_nothing(folder, tmp_path, capsys):
    backbone = package.load("unet-cifar10", device="cpu")
    spec = ExtractSpec(20, "down.0", pool="1x1")
    source = package.open_source(folder)
    package.extract_to_file(backbone, source, spec, tmp_path / "f.h5", progress=False)
    assert "plan:" not in capsys.readouterr().err


def test_what_an_extraction_took_is_in_the_next_line(diffeat, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(start, "WORTH_SECONDS", 0.0)
    answer = diffeat("extract", *MODEL, folder, "-o", tmp_path / "f.h5", *ASKED)
    seconds = float(answer.out.split(" s on ")[0].rpartition(" ")[2])
    (rate,) = [e for e in json.loads(cache_file("rates.json").read_text()).values() if "rate" in e]
    (counted,) = [e for e in json.loads(cache_file("rates.json").read_text()).values()
                  if "cut" in e]  # fmt: skip
    assert rate["rate"] == pytest.approx(10 * counted["cut"] / rate["seconds"], rel=0.02)
    assert rate["seconds"] == pytest.approx(seconds, abs=0.1)
    assert (rate["by"], rate["pictures"], rate["on"]) == ("extraction", 5, str(date.today()))
    said = line(diffeat("extract", *MODEL, folder, "-o", tmp_path / "g.h5", *ASKED))
    flops = 10 * counted["cut"]
    assert f"forwards, {flops / 1e6:.0f} MFLOP, " in said or f"{flops / 1e9:.1f} GFLOP" in said
    assert " here, " in said


def test_a_short_extraction_tells_nothing_of_the_rate(diffeat, folder, tmp_path):
    assert diffeat("extract", *MODEL, folder, "-o", tmp_path / "f.h5", *ASKED).code == 0
    assert not cache_file("rates.json").exists()


def test_a_resumed_run_counts_what_is_left(diffeat, folder, tmp_path, monkeypatch):
    from diffeat.work import Worker

    batches = Worker.batches

    def two_batches(self, spans):
        for number, found in enumerate(batches(self, spans)):
            if number == 2:
                raise KeyboardInterrupt
            yield found

    asked = ("extract", *MODEL, folder, "-o", tmp_path / "f.h5", *ASKED, "--batch-size", "1")
    monkeypatch.setattr(Worker, "batches", two_batches)
    assert diffeat(*asked).code != 0
    monkeypatch.setattr(Worker, "batches", batches)
    planned = diffeat(*asked, "--dry-run", "--json")
    assert json.loads(planned.out)["left"] == 3
    assert "2 pictures are done already" in planned.out
    assert line(diffeat(*asked)).startswith("plan: the last 3 pictures × 2 t = 6 forwards, ")


def test_a_file_that_grows_counts_what_it_lacks(diffeat, folder, tmp_path):
    asked = ("extract", *MODEL, folder, "-o", tmp_path / "f.h5", *ASKED)
    (folder / "4.png").rename(tmp_path / "4.png")
    assert diffeat(*asked).code == 0
    done = diffeat(*asked, "--dry-run", "--no-labels")
    assert "plan: 4 pictures" in done.out
    assert "f.h5 is there already; nothing runs" in done.out
    (tmp_path / "4.png").rename(folder / "4.png")
    planned = diffeat(*asked, "--dry-run", "--json")
    assert json.loads(planned.out)["left"] == 1
    assert "f.h5 holds the other 4 pictures, if it is of the same job" in planned.out
    (folder / "0.png").unlink()
    assert "the extraction will refuse" in diffeat(*asked, "--dry-run").out
    assert diffeat(*asked).code == 1


@pytest.mark.filterwarnings("default:.* loses labels")
def test_labels_alone_are_no_plan(diffeat, folder, tmp_path):
    asked = ("extract", *MODEL, folder, "-o", tmp_path / "f.h5", *ASKED)
    table = "path,label\n" + "".join(f"{k}.png,{'ab'[k % 2]}\n" for k in range(5))
    (tmp_path / "labels.csv").write_text(table)
    assert diffeat(*asked).code == 0
    taken = diffeat(*asked, "--labels", tmp_path / "labels.csv")
    assert "other labels" in taken.err
    assert line(taken) is None
    assert "loses" not in taken.err
    lost = diffeat(*asked)
    assert "warning: " in lost.err
    assert "f.h5 loses labels (a, b), which its pictures have no more" in lost.err


# --- the disk ------------------------------------------------------------------------------------


@pytest.fixture
def free(monkeypatch):
    """Says how much is free."""

    def says(count):
        monkeypatch.setattr(start, "free_bytes", lambda _path: count)

    return says


@pytest.fixture
def run(folder, tmp_path):
    """Extracts maps of 5·32·32·32 float16 values, 0.33 MB, and what is said of the pictures."""

    def extract(**how):
        source, spec = package.open_source(folder), ExtractSpec(20, "down.0.res.0")
        backbone = package.load("unet-cifar10", device="cpu")
        package.extract_to_file(backbone, source, spec, tmp_path / "f.h5", progress=False, **how)
        return (tmp_path / "f.h5").stat().st_size

    return extract


def test_what_cannot_fit_is_refused_with_both_numbers(run, free, tmp_path):
    size = run()
    (tmp_path / "f.h5").unlink()
    free(size // 2)
    with pytest.raises(StoreError, match=r"5 pictures are left, which take .* kB are free"):
        run()
    assert not (tmp_path / "f.h5").exists()
    assert not (tmp_path / "f.h5.parts").exists()


def test_what_may_not_fit_is_said(run, free):
    free(int(1.5 * MAPS))
    with pytest.warns(UserWarning, match="may not fit: parts of .* and then a file of"):
        run()


def test_with_room_for_parts_and_file_nothing_is_said(run, free):
    free(3 * MAPS)
    assert run() > MAPS


def test_what_is_free_where_the_folder_is_not_there_yet(tmp_path):
    import shutil

    found = start.free_bytes(tmp_path / "a" / "b" / "f.h5")
    assert found == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.1)
