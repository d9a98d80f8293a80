"""Targets of tables for probe, search and predict; two sets in one space; what is refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score, mean_absolute_error, r2_score

import probes
from diffeat.errors import SpecError
from diffeat.search import TEST, load_head, split_groups, task_from_store
from diffeat.search.splits import LEFT_OUT, balance_of
from diffeat.search.targeted import TargetChoice, one_space, targets_of
from diffeat.targets import Labelled, labels_for
from tests.search.common import BEST, arrays_of, labels_of, write_store

COUNT = 120
ANIMALS = ("cat", "dog", "owl")


def table(path: Path, **columns) -> Path:
    """A CSV of p0, p1, … with these columns."""
    count = len(next(iter(columns.values())))
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", *columns])
        writer.writerows(zip((f"p{k}" for k in range(count)), *columns.values(), strict=True))
    return path


@pytest.fixture
def plain(tmp_path):
    """A file of pictures without labels, and the classes that its features are of."""
    labels = labels_of(COUNT)
    write_store(tmp_path / "f.h5", arrays_of(labels)).close()
    return tmp_path / "f.h5", labels


def words(labels) -> list[str]:
    return [ANIMALS[k] for k in labels]


class TestTask:
    def test_a_table_is_as_good_as_labels_of_the_file(self, plain, tmp_path):
        import diffeat

        path, labels = plain
        write_store(tmp_path / "own.h5", arrays_of(labels), labels).close()
        with diffeat.FeatureStore(path) as store, diffeat.FeatureStore(tmp_path / "own.h5") as own:
            found = labels_for(store, table(tmp_path / "t.csv", label=words(labels)))
            task, other = task_from_store(store, labels=[found]), task_from_store(own)
            np.testing.assert_array_equal(task.part, other.part)
            np.testing.assert_array_equal(task.labels, other.labels)
            assert task.made.class_names == ANIMALS

    def test_pictures_without_a_label_and_groups(self, plain, tmp_path):
        import diffeat

        path, labels = plain
        named = [word if k % 5 else "" for k, word in enumerate(words(labels))]
        people = [f"m{k // 3}" for k in range(COUNT)]
        with diffeat.FeatureStore(path) as store:
            t = table(tmp_path / "t.csv", label=named, person=people)
            with pytest.warns(UserWarning, match="24 of 120 pictures have no target"):
                task = task_from_store(store, labels=[labels_for(store, t)])
        out = np.arange(COUNT) % 5 == 0
        np.testing.assert_array_equal(task.part == LEFT_OUT, out)
        kept = np.flatnonzero(~out)
        alone, _ = split_groups([people[k] for k in kept], labels=labels[kept])
        np.testing.assert_array_equal(task.part[kept], alone)
        sides = {}
        for k in kept:
            sides.setdefault(people[k], set()).add(int(task.part[k]))
        assert all(len(parts) == 1 for parts in sides.values())
        assert (task.classes, task.remarks) == (3, ", 40 groups, 24 without a label left out")

    def test_several_labels_are_split_by_the_rarest(self):
        labels = np.array([[1, 1], [1, 0], [0, 0], [1, 0], [0, 1]] * 2)
        assert balance_of(labels).tolist() == [1, 0, 2, 0, 1] * 2
        assert balance_of(np.array([4.0, 1.0, 2.0, 3.0])).tolist() == [3, 0, 1, 2]


class TestOneSpace:
    def test_names_count_and_not_indices(self):
        one = Labelled(np.array([0, 1, -1]), ("cat", "dog"), None)
        two = Labelled(np.array([0, 1]), ("dog", "owl"), None)
        first, second = one_space([one, two], ["a", "b"])
        assert first.class_names == second.class_names == ("cat", "dog", "owl")
        assert (first.labels.tolist(), second.labels.tolist()) == ([0, 1, -1], [1, 2])
        flags = [Labelled(np.array([[1, 0]]), ("x", "y"), None),
                 Labelled(np.array([[1], [-1]]), ("y",), None)]  # fmt: skip
        assert one_space(flags, ["a", "b"])[1].labels.tolist() == [[0, 1], [-1, -1]]
        with pytest.raises(SpecError, match="a and b have different classes: cat, dog there, owl"):
            one_space([one, two._replace(class_names=("owl", "fox"))], ["a", "b"])

    def test_two_files_and_their_tables(self, diffeat, tmp_path):
        files, answers = [], []
        for name, seed in (("train", 0), ("test", 1)):
            labels = labels_of(COUNT, seed)
            arrays = {c: X + np.float32(0.01 * seed) for c, X in arrays_of(labels).items()}
            write_store(tmp_path / f"{name}.h5", arrays, labels).close()
            files.append(tmp_path / f"{name}.h5")
            table(tmp_path / f"{name}.csv", label=words(labels))
            answers.append(labels)
        plain = json.loads(diffeat("probe", *files, "--json").out)
        tables = ("--labels", tmp_path / "train.csv")
        one = diffeat("probe", *files, *tables)
        assert one.code == 2
        assert "expected a table for each: --test-labels" in one.err
        two = diffeat("probe", *files, *tables, "--test-labels", tmp_path / "test.csv", "--json")
        assert json.loads(two.out)["best"] == plain["best"]
        more = ("--test-labels", tmp_path / "test.csv")
        for given in ((*files, *more), (files[0], *tables, *more)):
            answer = diffeat("probe", *given)
            assert answer.code == 2
            assert "--test-labels without" in answer.err


class TestOwn:
    def test_classes_that_are_numbers(self, tmp_path):
        labels = labels_of(40)
        with write_store(tmp_path / "f.h5", arrays_of(labels), labels) as store:  # "0", "1", "2"
            [found] = targets_of([store], "number")
            assert found.labels.tolist() == labels.astype(float).tolist()
            with pytest.raises(SpecError, match="one class per picture, and --task multilabel"):
                targets_of([store], "labels")

    def test_groups_alone_leave_the_labels_to_the_file(self, tmp_path):
        labels = labels_of(40)
        people = [f"m{k % 9}" for k in range(40)]
        choice = TargetChoice(table(tmp_path / "g.csv", person=people), groups="person")
        with write_store(tmp_path / "f.h5", arrays_of(labels), labels) as store:
            [found] = targets_of([store], "class", choice)
        assert (found.labels.tolist(), found.groups) == (labels.tolist(), tuple(people))


@pytest.fixture
def everything(plain, tmp_path):
    """A file, and a table with classes, numbers, flags and sets that its features tell."""
    path, labels = plain
    rng = np.random.default_rng(3)
    age = 10.0 * labels + rng.normal(size=COUNT)
    flags = np.stack([labels != 0, labels == 2], 1).astype(int)
    sets = ["|".join(n for n, f in zip(("furry", "flies"), row, strict=True) if f) for row in flags]
    t = table(
        tmp_path / "t.csv", animal=words(labels), age=[f"{a:.3f}" if k % 10 else "" for k, a in
        enumerate(age)], furry=flags[:, 0], flies=flags[:, 1], traits=sets,
        owner=[f"m{k // 2}" for k in range(COUNT)],
    )  # fmt: skip
    return path, t


def numbers_of(path: Path, column: str) -> tuple[np.ndarray, list[dict[str, str]]]:
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return np.array([float(row[column] or "nan") for row in rows]), rows


class TestCommands:
    @pytest.mark.filterwarnings("ignore:.*have no target")
    @pytest.mark.parametrize("verb", ["probe", "search"])
    def test_regression_from_table_to_predictions(self, diffeat, everything, tmp_path, verb):
        path, t = everything
        head, cells_csv = tmp_path / "h.safetensors", tmp_path / "c.csv"
        args = (verb, path, "--task", "regression", "--labels", t, "--column", "age",
                "--groups", "owner")  # fmt: skip
        answer = diffeat(*args, "--save", head, "--csv", cells_csv, "--png", tmp_path / "c.png")
        assert answer.code == 0, answer.err
        assert "validation R²" in answer.out
        assert "12 without a label left out" in answer.out
        assert "a constant (the mean of training): R² -0.0" in answer.out
        assert "mean absolute error of a constant" in answer.out
        found = json.loads(diffeat(*args, "--json").out)
        cells = found["cells"] if verb == "probe" else found["surface"]["cells"]
        validation, _ = numbers_of(cells_csv, "validation")
        np.testing.assert_allclose(validation, [c["validation"] for c in cells], atol=1e-4)
        with Image.open(tmp_path / "c.png") as picture:
            assert picture.size[0] > 100
        answer = diffeat("predict", head, path, "--labels", t, "-o", tmp_path / "p.csv", "--json")
        assert answer.code == 0, answer.err
        summary = json.loads(answer.out)
        value, rows = numbers_of(tmp_path / "p.csv", "value")
        assert list(rows[0]) == ["id", "value"]
        truth, _ = numbers_of(t, "age")
        known = ~np.isnan(truth)
        assert summary["labelled"] == known.sum() == 108
        assert summary["scores"]["R²"] == pytest.approx(r2_score(truth[known], value[known]))
        error = mean_absolute_error(truth[known], value[known])
        assert summary["scores"]["mean absolute error"] == pytest.approx(error)
        owners = [f"m{k // 2}" for k in np.flatnonzero(known)]
        part, _ = split_groups(owners, labels=balance_of(truth[known]))
        tested = r2_score(truth[known][part == TEST], value[known][part == TEST])
        assert found["best"]["test"] == pytest.approx(tested, abs=1e-6)
        assert "R²" in diffeat("predict", head, path, "--labels", t, "--limit", 50).out
        assert "R²" not in diffeat("predict", head, path).out

    @pytest.mark.parametrize("columns", ["furry,flies", "traits"])
    def test_several_labels(self, diffeat, everything, tmp_path, columns):
        path, t = everything
        head = tmp_path / "h.safetensors"
        args = ("--task", "multilabel", "--labels", t, "--column", columns, "--save", head)
        answer = diffeat("search", path, *args, "--sets", 2)
        assert answer.code == 0, answer.err
        assert "mean average precision in %" in answer.out
        assert "2 labels" in answer.out
        assert type(probes.load(head)) is probes.RidgeMultilabelProbe
        assert set(load_head(head)[1].class_names) == {"furry", "flies"}
        answer = diffeat("predict", head, path, "--labels", t, "--column", columns, "-o",
                         tmp_path / "p.csv", "--json")  # fmt: skip
        truth = np.stack([numbers_of(t, name)[0] for name in ("furry", "flies")], 1)
        said = np.stack([numbers_of(tmp_path / "p.csv", f"score of {name}")[0]
                         for name in ("furry", "flies")], 1)  # fmt: skip
        wanted = np.mean(average_precision_score(truth, said, average=None))
        found = json.loads(answer.out)["scores"]["mean average precision"]
        assert found == pytest.approx(wanted)

    def test_classes_of_a_table(self, diffeat, everything):
        path, t = everything
        args = ("--labels", t, "--column", "animal", "--groups", "owner")
        answer = diffeat("probe", path, *args)
        assert answer.code == 0, answer.err
        assert "3 classes" in answer.out
        assert "Wilson of the groups" in answer.out or "groups" in answer.out
        found = json.loads(diffeat("search", path, *args, "--json").out)
        assert (found["best"]["block"], found["best"]["t"]) == BEST
        assert 0 < found["floor"]["value"] < 0.6

    @pytest.mark.parametrize(
        ("args", "message"),
        [
            (("--column", "age"), "take --task regression"),
            (("--column", "traits"), "take --task multilabel"),
            (("--column", "animal", "--task", "regression"), "there is --task classification"),
            (("--column", "age", "--task", "multilabel"), "take --task regression"),
            (("--column", "animal", "--task", "multilabel"), "take --task classification"),
            (("--column", "animals"), "did you mean 'animal'"),
            ((), "--column NAME"),
        ],
    )
    @pytest.mark.filterwarnings("ignore:.*have no target")
    def test_another_kind_names_its_task(self, diffeat, everything, args, message):
        path, t = everything
        answer = diffeat("probe", path, "--labels", t, *args)
        assert answer.code in (1, 2)
        assert message in answer.err

    @pytest.mark.parametrize("verb", ["probe", "search"])
    def test_no_labels_names_all_ways(self, diffeat, plain, verb):
        answer = diffeat(verb, plain[0])
        assert answer.code == 2
        for way in ("one subfolder per class", "list with labels", "--labels FILE"):
            assert way in answer.err
        answer = diffeat(verb, plain[0], "--groups", "person")
        assert answer.code == 2
        if verb == "search":
            answer = diffeat(verb, plain[0], "--frequency", "--groups", "person")
            assert answer.code == 2
            assert "--groups: " in answer.err

    def test_features_that_were_told_their_class_are_refused(self, diffeat, everything):
        path, t = everything
        with h5py.File(path, "r+") as file:
            file.attrs["spec"] = json.dumps({**json.loads(file.attrs["spec"]), "label": "class"})
        args = ("probe", path, "--labels", t, "--column", "furry,flies", "--task", "multilabel")
        answer = diffeat(*args)
        assert answer.code == 2
        assert "conditioned on their own targets" in answer.err
        assert "not a measure of recognition" in diffeat(*args, "--allow-conditioned").out

    def test_scores_of_classes_are_not_those_of_numbers(self, diffeat, everything):
        path, t = everything
        answer = diffeat("search", path, "--task", "multilabel", "--labels", t, "--column",
                         "traits", "--score", "knn")  # fmt: skip
        assert answer.code == 2
        assert "scored by ridge, leave --score out" in answer.err


class TestPictures:
    @pytest.fixture
    def folder(self, tmp_path):
        """Flat pictures whose brightness a table knows, and one that is no picture."""
        rng = np.random.default_rng(0)
        (tmp_path / "pictures").mkdir()
        level = rng.uniform(0, 120, 24)
        for k, low in enumerate(level):
            pixels = (rng.integers(0, 130, (16, 16, 3)) + low).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / f"p{k}.png")
        for k in range(24, 26):
            (tmp_path / "pictures" / f"p{k}.png").write_bytes(b"not a picture")
        light = ["light" if low > 60 else "dark" for low in level]
        table(tmp_path / "t.csv", level=[f"{low:.2f}" for low in level], label=light)
        return tmp_path / "pictures"

    MODEL = ("unet-cifar10", "-t", "20", "-b", "up.0.res.0", "--split", "0.5,0.25,0.25")

    def test_labels_of_other_names_are_said_not_to_be_compared(self, diffeat, plain, tmp_path):
        path, labels = plain
        head = tmp_path / "h.safetensors"
        named = table(tmp_path / "n.csv", label=words(labels))
        numbers = table(tmp_path / "k.csv", label=labels)
        assert diffeat("probe", path, "--labels", named, "--save", head).code == 0
        answer = diffeat("predict", head, path, "--labels", numbers)
        assert answer.code == 0, answer.err
        assert "k.csv: the labels (0, 1, 2) are not those of the head (cat, dog, owl)" in answer.err
        assert "are not those" not in diffeat("predict", head, path, "--labels", named).err

    @pytest.mark.filterwarnings("ignore:.*have no target")
    def test_search_and_predict_with_unreadable_pictures(self, diffeat, folder, tmp_path):
        head, t = tmp_path / "h.safetensors", folder.parent / "t.csv"
        model, *args = self.MODEL
        answer = diffeat("search", model, folder, *args, "--labels", t, "--column", "level",
                         "--task", "regression", "--save", head, "--json")  # fmt: skip
        assert answer.code == 0, answer.err  # of p24 and p25 nothing is computed
        found = json.loads(answer.out)
        assert found["best"]["validation"] > 0.5
        assert sum(found["surface"]["counts"]) == 24
        answer = diffeat("predict", head, folder, "-o", tmp_path / "p.csv")
        assert answer.code == 1
        assert "--on-error skip" in answer.err
        assert not (tmp_path / "p.csv").exists()
        answer = diffeat("predict", head, folder, "--on-error", "skip", "--batch-size", 1, "-o",
                         tmp_path / "p.csv", "--labels", t, "--json")  # fmt: skip
        assert answer.code == 0, answer.err
        assert "p24.png: " in answer.err
        assert "2 of 26 pictures could not be read and have no prediction" in answer.err
        summary = json.loads(answer.out)
        assert list(summary["skipped"]) == ["p24.png", "p25.png"]
        assert summary["labelled"] == 24
        value, rows = numbers_of(tmp_path / "p.csv", "value")
        assert [row["id"] for row in rows] == sorted(row["id"] for row in rows)
        assert np.isnan(value).sum() == 2
        assert [row["id"] for row in rows if row["error"]] == ["p24.png", "p25.png"]

    @pytest.mark.filterwarnings("ignore:.*have no target")
    def test_a_limit_is_of_pictures_with_a_label(self, diffeat, folder):
        model, *args = self.MODEL
        answer = diffeat("search", model, folder, *args, "--labels", folder.parent / "t.csv",
                         "--limit", 16, "--score", "knn", "-C", 1, "--json")  # fmt: skip
        assert answer.code == 0, answer.err
        assert sum(json.loads(answer.out)["surface"]["counts"]) == 16
