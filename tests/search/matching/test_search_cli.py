"""`diffeat search --task matching`, from files and straight from a model."""

from __future__ import annotations

import csv
import json

import pytest
from PIL import Image

from tests.search.matching.common import BEST, write_pictures


@pytest.fixture
def args(path, folder):
    return ("search", path, "--task", "matching", "--pair-list", f"{folder}:trn")


def test_table_csv_png_and_spec(diffeat, args, tmp_path):
    outputs = ("--csv", tmp_path / "t.csv", "--png", tmp_path / "t.png",
               "--spec", tmp_path / "best.toml")  # fmt: skip
    answer = diffeat(*args, "--sets", 2, *outputs, "--alpha", "0.2,0.1", "--reference", "image")
    assert answer.code == 0, answer.err
    assert answer.out.startswith("toy: validation PCK@0.2 in %, 28 validation and 28 test pairs")
    assert "larger side of the target picture, per point, ≤, original pixels" in answer.out
    assert "best on validation: b at t=10" in answer.out
    assert "a constant (the same place" in answer.out
    assert "test pairs of 6 groups say little" in answer.err
    with open(tmp_path / "t.csv", newline="", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 4
    with Image.open(tmp_path / "t.png") as picture:
        assert picture.width > 100
    assert 'blocks = ["b"' in (tmp_path / "best.toml").read_text()


def test_json_resuming_and_repeats(diffeat, args, tmp_path):
    more = ("--repeats", 2, "--json", "--out", tmp_path / "kept", "--aggregate", "pair",
            "--resolution", "site")  # fmt: skip
    first, second = (json.loads(diffeat(*args, *more).out) for _ in range(2))
    assert (first["best"]["block"], first["best"]["t"]) == BEST
    assert (second["found"], second["computed"]) == (first["computed"], 0)
    assert first["floor"]["of"].startswith("the same place")
    assert set(first["aside"]) == {"PCK@0.05 per pair", "PCK@0.1 per point", "PCK@0.05 per point"}


def test_straight_from_a_model(diffeat, folder_of, tmp_path):
    """Maps are computed once, and lie in --out; without it nothing stays."""
    things = write_pictures(tmp_path / "things", count=16)
    model = folder_of("pixel")
    args = ("search", model, f"{things}:trn", "--task", "matching", "-t", "20,300", "-b", "stages",
            "--size", 16, "--device", "cpu")  # fmt: skip
    answer = diffeat(*args, "--out", tmp_path / "kept")
    assert answer.code == 0, answer.err
    assert "16 pictures, 16 computed now" in answer.err
    assert "best on validation" in answer.out
    again = diffeat(*args, "--out", tmp_path / "kept", "--json")
    assert "16 pictures, 0 computed now" in again.err
    assert json.loads(again.out)["computed"] == 0
    [maps] = (tmp_path / "kept").glob("maps-*.h5")
    for said in ((f"{things}:trn",), ("--pair-list", f"{things}:trn")):
        same = diffeat("search", maps, *said, "--task", "matching", "--json")
        assert json.loads(same.out)["best"] == json.loads(again.out)["best"]


def test_lists_of_one_folder_have_files_of_their_own(diffeat, folder, folder_of, tmp_path):
    things = folder / "JPEGImages/thing"
    made = []
    for name, count in (("all", 8), ("some", 6)):
        rows = [f"{a:02}.jpg,{b:02}.jpg,{x},9,{x},9" for a in range(count) for b in range(count)
                if a != b for x in (9, 20)]  # fmt: skip
        made.append(things / f"{name}.csv")
        made[-1].write_text("\n".join(["source,target,source_x,source_y,target_x,target_y", *rows]))
    for path, count in zip(made, (8, 6), strict=True):
        answer = diffeat("search", folder_of("pixel"), path, "--task", "matching", "-t", "20", "-b",
                         "stages", "--size", 16, "--device", "cpu", "--out", tmp_path)  # fmt: skip
        path.unlink()
        assert answer.code == 0, answer.err
        assert f"{count} pictures, {count} computed now" in answer.err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--task", "matching"), "matching is scored on pairs"),
        (("--alpha", "0.1"), "--alpha: for --task matching"),
        (("--task", "matching", "--score", "knn", "-C", "5"), "--score, -C: of tasks whose"),
        (("--task", "matching", "--save", "h.safetensors"), "keeps no head"),
        (("--task", "matching", "--pair-list", "gone.csv"), "gone.csv"),
        (("--task", "matching", "--pair-list", "x", "--aggregate", "all"), "aggregate='all'"),
    ],
)
def test_wrong_usage(more, words, diffeat, path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = diffeat("search", path, *more)
    assert answer.code in (1, 2)
    assert words in answer.err.replace("\n", " ")


def test_before_a_model_runs(diffeat, folder, folder_of, tmp_path):
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    bare = tmp_path / "bare.csv"
    bare.write_text("source,target,source_x,source_y,target_x,target_y\na.png,a.png,1,2,3,4\n")
    args = ("search", folder_of("pixel"), f"{folder}:trn", "--task", "matching", "-t", "20",
            "-b", "stages", "--device", "cpu")  # fmt: skip
    for more, words in (
        (("--split", "0,1,0"), "no test pairs are left"),
        (("--pool", "1x1"), "matching takes maps"),
        (("--pair-list", "{list}", "--aggregate", "class"), "has no category"),
    ):
        answer = diffeat(*args, *(str(one).format(list=bare) for one in more))
        assert (answer.code, words in answer.err) == (2, True), answer.err
        assert "forwards" not in answer.err


def test_a_probe_learns(diffeat, path):
    answer = diffeat("probe", path, "--task", "matching")
    assert answer.code == 2
    assert "diffeat search --task matching" in answer.err
