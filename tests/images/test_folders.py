"""Which folders are taken for classes: of folders, globs, lists, paths and tars."""

from __future__ import annotations

import io
import warnings

import pytest
from PIL import Image

from diffeat.images import found_text, open_source
from tests.images.builders import PICTURE, pack

CLASSES = ["cat/0.png", "cat/1.png", "dog/0.png"]
LABELS = [0, 0, 1]


@pytest.fixture
def make(tmp_path):
    """Writes pictures below a folder."""

    def write(*names):
        file = io.BytesIO()
        Image.new("RGB", (2, 2)).save(file, "PNG")
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(file.getvalue())
        return tmp_path

    return write


def told(source):
    labels = None if source.labels is None else source.labels.tolist()
    return source.class_names, labels


def listed(root, names):
    (root / "list.txt").write_text("\n".join(names), "utf-8")
    return root / "list.txt"


class TestWhatLooksLikeClasses:
    def test_a_glob(self, make):
        root = make(*CLASSES, "cat/notes.txt")
        source = open_source(f"{root}/*/*.png")
        assert source.ids == tuple(CLASSES)  # they seed the noise
        assert told(source) == (("cat", "dog"), LABELS) == told(open_source(root))

    def test_a_list(self, make):
        root = make(*(f"pics/{name}" for name in CLASSES))
        source = open_source(listed(root, [f"pics/{name}" for name in CLASSES]))
        assert source.ids == tuple(f"pics/{name}" for name in CLASSES)
        assert told(source) == (("cat", "dog"), LABELS)

    def test_a_tar_and_its_shards(self, tmp_path):
        tar = pack(tmp_path / "a.tar", {f"pics/{name}": PICTURE for name in CLASSES})
        assert open_source(tar).ids == ("a/pics/cat/0", "a/pics/cat/1", "a/pics/dog/0")
        assert told(open_source(tar)) == (("cat", "dog"), LABELS)
        for k, name in enumerate(CLASSES):
            pack(tmp_path / f"s-{k}.tar", {name: PICTURE})
        assert told(open_source(f"{tmp_path}/s-*.tar")) == (("cat", "dog"), LABELS)

    def test_a_tar_with_labels_of_its_own_keeps_them(self, tmp_path):
        members = dict.fromkeys(CLASSES, PICTURE)
        members |= {f"{name[:-4]}.cls": "3" for name in CLASSES}
        assert open_source(pack(tmp_path / "a.tar", members)).labels.tolist() == [3, 3, 3]

    def test_paths_where_it_cannot_be_mistaken(self, make):
        root = make(*CLASSES, "dog/1.png", "cat/deep/2.png")
        paths = [root / name for name in (*CLASSES, "dog/1.png")]
        assert told(open_source(paths)) == (("cat", "dog"), [*LABELS, 1])
        assert open_source(paths).ids[0] == (root / "cat/0.png").as_posix()
        assert open_source(paths[:3]).labels is None  # one dog alone
        assert open_source([*paths, root / "cat/deep/2.png"]).labels is None

    @pytest.mark.parametrize(
        "names",
        [
            ["a/0.png", "b/0.png", "c/0.png"],  # a folder for each picture
            ["a/0.png", "a/1.png"],  # all in one
            ["a/0.png", "a/1.png", "b.png"],  # one in none
            ["../x/0.png", "a/0.png", "a/1.png"],
        ],
    )
    def test_what_does_not(self, make, names):
        assert open_source(listed(make(*names[1:]), names)).labels is None

    def test_folders_that_are_numbers_are_in_their_order(self, make):
        root = make("2/a.png", "10/a.png", "10/b.png")
        assert open_source(f"{root}/*/*").class_names == ("2", "10")


class TestPartsOfADataSet:
    DEEP = tuple(f"{part}/{name}" for part in ("Train", "test", "VAL") for name in CLASSES)

    def test_classes_are_the_folders_below(self, make):
        root = make(*self.DEEP)
        with pytest.warns(UserWarning, match="holds Train/, VAL/ and test/, parts of a data set.*"
                          rf"name {root}/Train or {root}/VAL or {root}/test"):  # fmt: skip
            source = open_source(root)
        assert told(source) == (("cat", "dog"), 3 * LABELS)
        assert source.before().class_names == ("Train", "VAL", "test")
        with pytest.warns(UserWarning, match="name the pictures of Train/, VAL/ and test/ alone"):
            assert told(open_source(f"{root}/*/*/*")) == (("cat", "dog"), 3 * LABELS)

    @pytest.mark.parametrize(
        "names",
        [
            ["train/0.png", "train/1.png", "test/0.png"],  # no classes below
            ["train/cat/0.png", "train/dog/0.png", "test/0.png"],  # in one of them
            [*DEEP, "more/0.png", "more/1.png"],  # beside another folder
        ],
    )
    def test_a_part_is_never_a_class(self, make, names):
        with pytest.warns(UserWarning, match="look like parts of a data set.*no labels are taken"):
            assert open_source(make(*names)).labels is None

    def test_a_class_that_is_called_test_by_chance(self, make):
        root = make("blood/0.png", "test/0.png", "test/1.png")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert told(open_source(root)) == (("blood", "test"), [0, 1, 1])

    def test_pictures_beside_their_masks(self, make):
        root = make("images/0.png", "images/1.png", "Masks/0.png", "Masks/1.png")
        with pytest.warns(UserWarning, match=rf"Masks/ and images/: pictures .* {root}/images"):
            assert open_source(root).labels is None


class TestWhatIsSaid:
    def test_few_classes(self, make):
        text = found_text(open_source(make(*CLASSES)))
        assert text == "3 pictures, 2 classes: cat 2, dog 1"

    def test_many_classes(self, make):
        root = make(*(f"c{k:02d}/{n}.png" for k in range(12) for n in range(1 + (k == 0))))
        assert found_text(open_source(root), 20) == (
            "13 of 20 pictures, 12 classes: c00 2, c01 1, c02 1, c03 1, c04 1, …"
        )

    def test_none(self, make):
        assert found_text(open_source(make("a.png"))) == (
            "1 picture, no labels (one folder per class, a list `path,label`, or --labels FILE "
            "would give some)"
        )
