import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from diffeat.errors import PictureError, SourceError
from diffeat.images import ArraySource, FileSource, datasets, open_source


def picture(path, colour=(0, 0, 0)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (2, 2), colour).save(path)
    return path


def colour_of(source, index):
    return source.load(index).getpixel((0, 0))


def in_memory(labels, names):
    count = len(labels)
    return ArraySource(
        name="memory",
        ids=tuple(f"p{index}" for index in range(count)),
        labels=np.array(labels),
        class_names=names,
        pixels=np.arange(count, dtype=np.uint8)[:, None, None] * np.ones((1, 2, 2), np.uint8),
    )


# folders


def test_flat_folder_is_sorted_and_has_no_labels(tmp_path):
    for name in ("b.png", "a.JPG", "c.webp"):
        picture(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    source = open_source(tmp_path)
    assert source.ids == ("a.JPG", "b.png", "c.webp")
    assert source.labels is None
    assert len(source) == 3


def test_class_subfolders_become_labels(tmp_path):
    for name in ("dog/2.png", "cat/1.png", "dog/1.png", "cat/deep/er.png"):
        picture(tmp_path / name)
    source = open_source(str(tmp_path))
    assert source.ids == ("cat/1.png", "cat/deep/er.png", "dog/1.png", "dog/2.png")
    assert source.class_names == ("cat", "dog")
    assert source.labels.tolist() == [0, 0, 1, 1]
    assert source.labels.dtype == np.int64


def test_ids_do_not_depend_on_where_the_folder_lies(tmp_path):
    for root in ("here", "there/deeper"):
        picture(tmp_path / root / "x" / "1.png")
    here, there = open_source(tmp_path / "here"), open_source(tmp_path / "there" / "deeper")
    assert here.ids == there.ids == ("x/1.png",)
    assert here.fingerprint() == there.fingerprint()


def test_mixed_folder_warns_and_has_no_labels(tmp_path):
    for name in ("a.png", "cat/b.png"):
        picture(tmp_path / name)
    with pytest.warns(UserWarning, match="both in it and in its subfolders, so no labels"):
        source = open_source(tmp_path)
    assert source.labels is None
    assert source.ids == ("a.png", "cat/b.png")


def test_same_file_name_in_two_folders_gives_two_pictures(tmp_path):
    picture(tmp_path / "a" / "x.png", (1, 1, 1))
    picture(tmp_path / "b" / "x.png", (2, 2, 2))
    source = open_source(tmp_path)
    assert source.ids == ("a/x.png", "b/x.png")
    assert [colour_of(source, 0), colour_of(source, 1)] == [(1, 1, 1), (2, 2, 2)]


def test_unicode_and_spaces_in_paths(tmp_path):
    folder = tmp_path / "Fotos für später" / "Katze 猫"
    picture(folder / "schön & gut [1].png", (3, 4, 5))
    source = open_source(tmp_path / "Fotos für später")
    assert source.ids == ("Katze 猫/schön & gut [1].png",)
    assert source.class_names == ("Katze 猫",)
    assert colour_of(source, 0) == (3, 4, 5)


def test_hidden_files_and_folders_are_left_out(tmp_path):
    for name in ("a.png", ".b.png", ".trash/c.png"):
        picture(tmp_path / name)
    assert open_source(tmp_path).ids == ("a.png",)


def test_hidden_parent_of_the_folder_does_not_matter(tmp_path):
    picture(tmp_path / ".cache" / "a.png")
    assert open_source(tmp_path / ".cache").ids == ("a.png",)


def test_folder_named_like_a_picture_is_no_picture(tmp_path):
    picture(tmp_path / "scans.png" / "a.png")
    source = open_source(tmp_path)
    assert source.ids == ("scans.png/a.png",)
    assert source.class_names == ("scans.png",)


def test_empty_folder_is_refused(tmp_path):
    with pytest.raises(SourceError, match=r"no pictures found; expected files ending in .*\.jpg"):
        open_source(tmp_path)


# globs


def test_glob_takes_what_matches(tmp_path):
    for name in ("a/1.png", "a/2.jpg", "b/1.png", "b/deep/3.png"):
        picture(tmp_path / name)
    (tmp_path / "a" / "notes.txt").write_text("no picture")
    assert open_source(f"{tmp_path}/*/*.png").ids == ("a/1.png", "b/1.png")
    assert open_source(f"{tmp_path}/a/*").ids == ("1.png", "2.jpg")
    assert open_source(f"{tmp_path}/**/[13].png").ids == ("a/1.png", "b/1.png", "b/deep/3.png")


def test_relative_glob_gives_the_same_ids(tmp_path, monkeypatch):
    picture(tmp_path / "a" / "1.png", (6, 6, 6))
    monkeypatch.chdir(tmp_path)
    source = open_source("*/*.png")
    assert source.ids == open_source(f"{tmp_path}/*/*.png").ids == ("a/1.png",)
    assert colour_of(source, 0) == (6, 6, 6)


def test_glob_without_match_is_refused(tmp_path):
    with pytest.raises(SourceError, match="no pictures found"):
        open_source(f"{tmp_path}/*.png")


# list files, single pictures, sequences


def test_list_file_keeps_its_order_and_skips_comments(tmp_path):
    picture(tmp_path / "in" / "b c.png", (1, 1, 1))
    picture(tmp_path / "in" / "ä.png", (2, 2, 2))
    listed = tmp_path / "list.txt"
    listed.write_bytes("# two\nin/ä.png\r\n\n  in/b c.png  \n".encode())
    source = open_source(listed)
    assert source.ids == ("in/ä.png", "in/b c.png")
    assert [colour_of(source, 0), colour_of(source, 1)] == [(2, 2, 2), (1, 1, 1)]


def test_list_file_with_a_byte_order_mark(tmp_path):
    picture(tmp_path / "a.png", (1, 2, 3))
    (tmp_path / "list.txt").write_text("a.png\n", encoding="utf-8-sig")
    source = open_source(tmp_path / "list.txt")
    assert source.ids == ("a.png",)
    assert colour_of(source, 0) == (1, 2, 3)


def test_duplicate_in_a_list_is_refused(tmp_path):
    (tmp_path / "list.txt").write_text("a.png\nb.png\na.png\n")
    with pytest.raises(SourceError, match=r"1 pictures occur more than once, first 'a\.png'"):
        open_source(tmp_path / "list.txt")


def test_empty_list_is_refused(tmp_path):
    (tmp_path / "list.txt").write_text("# nothing yet\n")
    with pytest.raises(SourceError, match="no pictures found"):
        open_source(tmp_path / "list.txt")


def test_list_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(SourceError, match="not a list of pictures"):
        open_source(tmp_path / "list.txt")


def test_missing_file_in_a_list_is_named_when_it_is_read(tmp_path):
    (tmp_path / "list.txt").write_text("gone.png\n")
    with pytest.raises(PictureError, match=r"'gone\.png': no such file"):
        open_source(tmp_path / "list.txt").load(0)


def test_single_picture(tmp_path):
    path = picture(tmp_path / "deep" / "one.PNG", (7, 8, 9))
    source = open_source(path)
    assert source.ids == ("one.PNG",)
    assert source.labels is None
    assert colour_of(source, 0) == (7, 8, 9)


def test_sequence_of_paths_keeps_ids_as_written(tmp_path, monkeypatch):
    picture(tmp_path / "b" / "x.png", (1, 1, 1))
    picture(tmp_path / "a" / "x.png", (2, 2, 2))
    monkeypatch.chdir(tmp_path)
    source = open_source(["b/x.png", Path("a") / "x.png"])
    assert source.ids == ("b/x.png", "a/x.png")
    assert [colour_of(source, 0), colour_of(source, 1)] == [(1, 1, 1), (2, 2, 2)]


def test_same_path_twice_in_a_sequence_is_refused():
    with pytest.raises(SourceError, match="more than once"):
        open_source(["a.png", Path("a.png")])


@pytest.mark.parametrize(("typed", "meant"), [("digitz", "digits"), ("cifar-10:test", "cifar10")])
def test_unknown_name_suggests_the_nearest(typed, meant):
    with pytest.raises(SourceError, match=f"{typed}.*did you mean '{meant}'") as caught:
        open_source(typed)
    assert "fashion-mnist" in str(caught.value)


# selections


def test_take_keeps_files_labels_and_order_together(tmp_path):
    picture(tmp_path / "cat" / "1.png", (1, 1, 1))
    picture(tmp_path / "dog" / "1.png", (2, 2, 2))
    picture(tmp_path / "dog" / "2.png", (3, 3, 3))
    taken = open_source(tmp_path).take([2, 0])
    assert isinstance(taken, FileSource)
    assert taken.ids == ("dog/2.png", "cat/1.png")
    assert taken.labels.tolist() == [1, 0]
    assert taken.class_names == ("cat", "dog")
    assert [colour_of(taken, 0), colour_of(taken, 1)] == [(3, 3, 3), (1, 1, 1)]


def test_take_from_arrays_keeps_pixels():
    taken = in_memory([0, 1, 0, 1], ("a", "b")).take(np.array([3, 1]))
    assert taken.ids == ("p3", "p1")
    assert [colour_of(taken, 0), colour_of(taken, 1)] == [(3, 3, 3), (1, 1, 1)]


def test_limit_is_class_balanced_and_in_source_order():
    source = in_memory([0] * 50 + [1] * 10 + [2] * 30, ("a", "b", "c"))
    limited = source.limit(20)
    assert np.bincount(limited.labels).tolist() == [7, 7, 6]
    positions = [source.ids.index(name) for name in limited.ids]
    assert positions == sorted(positions)


def test_limit_does_not_depend_on_the_order_of_the_source():
    source = in_memory([k % 3 for k in range(60)], ("a", "b", "c"))
    shuffled = source.take(np.random.default_rng(0).permutation(60))
    assert set(source.limit(12).ids) == set(shuffled.limit(12).ids)
    assert source.limit(12).ids != shuffled.limit(12).ids


def test_limit_grows_by_adding_pictures():
    names = tuple(f"{index}.png" for index in range(100))
    source = FileSource("plain", names, paths=tuple(Path(name) for name in names))
    small, large = source.limit(10), source.limit(30)
    assert len(small) == 10
    assert set(small.ids) < set(large.ids)


def test_limit_depends_on_the_seed():
    source = in_memory([0] * 60, ("a",))
    assert source.limit(10, seed=0).ids != source.limit(10, seed=1).ids
    assert source.limit(10, seed=1).ids == source.limit(10, seed=1).ids


def test_limit_to_everything_is_the_whole_source():
    source = in_memory([0, 1, 0, 1], ("a", "b"))
    assert source.limit(4).ids == source.ids


@pytest.mark.parametrize("count", [0, -1, 5])
def test_limit_outside_the_source_is_refused(count):
    with pytest.raises(SourceError, match=f"{count} pictures asked for, it has 4"):
        in_memory([0, 1, 0, 1], ("a", "b")).limit(count)


def test_a_source_shows_how_much_it_holds_and_not_all_of_it():
    source = in_memory([0, 1] * 500, ("a", "b"))
    assert repr(source) == f"ArraySource({source.name!r}, 1000 pictures, 2 classes)"


def test_limit_names_the_class_that_is_too_small():
    source = in_memory([0] * 9 + [1], ("common", "rare"))
    told = r"class 'rare' has too few pictures \(1\).* at most 3 \(--limit\)"
    for count in (4, 6):
        with pytest.raises(SourceError, match=told):
            source.limit(count)
    assert len(source.limit(3)) == 3


def test_shares_go_to_classes_that_occur():
    """Gaps in the numbers of classes, and names without pictures, take no share."""
    numbers = [5, 42, 901] * 4
    taken = in_memory(numbers, tuple(map(str, range(902)))).limit(6)
    assert sorted(taken.labels.tolist()) == [5, 5, 42, 42, 901, 901]
    assert in_memory([1, 1], ("none", "some")).limit(1).labels.tolist() == [1]
    unlabelled = in_memory([-1, 0, 0, 1, 1, -1], ("a", "b")).limit(2)
    assert sorted(unlabelled.labels.tolist()) == [0, 1]


def test_fingerprint_follows_ids_labels_and_names():
    source = in_memory([0, 1, 0], ("a", "b"))
    others = [
        source.take([0, 2, 1]),
        source.take([0, 1]),
        in_memory([0, 1, 1], ("a", "b")),
        in_memory([0, 1, 0], ("a", "c")),
    ]
    assert source.fingerprint() == in_memory([0, 1, 0], ("a", "b")).fingerprint()
    assert len({source.fingerprint(), *(other.fingerprint() for other in others)}) == 5


# data sets that ship with scikit-learn


def test_digits_are_scikit_learns():
    reference = load_digits()
    source = open_source("digits")
    assert len(source) == len(reference.target) == 1797
    assert source.ids[7] == "digit-0007"
    assert np.array_equal(source.labels, reference.target)
    assert source.class_names == tuple("0123456789")
    grey = np.asarray(source.load(5))
    assert grey.shape == (8, 8, 3)
    # 16 grey steps become 255, to the nearest whole number
    assert abs(grey - reference.images[5][..., None] * 255 / 16).max() <= 0.5
    assert grey.max() == 255


def test_photos_are_scikit_learns():
    source = open_source("photos")
    assert source.name == "photos"
    assert source.ids == ("china.jpg", "flower.jpg")
    assert source.load(0).size == (640, 427)


def test_unknown_split_names_those_there_are():
    with pytest.raises(SourceError, match="'digits' has no split 'val'; expected all"):
        open_source("digits:val")
    with pytest.raises(SourceError, match="no split 'val'; expected train or test"):
        open_source("cifar10:val")


# data sets on disk


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFEAT_DATA", str(tmp_path))
    return tmp_path


def test_the_folder_of_the_environment_comes_first(data):
    assert datasets.data_roots()[0] == data


@pytest.mark.parametrize(
    ("name", "help_"),
    [("cifar10", "binary version.*cs.toronto.edu"), ("fashion-mnist", "IDX.*apt install")],
)
def test_missing_data_set_says_how_to_get_it(name, help_, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "data_roots", lambda: [tmp_path])
    with pytest.raises(SourceError, match=f"not on this machine.*{help_}.*DIFFEAT_DATA") as caught:
        open_source(name)
    assert str(tmp_path / name) in str(caught.value)


def test_cifar10_as_image_folders(data):
    picture(data / "cifar10" / "train" / "cat" / "1.png")
    picture(data / "cifar10" / "train" / "dog" / "1.png")
    picture(data / "cifar10" / "test" / "dog" / "1.png", (5, 6, 7))
    train, test = open_source("cifar10"), open_source("cifar10:test")
    assert train.name == "cifar10:train"
    assert train.ids == ("train/cat/1.png", "train/dog/1.png")
    assert train.class_names == ("cat", "dog")
    assert train.labels.tolist() == [0, 1]
    assert test.ids == ("test/dog/1.png",)
    assert colour_of(test, 0) == (5, 6, 7)


def cifar_record(label, red, green, blue):
    planes = [np.full(1024, value, np.uint8) for value in (red, green, blue)]
    planes[0][:32] = 255  # top row
    return bytes([label]) + b"".join(plane.tobytes() for plane in planes)


def write_cifar_binary(folder):
    folder.mkdir()
    for batch in range(1, 6):
        records = cifar_record(batch, 10 * batch, 2, 3) + cifar_record(9, 10 * batch + 1, 2, 3)
        (folder / f"data_batch_{batch}.bin").write_bytes(records)
    (folder / "test_batch.bin").write_bytes(cifar_record(0, 1, 2, 3))


def test_cifar10_in_its_binary_version(data):
    write_cifar_binary(data / "cifar10")
    train, test = open_source("cifar10:train"), open_source("cifar10:test")
    assert train.labels.tolist() == [1, 9, 2, 9, 3, 9, 4, 9, 5, 9]
    assert [train.class_names[k] for k in (0, 1, 9)] == ["airplane", "automobile", "truck"]
    assert train.ids[3] == "train-00003"
    pixels = np.asarray(train.load(3))
    assert pixels.shape == (32, 32, 3)
    assert pixels[0].tolist() == [[255, 2, 3]] * 32
    assert pixels[31].tolist() == [[21, 2, 3]] * 32
    assert test.ids == ("test-00000",)
    assert test.labels.tolist() == [0]


def test_cifar10_with_a_missing_batch_names_it(data):
    write_cifar_binary(data / "cifar10")
    (data / "cifar10" / "data_batch_4.bin").unlink()
    with pytest.raises(SourceError, match=r"expected a folder train/ or the file data_batch_4"):
        open_source("cifar10:train")


def test_cifar10_with_a_truncated_batch_names_it(data):
    write_cifar_binary(data / "cifar10")
    path = data / "cifar10" / "data_batch_4.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(SourceError, match="data_batch_4"):
        open_source("cifar10:train")


def idx(array):
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


IMAGES = np.arange(3 * 4 * 5).reshape(3, 4, 5)
LABELS = np.array([9, 0, 4])


@pytest.fixture
def fashion(data):
    folder = data / "fashion-mnist"
    folder.mkdir()
    (folder / "train-images-idx3-ubyte").write_bytes(idx(IMAGES))
    (folder / "train-labels-idx1-ubyte").write_bytes(idx(LABELS))
    return folder


def zip_files(folder):
    for path in list(folder.iterdir()):
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()


@pytest.mark.parametrize("zipped", [False, True])
def test_fashion_mnist_from_idx_files(fashion, zipped):
    if zipped:
        zip_files(fashion)
    source = open_source("fashion-mnist")
    assert source.name == "fashion-mnist:train"
    assert source.ids == ("train-00000", "train-00001", "train-00002")
    assert source.labels.tolist() == [9, 0, 4]
    assert [source.class_names[k] for k in source.labels] == ["ankle-boot", "t-shirt", "coat"]
    assert np.array_equal(np.asarray(source.load(1))[..., 2], IMAGES[1])


def test_fashion_mnist_without_the_split_names_the_file(fashion):
    with pytest.raises(SourceError, match=r"t10k-images-idx3-ubyte: missing"):
        open_source("fashion-mnist:test")


BROKEN = {
    "other magic number": (lambda raw: b"\x00\x00\x0d" + raw[3:], "not an IDX file of bytes"),
    "empty": (lambda raw: b"", "not an IDX file of bytes"),
    "one byte short": (lambda raw: raw[:-1], "expected 60 bytes, has 59"),
    "header cut off": (lambda raw: raw[:6], "train-images-idx3-ubyte"),
}


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize("zipped", [False, True])
def test_broken_idx_file_is_refused(fashion, broken, zipped):
    damage, message = BROKEN[broken]
    path = fashion / "train-images-idx3-ubyte"
    path.write_bytes(damage(path.read_bytes()))
    if zipped:
        zip_files(fashion)
    with pytest.raises(SourceError, match=message):
        open_source("fashion-mnist")


@pytest.mark.parametrize("keep", [0, 5, 30])
def test_truncated_gz_file_is_refused(fashion, keep):
    zip_files(fashion)
    path = fashion / "train-images-idx3-ubyte.gz"
    os.truncate(path, keep)
    with pytest.raises(SourceError, match="train-images-idx3-ubyte"):
        open_source("fashion-mnist")


def test_gz_file_that_is_none_is_refused(fashion):
    zip_files(fashion)
    (fashion / "train-images-idx3-ubyte.gz").write_bytes(b"<html>not found</html>")
    with pytest.raises(SourceError, match="train-images-idx3-ubyte"):
        open_source("fashion-mnist")


def test_fewer_labels_than_images_is_refused(fashion):
    (fashion / "train-labels-idx1-ubyte").write_bytes(idx(LABELS[:2]))
    with pytest.raises(SourceError, match="labels"):
        open_source("fashion-mnist")
