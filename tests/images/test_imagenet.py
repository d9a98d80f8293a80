"""ImageNet and Tiny-ImageNet, laid out by hand as they are published."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffeat.errors import SourceError
from diffeat.images import datasets, open_source

WNIDS = ("n02124075", "n01443537", "n04285008")  # listed out of order, as they are published
ORDER = ("n01443537", "n02124075", "n04285008")
COLOURS = {wnid: (10 * k, 20 * k, 30 * k) for k, wnid in enumerate(ORDER)}
WORDS = (
    "n00001740\tentity\n"
    "n02124075\tEgyptian cat\n"
    "n01443537\tgoldfish, Carassius auratus\n"
    "n04285008\tsports car, sport car\n"
)


def picture(path: Path, wnid: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), COLOURS[wnid]).save(path, "PNG")  # of one colour to the last bit


@pytest.fixture
def data(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(datasets, "data_roots", lambda: [tmp_path])
    return tmp_path


def tiny(folder: Path) -> Path:
    """Two training and two validation pictures per class; the test pictures have no labels."""
    for wnid in WNIDS:
        for k in range(2):
            picture(folder / "train" / wnid / "images" / f"{wnid}_{k}.JPEG", wnid)
        (folder / "train" / wnid / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t0\t3\t3\n")
    lines = []
    for k, wnid in enumerate(WNIDS * 2):
        picture(folder / "val" / "images" / f"val_{k}.JPEG", wnid)
        lines.append(f"val_{k}.JPEG\t{wnid}\t0\t0\t3\t3\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    picture(folder / "test" / "images" / "test_0.JPEG", WNIDS[0])
    (folder / "wnids.txt").write_text("\n".join(WNIDS))
    (folder / "words.txt").write_text(WORDS)
    return folder


def imagenet(folder: Path) -> Path:
    for wnid in ORDER:
        picture(folder / "train" / wnid / f"{wnid}_10026.JPEG", wnid)
    for k, wnid in enumerate((ORDER[2], ORDER[0])):  # a part of the classes
        picture(folder / "val" / wnid / f"ILSVRC2012_val_0000000{k}.JPEG", wnid)
    return folder


def check_colours(source) -> None:
    """The label of every picture is the place of its own class."""
    for index, label in enumerate(source.labels):
        assert source.load(index).getpixel((1, 2)) == COLOURS[ORDER[label]]


class TestTiny:
    @pytest.mark.parametrize(
        "where", ["tiny-imagenet", "tiny-imagenet-200", "tiny-imagenet/tiny-imagenet-200"]
    )
    def test_both_labelled_splits(self, data, where):
        tiny(data / where)
        train, test = open_source("tiny-imagenet"), open_source("tiny-imagenet:test")
        assert train.class_names == test.class_names == ("goldfish", "Egyptian cat", "sports car")
        assert (train.name, test.name) == ("tiny-imagenet:train", "tiny-imagenet:test")
        assert train.ids == tuple(
            f"train/{wnid}/images/{wnid}_{k}.JPEG" for wnid in ORDER for k in range(2)
        )
        assert train.labels.tolist() == [0, 0, 1, 1, 2, 2]
        assert test.ids == tuple(f"val/images/val_{k}.JPEG" for k in range(6))
        assert test.labels.tolist() == [1, 0, 2, 1, 0, 2]
        assert test.labels.dtype == np.int64
        for source in (train, test):
            check_colours(source)

    def test_val_is_another_name_of_test(self, data):
        tiny(data / "tiny-imagenet")
        test, val = open_source("tiny-imagenet:test"), open_source("tiny-imagenet:val")
        assert test.fingerprint() == val.fingerprint()
        with pytest.raises(SourceError, match="no split 'dev'; expected train or test or val"):
            open_source("tiny-imagenet:dev")

    def test_val_sorted_into_folders(self, data):
        folder = tiny(data / "tiny-imagenet")
        for k, wnid in enumerate(WNIDS * 2):
            target = folder / "val" / wnid / "images" / f"val_{k}.JPEG"
            target.parent.mkdir(parents=True, exist_ok=True)
            (folder / "val" / "images" / f"val_{k}.JPEG").rename(target)
        (folder / "val" / "images").rmdir()
        test = open_source("tiny-imagenet:test")
        assert test.ids[0] == "val/n01443537/images/val_1.JPEG"
        assert test.labels.tolist() == [0, 0, 1, 1, 2, 2]
        check_colours(test)

    def test_what_is_left_out_is_counted(self, data):
        folder = tiny(data / "tiny-imagenet")
        picture(folder / "train" / WNIDS[0] / "loose.JPEG", WNIDS[0])
        (folder / "val" / "images" / "notes.txt").write_text("none")
        assert open_source("tiny-imagenet").left_out == {"kind .txt": 3, "loose picture": 1}
        assert open_source("tiny-imagenet:test").left_out == {"kind .txt": 1}

    def test_limit_takes_the_same_of_every_class(self, data):
        tiny(data / "tiny-imagenet")
        assert sorted(open_source("tiny-imagenet:test").limit(3).labels) == [0, 1, 2]

    @pytest.mark.parametrize("shared", [True, False])
    def test_names_are_never_shared(self, data, shared):
        folder = tiny(data / "tiny-imagenet")
        words = "n02124075\tcrane\nn01443537\tcrane, bird\n" if shared else ""
        (folder / "words.txt").write_text(words)
        found = open_source("tiny-imagenet").class_names
        assert found == (("crane (n01443537)", "crane (n02124075)", ORDER[2]) if shared else ORDER)

    @pytest.mark.parametrize(
        ("damage", "match"),
        [
            (lambda f: (f / "val/images/val_3.JPEG").unlink(), "differ in 1 files, first val_3"),
            (lambda f: (f / "val/val_annotations.txt").unlink(), "annotations.txt: cannot be read"),
            (lambda f: (f / "val/val_annotations.txt").write_text("val_0.JPEG\n"), "line 1 .*no c"),
            (lambda f: (f / "val/val_annotations.txt").write_bytes(b"\xff\xfe"), "UTF-8"),
            (
                lambda f: (f / "wnids.txt").write_text("n01443537\nn02124075\n"),
                "n04285008' is not",
            ),
            (lambda f: (f / "val").rename(f / "valid"), "val: missing; expected a folder per"),
        ],
    )
    def test_damage_is_named(self, data, damage, match):
        damage(tiny(data / "tiny-imagenet"))
        with pytest.raises(SourceError, match=match):
            open_source("tiny-imagenet:test")


class TestImageNet:
    def test_a_class_keeps_its_number_where_others_are_missing(self, data):
        imagenet(data / "imagenet")
        train, test = open_source("imagenet"), open_source("imagenet:test")
        assert train.class_names == test.class_names == ORDER
        assert train.labels.tolist() == [0, 1, 2]
        assert train.ids[0] == "train/n01443537/n01443537_10026.JPEG"
        assert test.labels.tolist() == [0, 2]
        assert test.ids[1] == "val/n04285008/ILSVRC2012_val_00000000.JPEG"
        for source in (train, test):
            check_colours(source)

    def test_names_of_the_mapping(self, data):
        folder = imagenet(data / "imagenet")
        lines = "n01443537 goldfish, Carassius auratus\nn02124075 Egyptian cat\n"
        (folder / "LOC_synset_mapping.txt").write_text(lines)
        assert open_source("imagenet").class_names == ("goldfish", "Egyptian cat", "n04285008")

    def test_val_alone(self, data):
        folder = imagenet(data / "imagenet")
        (folder / "train").rename(data / "away")
        test = open_source("imagenet:val")
        assert test.class_names == (ORDER[0], ORDER[2])
        assert test.labels.tolist() == [0, 1]
        with pytest.raises(SourceError, match="train: missing; expected a folder per class"):
            open_source("imagenet")

    def test_loose_and_strange_pictures(self, data):
        folder = imagenet(data / "imagenet")
        picture(folder / "val" / "dogs" / "1.JPEG", ORDER[0])
        with pytest.raises(SourceError, match="class 'dogs' is not among the 3"):
            open_source("imagenet:test")
        (folder / "val").rename(data / "sorted")
        picture(folder / "val" / "ILSVRC2012_val_00000001.JPEG", ORDER[0])
        with pytest.raises(SourceError, match=r"no pictures in folders per class.*loose pict"):
            open_source("imagenet:test")


@pytest.mark.parametrize(
    ("name", "help_"),
    [
        ("tiny-imagenet", "val_annotations.txt.*cs231n.*val"),
        ("imagenet", "wnid.*image-net.*val"),
    ],
)
def test_missing_data_set_says_how_to_get_it(data, name, help_):
    with pytest.raises(SourceError, match=f"not on this machine.*{help_}.*DIFFEAT_DATA") as caught:
        open_source(name)
    assert str(data / name) in str(caught.value)
