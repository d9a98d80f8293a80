"""Labels from wherever they are to the feature file; and files that were made without them."""

from __future__ import annotations

import dataclasses
import tarfile
import warnings

import numpy as np
import pytest
from PIL import Image

import diffeat as package
from diffeat import ExtractSpec, FeatureStore, extract_to_file, open_source
from diffeat.errors import PictureError
from diffeat.images import FileSource
from tests.pipelines import NATIVE

NAMES = ("cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png")
SPEC = ExtractSpec((20,), ("mid",), pool="1x1", dtype="float32")
TABLE = "path,label,age,tags\npics/cat/0.png,x,1.5,a|b\npics/cat/1.png,y,2,b\npics/dog/0.png,x,,a\n"


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Two cats and two dogs in pics, the working folder above them."""
    rng = np.random.default_rng(0)
    for name in NAMES:
        path = tmp_path / "pics" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*NATIVE, 3), np.uint8)).save(path)
    (tmp_path / "t.csv").write_text(TABLE, "utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(diffeat, folder_of, root):
    """Runs `diffeat extract` and gives what it said and the file."""

    def extract(pictures, *options, out="f.h5"):
        fields = ("-t", "20", "-b", "mid", "--pool", "1x1", "--device", "cpu")
        answer = diffeat("extract", folder_of("pixel"), pictures, "-o", out, *fields, *options)
        return answer, root / out

    return extract


def labels_in(path):
    with FeatureStore(path) as store:
        labels = None if store.labels is None else store.labels.tolist()
        return labels, store.class_names, list(store.targets)


@pytest.mark.filterwarnings("always::UserWarning")  # which the command prints
class TestExtract:
    def test_says_what_it_found(self, run):
        answer, path = run("pics")
        assert answer.err.splitlines()[0] == "note: 4 pictures, 2 classes: cat 2, dog 2"
        assert labels_in(path) == ([0, 0, 1, 1], ["cat", "dog"], [])

    def test_a_glob(self, run):
        answer, path = run("pics/*/*.png", "--limit", "2")
        assert answer.err.splitlines()[0] == "note: 2 of 4 pictures, 2 classes: cat 1, dog 1"
        assert labels_in(path)[0] == [0, 1]

    def test_none_are_wanted(self, run):
        answer, path = run("pics", "--no-labels")
        assert "4 pictures, no labels (one folder per class" in answer.err
        assert labels_in(path) == (None, [], [])
        assert run("pics", "--no-labels", "--labels", "t.csv")[0].code == 2

    def test_a_table(self, run):
        answer, path = run("pics", "--labels", "t.csv")
        assert "1 of 4 pictures have no target: 'dog/1.png'" in answer.err
        assert (
            "4 pictures, 2 classes: x 2, y 1, 1 picture without\n"
            "  age: numbers, 1.5 to 2, 2 pictures without\n"
            "  tags: 2 labels: a 2, b 2, 1 picture without\n"
        ) in answer.err
        assert labels_in(path) == ([0, 1, 0, -1], ["x", "y"], ["age", "tags"])
        with FeatureStore(path) as store:
            np.testing.assert_array_equal(store.targets["age"].values, [1.5, 2, np.nan, np.nan])
        assert package.store.verify(path) == []

    def test_some_columns_of_a_table(self, run):
        answer, path = run("pics", "--labels", "t.csv", "--column", "age")
        assert answer.code == 0
        assert labels_in(path) == ([0, 0, 1, 1], ["cat", "dog"], ["age"])  # folders are classes
        answer, _ = run("pics", "--labels", "t.csv", "--column", "ages", out="g.h5")
        assert "no column 'ages' (did you mean 'age' or 'tags'?)" in answer.err

    def test_a_list_that_is_a_table(self, run):
        answer, path = run("t.csv", "--column", "label,age")
        assert "3 pictures, 2 classes: x 2, y 1\n  age: numbers" in answer.err
        assert labels_in(path) == ([0, 1, 0], ["x", "y"], ["age"])

    def test_imagenet_s_list_as_a_table(self, run, root):
        lines = [f"{name.replace('/', '_')} {k}" for k, name in enumerate(NAMES)]
        (root / "val.txt").write_text("\n".join(lines), "utf-8")
        answer, _ = run("pics", "--labels", "val.txt")
        assert "none of its 4 rows is of these 4 pictures" in answer.err
        (root / "val.txt").write_text("\n".join(f"{n} {k % 2}" for k, n in enumerate(NAMES)))
        assert labels_in(run("pics", "--labels", "val.txt")[1])[:2] == ([0, 1, 0, 1], ["0", "1"])

    def test_it_is_said_once_by_all_ranks(self, run, monkeypatch):
        monkeypatch.setenv("RANK", "1")
        answer, _ = run("nowhere/*/*.png")
        assert "pictures, " not in answer.err

    def test_a_prompt_that_names_the_class_of_pictures_without(self, run):
        answer, _ = run("pics", "--labels", "t.csv", "--prompt", "a {class}")
        assert "names the class, and 1 of 4 pictures have none" in answer.err


@pytest.fixture
def to_file(backbone_of, root):
    """Extracts a source; says whether it was told that the file goes on as it is."""

    def extract(source, **options):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = extract_to_file(backbone_of("pixel"), source, SPEC, root / "f.h5",
                                     progress=False, **options)  # fmt: skip
        said = [str(one.message) for one in caught if "goes on" in str(one.message)
                or "gone on with as it is" in str(one.message)]  # fmt: skip
        return result.status, said

    return extract


def unlabelled(source):
    """As versions that took no labels of it had it."""
    return dataclasses.replace(source, labels=None, class_names=(), before=None)


class TestFilesOfEarlierVersions:
    @pytest.mark.parametrize("typed", ["pics/*/*.png", "list.txt", "pics.tar"])
    def test_what_had_no_labels_takes_them_on(self, to_file, root, typed):
        (root / "list.txt").write_text("\n".join(f"pics/{name}" for name in NAMES))
        with tarfile.open(root / "pics.tar", "w") as tar:
            tar.add(root / "pics", "pics")
        source = open_source(typed)
        assert source.class_names == ("cat", "dog")
        assert to_file(unlabelled(source)) == ("done", [])
        assert to_file(source) == ("relabelled", [])
        assert labels_in(root / "f.h5")[0] == [0, 0, 1, 1]
        assert to_file(source) == ("already complete", [])

    def test_a_subset_was_chosen_without_labels(self, to_file):
        source = open_source("pics/*/*.png")
        assert unlabelled(source).limit(3).ids != source.limit(2).ids
        assert to_file(unlabelled(source).limit(1))[0] == "done"
        assert to_file(source.limit(1))[0] == "already complete"

    def test_unfinished_parts_go_on(self, to_file, root, monkeypatch):
        source, load = open_source("pics/*/*.png"), FileSource.load

        def fails(self, index):
            if index == 3:
                raise PictureError(self.ids[index], "the disk is away")
            return load(self, index)

        with monkeypatch.context() as patch:
            patch.setattr(FileSource, "load", fails)
            with pytest.raises(PictureError):
                to_file(unlabelled(source), batch_size=1)
        assert list((root / "f.h5.parts").glob("shard-*.h5"))
        status, [said] = to_file(source, batch_size=1)
        assert (status, "made without labels" in said) == ("resumed", True)
        assert labels_in(root / "f.h5")[0] is None

    def test_classes_that_were_train_and_test(self, to_file, root):
        for part in ("train", "test"):
            (root / "data" / part).parent.mkdir(exist_ok=True)
            for name in NAMES:
                path = root / "data" / part / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes((root / "pics" / name).read_bytes())
        with pytest.warns(UserWarning, match="parts of a data set and no classes"):
            source = open_source("data")
        before = source.before()
        assert before.class_names == ("test", "train")
        assert to_file(before)[0] == "done"
        assert to_file(source) == ("relabelled", [])
        assert labels_in(root / "f.h5")[1] == ["cat", "dog"]

    def test_further_targets_came_later(self, to_file, root):
        source = open_source("t.csv")
        assert to_file(dataclasses.replace(source, targets={}))[0] == "done"
        assert to_file(source) == ("relabelled", [])
        with FeatureStore(root / "f.h5") as store:
            assert list(store.targets) == ["age", "tags"]

    def test_other_labels_are_taken_on(self, to_file, root):
        source = open_source("pics")
        assert to_file(source)[0] == "done"
        assert to_file(source.labelled(np.array([1, 0, 1, 0]), ("cat", "dog")))[0] == "relabelled"
        assert labels_in(root / "f.h5")[0] == [1, 0, 1, 0]
        assert to_file(unlabelled(source))[0] == "relabelled"
        assert labels_in(root / "f.h5")[0] is None
