"""`--html` of `search` and `probe`."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from diffeat.cli import surface_shown
from diffeat.store import FeatureStore
from tests.search.common import arrays_of, dark_and_bright, labels_of, write_store
from tests.viz.test_page import Reader
from tests.viz.test_pair_page import data_of

MODEL = "unet-cifar10"


@pytest.fixture
def file(tmp_path):
    labels = labels_of(200)
    write_store(tmp_path / "a.h5", arrays_of(labels), labels).close()
    return tmp_path / "a.h5"


def page_of(path) -> tuple[Reader, dict]:
    text = path.read_text("utf-8")
    return Reader(text), {one["name"]: one for one in data_of(text)["cells"]}


@pytest.mark.parametrize("verb", ["probe", "search"])
def test_every_cell_and_what_it_gets_wrong(diffeat, file, tmp_path, verb):
    page = tmp_path / "s.html"
    answer = diffeat(verb, file, "--html", page)
    assert answer.code == 0, answer.err
    assert f"wrote {page}, 4 cells" in answer.out
    read, cells = page_of(page)
    found = json.loads(diffeat(verb, file, "--json").out)
    found = found.get("surface", found)
    for one in found["cells"]:
        shown = cells[f"{one['block']} t={one['t']}"]
        assert shown["facts"]["validation accuracy"] == f"{100 * one['validation']:.1f} %"
        with FeatureStore(file) as store:
            truth = dict(zip(store.ids, store.labels.tolist(), strict=True))
        assert all(str(truth[wrong["id"]]) == wrong["truth"] for wrong in shown["pictures"])
        wrong = round((1 - one["validation"]) * found["counts"][1])
        assert shown["wrong"].startswith(f"{wrong} validation pictures wrong")
        assert len(shown["pictures"]) == min(wrong, surface_shown.WRONG)
    told = [line for line in answer.err.splitlines() if "test pictures say little" in line]
    assert ("say little" in read.text) == bool(told)
    # what stands on the terminal stands on the page; the pictures are nowhere
    assert "best on validation: b at t=10" in read.text
    assert "page without pictures" in read.text
    assert {one["thumbnail"] for cell in cells.values() for one in cell["pictures"]} == {None}


def test_straight_from_a_model_with_pictures(diffeat, tmp_path):
    folder = dark_and_bright(tmp_path / "pictures")
    rng = np.random.default_rng(0)
    for k, name in enumerate(sorted(folder.glob("*/*.png"))):
        if k % 3 == 0:  # some that cannot be told from the others
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(name)
    page = tmp_path / "s.html"
    answer = diffeat("search", MODEL, folder, "-t", "300", "-b", "up.0.res.0", "--score", "knn",
                     "--split", "0.4,0.3,0.3", "--html", page, "--json")  # fmt: skip
    assert answer.code == 0, answer.err
    json.loads(answer.out)
    _, cells = page_of(page)
    [cell] = cells.values()
    assert cell["pictures"]
    assert all((folder / one["id"]).is_file() for one in cell["pictures"])
    assert {one["thumbnail"] for one in cell["pictures"]} == {*range(len(cell["pictures"]))}


def test_of_many_cells_the_best_are_looked_at(diffeat, file, tmp_path, monkeypatch):
    monkeypatch.setattr(surface_shown, "LOOKED_AT", 1)
    answer = diffeat("probe", file, "--html", tmp_path / "s.html")
    read, cells = page_of(tmp_path / "s.html")
    assert "Mistakes are of the 1 best of 4 cells." in read.text
    assert "Mistakes are of the 1 best" in answer.err
    assert [name for name, one in cells.items() if "wrong" in one] == ["b t=10"]


def test_repeats_and_another_task(diffeat, file, tmp_path):
    page = tmp_path / "s.html"
    answer = diffeat("search", file, "--score", "ridge", "--repeats", 3, "--html", page)
    assert answer.code == 0, answer.err
    read, cells = page_of(page)
    assert all("± (95 %, of the splits)" in one["facts"] for one in cells.values())
    assert "Scores are means over splits" in read.text
    assert "Wilson's" not in read.text
    answer = diffeat("probe", file, "--task", "regression", "--html", page)
    assert answer.code == 0, answer.err
    read, cells = page_of(page)
    assert "R² is not of classes" in read.text
    assert not [one for one in cells.values() if "wrong" in one]
