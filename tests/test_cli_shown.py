"""`--page`, `--confusion` and learning curves on the command line."""

from __future__ import annotations

import csv
import re

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import confusion_matrix

import probes
from diffeat.cli import shown
from diffeat.search import split_by_hash
from diffeat.search.kept import load_head
from diffeat.store import FeatureStore
from diffeat.viz import confusion_lines
from tests.search.common import arrays_of, labels_of, write_store
from tests.viz.test_page import Reader

CLASSES = ["0", "1", "2"]


@pytest.fixture
def files(tmp_path):
    """A feature file, its head and the CSV of its search."""
    labels = labels_of(600)
    write_store(tmp_path / "f.h5", arrays_of(labels), labels).close()
    return tmp_path / "f.h5", tmp_path / "h.safetensors", tmp_path / "s.csv"


def fitted(diffeat, files, *more):
    file, head, table = files
    answer = diffeat("probe", file, "--save", head, "--csv", table, *more)
    assert answer.code == 0, answer.err
    return answer


def test_probe_shows_what_it_takes_for_what_on_test(diffeat, files, tmp_path):
    answer = fitted(diffeat, files, "--confusion", tmp_path / "c.png")
    head, note = load_head(files[1], "cpu")
    with FeatureStore(files[0]) as store:
        test = split_by_hash(store.ids) == 2
        rows = store[note.cells[0]][:][test].astype(np.float32)
        matrix = confusion_matrix(store.labels[test], head.predict(rows), labels=range(3))
    lines = answer.out.split("confused most often:\n")[1].splitlines()
    assert [line.strip() for line in lines[:5]] == confusion_lines(matrix, CLASSES)
    accuracy = float(re.search(r"refitted on both, (\d+\.\d) %", answer.out)[1])
    assert np.trace(matrix) / matrix.sum() == pytest.approx(accuracy / 100, abs=0.006)
    with Image.open(tmp_path / "c.png") as picture:
        assert picture.format == "PNG"


def test_a_page_of_a_feature_file(diffeat, files, tmp_path):
    fitted(diffeat, files)
    answer = diffeat("predict", files[1], files[0], "-o", tmp_path / "p.csv", "--page",
                     tmp_path / "p.html", "--surface", files[2], "--confusion",
                     tmp_path / "c.png")  # fmt: skip
    assert answer.code == 0, answer.err
    assert "page without pictures" in answer.err
    read = Reader((tmp_path / "p.html").read_text("utf-8"))
    assert "fitted on most of these pictures" in read.text
    with open(tmp_path / "p.csv", newline="") as file:
        said = [int(row["class"]) for row in csv.DictReader(file)]
    truth = labels_of(600)
    right = np.mean(truth == said)
    assert f"{100 * right:.1f} %" in read.text
    lines = confusion_lines(confusion_matrix(truth, said), CLASSES)
    assert lines[0] in read.text
    assert lines[0] in answer.out
    assert "heat map of the search" in {value for _, value in read.attributes}
    assert (tmp_path / "c.png").is_file()


def test_labels_that_are_not_known(diffeat, files, tmp_path):
    fitted(diffeat, files)
    write_store(tmp_path / "n.h5", arrays_of(labels_of(20)), None).close()
    page = ("--page", tmp_path / "p.html")
    answer = diffeat("predict", files[1], tmp_path / "n.h5", *page)
    assert answer.code == 0, answer.err
    assert "are not known" in answer.err
    read = Reader((tmp_path / "p.html").read_text("utf-8"))
    assert "Wrong" not in read.text
    refused = diffeat("predict", files[1], tmp_path / "n.h5", "--confusion", tmp_path / "c.png")
    assert (refused.code, "are not known" in refused.err) == (2, True)
    alone = diffeat("predict", files[1], files[0], "--surface", files[2])
    assert (alone.code, "--surface is for --page" in alone.err) == (2, True)


def test_thumbnails_straight_from_pictures(tmp_path):
    for index in range(4):
        place = tmp_path / "pictures" / ("bright" if index % 2 else "dark")
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 5), (120 * (index % 2),) * 3).save(place / f"{index}.png")
    give, note = shown.picture_of(str(tmp_path / "pictures"), None)
    assert note == ""
    assert (give("bright/1.png").size, give("nobody")) == ((9, 5), None)


@pytest.mark.parametrize("option", ["--csv", "--json"])
def test_the_grid_of_a_search_that_was_written(diffeat, files, tmp_path, option):
    if option == "--csv":
        fitted(diffeat, files)
        path = files[2]
    else:
        path = tmp_path / "s.json"
        path.write_text(diffeat("probe", files[0], "--json").out)
    grid = shown.grid_of(path, "m")
    assert (grid.best, len(grid.values), grid.measure.unit) == (("b", 10), 4, "%")
    assert 0.5 < grid.values["b", 10] < 1


@pytest.mark.parametrize("text", ["block,t\na,1\n", "", "{}", "block,t,validation\na,x,1\n"])
@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_no_search(tmp_path, text, suffix):
    (tmp_path / f"s{suffix}").write_text(text)
    with pytest.raises(shown.SpecError, match=r"s\.(csv|json)"):
        shown.grid_of(tmp_path / f"s{suffix}", "m")


def test_the_learning_curve_of_a_kept_head(diffeat, files, tmp_path):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 4)).astype(np.float32), np.arange(40) % 2
    head = probes.MLPProbe(epochs=3, batch_size=8, progress=False, random_state=0)
    probes.save(head.fit(X, y, X, y), tmp_path / "mlp.safetensors")
    answer = diffeat("view", tmp_path / "mlp.safetensors", "-o", tmp_path / "c.png")
    assert answer.code == 0, answer.err
    with Image.open(tmp_path / "c.png") as picture:
        assert picture.height > 400  # loss and score
    fitted(diffeat, files)
    linear = diffeat("view", files[1], "-o", tmp_path / "d.png")
    assert (linear.code, "no learning curve" in linear.err) == (1, True)
    assert not (tmp_path / "d.png").exists()
