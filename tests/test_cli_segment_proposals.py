"""`diffeat segment PICTURES --proposals`: segments by a Mask2Former, as files and as scores."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from diffeat.targets.panoptic import open_panoptic
from diffeat.targets.panoptic.coco import as_colours
from diffeat.vision.clip import ClipNamer
from diffeat.vision.proposals import Mask2Former
from diffeat.words.vocabulary import Vocabulary
from probes.metrics import PanopticQuality
from tests.command import command
from tests.mask2former import NAMES, save_clip, save_mask2former
from tests.panoptic_sets import coco


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """coco/: a set; m2f/: a model, whose masks and classes are made surer than chance."""
    folder = tmp_path_factory.mktemp("proposals")
    coco(folder / "coco", "val", range(3))
    save_mask2former(folder / "m2f")
    save_clip(folder / "clip")
    return folder


@pytest.fixture
def diffeat(monkeypatch, capsys):
    with command(monkeypatch, capsys) as run:
        yield run


OPTIONS = ("--stuff", "sky", "--object-threshold", 0, "--overlap-threshold", 0)


def by_hand(place) -> list[np.ndarray]:
    """(H, W) class of every pixel, -1 of none, where no mask is dropped for being hidden."""
    model = Mask2Former(place / "m2f", "cpu")
    found = []
    for path in sorted((place / "coco/val").iterdir()):
        one = model.propose(Image.open(path))
        best, label = torch.cat([one.class_scores, 1 - one.scores[:, None]], 1).max(1)
        kept = label < 3
        masks = one.masks[kept].sigmoid()
        owner = (best[kept, None, None] * masks).argmax(0)
        sure = masks.gather(0, owner[None])[0] >= 0.5
        found.append(torch.where(sure, label[kept][owner], -1).numpy())
    return found


def test_files_table_and_scores(diffeat, place, tmp_path):
    out = tmp_path / "out"
    found = diffeat(
        "segment", place / "coco/val", "--proposals", place / "m2f", *OPTIONS, "-o", out,
        "--overlay", "--csv", tmp_path / "s.csv", "--truth", place / "coco:val", "--json",
    )  # fmt: skip
    assert found.code == 0, found.err
    said = json.loads(found.out)
    assert (said["pictures"], said["segmented"], said["skipped"]) == (3, 3, {})
    written = open_panoptic(out / "panoptic.json", place / "coco/val")
    assert (written.classes, written.things) == (NAMES, {0, 1})
    truth = open_panoptic(f"{place}/coco:val")
    measure = PanopticQuality(truth.classes, truth.things)
    place_of = [truth.classes.index(name) for name in NAMES]
    for row, wanted in enumerate(by_hand(place)):
        labels = written.labels(row)
        assert np.array_equal(np.where(labels == 255, -1, labels), wanted)
        ids, segments = written[row]
        segments = [{**one, "class": place_of[one["class"]]} for one in segments]
        measure.update((ids, segments), truth[row])
        assert (out / f"overlays/{row:012d}.jpg").is_file()
    assert said["scores"] == pytest.approx(measure.compute(), nan_ok=True)
    with open(tmp_path / "s.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    wanted = [str(one["area"]) for row in range(3) for one in written[row].segments]
    assert [one["area"] for one in rows] == wanted
    info = json.loads((out / "panoptic.json").read_text())["annotations"][0]["segments_info"][0]
    inside = np.argwhere(written[0].ids == info["id"])
    low, high = inside.min(0), inside.max(0) + 1
    assert info["bbox"] == [low[1], low[0], high[1] - low[1], high[0] - low[0]]


def test_words_for_people(diffeat, place, tmp_path):
    found = diffeat("segment", place / "coco/val", "--proposals", place / "m2f", *OPTIONS,
                    "--truth", f"{place}/coco:val")  # fmt: skip
    assert found.code == 0, found.err
    lines = found.out.splitlines()
    assert lines[0].endswith("segments in 3 of 3 pictures")
    assert lines[2].startswith("PQ ")
    assert "of 3 pictures" in lines[2]


def test_words_of_ones_own(diffeat, place, tmp_path):
    """Every mask gets the word that the CLIP likes best for its pixels."""
    (tmp_path / "words.txt").write_text("grass, lawn\ncat\ndog\n")
    out = tmp_path / "out"
    found = diffeat(
        "segment", place / "coco/val", "--proposals", place / "m2f", "--vocabulary",
        tmp_path / "words.txt", "--clip", place / "clip", "--stuff", "grass", "--overlap-threshold",
        0, "-o", out, "--json",
    )  # fmt: skip
    assert found.code == 0, found.err
    assert set(json.loads(found.out)["segments"]) <= {"grass", "cat", "dog"}
    written = open_panoptic(out / "panoptic.json", place / "coco/val")
    assert (written.classes, written.things) == (("grass", "cat", "dog"), {1, 2})
    words = Vocabulary.of({"grass": ["lawn"], "cat": [], "dog": []})
    namer, model = ClipNamer(str(place / "clip"), words, device="cpu"), Mask2Former(place / "m2f")
    picture = np.asarray(Image.open(place / "coco/val/000000000000.jpg"))
    one = model.propose(picture)
    best = namer.scores(picture, one.masks.numpy() > 0).argmax(1)
    assert len(written[0].segments) > 0
    assert {s["class"] for s in written[0].segments} <= set(best.tolist())


def test_a_folder_in_use(diffeat, place, tmp_path):
    asked = ("segment", place / "coco/val", "--proposals", place / "m2f", "-o", tmp_path / "o")
    assert diffeat(*asked, *OPTIONS).code == 0
    assert diffeat(*asked, *OPTIONS).code == 0  # the same once more
    other = diffeat(*asked)
    assert (other.code, "holds what another run made (stuff: [2] → []" in other.err) == (2, True)
    assert diffeat(*asked, "--overwrite").code == 0
    other = diffeat(*asked, "--object-threshold", 0.5)
    assert (other.code, "thresholds" in other.err) == (2, True)


def test_what_was_written_before_an_error_is_named(diffeat, place, tmp_path):
    shutil.copytree(place / "coco", tmp_path / "coco")
    (tmp_path / "coco/val/000000000002.jpg").write_bytes(b"none")
    found = diffeat("segment", tmp_path / "coco/val", "--proposals", place / "m2f", *OPTIONS, "-o",
                    tmp_path / "o")  # fmt: skip
    assert found.code == 1
    there = json.loads((tmp_path / "o/panoptic.json").read_text())["annotations"]
    files = sorted(one.name for one in (tmp_path / "o/panoptic").iterdir())
    assert [one["file_name"] for one in there] == files == ["000000000000.png", "000000000001.png"]


def test_broken_pictures_and_truth(diffeat, place, tmp_path):
    shutil.copytree(place / "coco", tmp_path / "coco")
    (tmp_path / "coco/val/000000000001.jpg").write_bytes(b"none")
    asked = ("segment", tmp_path / "coco/val", "--proposals", place / "m2f", *OPTIONS, "--json")
    found = diffeat(*asked)
    assert found.code == 1
    assert "--on-error skip" in found.err
    found = diffeat(*asked, "--on-error", "skip")
    assert found.code == 0
    assert list(json.loads(found.out)["skipped"]) == ["000000000001.jpg"]
    Image.fromarray(as_colours(np.ones((3, 3)))).save(
        tmp_path / "coco/annotations/panoptic_val/000000000000.png"
    )
    found = diffeat(*asked, "--truth", tmp_path / "coco:val")
    assert found.code == 1
    assert "is 3×3, the picture 24×32" in found.err


REFUSED = [
    (("--stuff", "skyy"), "--stuff: 'skyy' is no class (did you mean 'sky'", 2),
    (("--words", "cat"), "--words and --proposals; expected one", 2),
    (("-t", "20"), "-t", 2),
    (("--vocabulary", "cat,dog"), "--vocabulary and --clip go together", 2),
    (("--batch-size", "4"), "--batch-size says nothing of --proposals", 2),
    (("--head", "h.safetensors"), "to name masks by a kept ODISE, MODEL PICTURES", 2),
]


@pytest.mark.parametrize(("more", "said", "code"), REFUSED)
def test_refusals(diffeat, place, more, said, code):
    found = diffeat("segment", place / "coco/val", "--proposals", place / "m2f", *more, "--json")
    assert found.code == code
    assert said in found.err


def test_nothing_asked_for_and_no_weights(diffeat, place, tmp_path):
    found = diffeat("segment", place / "coco/val", "--proposals", place / "m2f")
    assert "nothing would come of it" in found.err
    shutil.copytree(place / "m2f", tmp_path / "bare")
    (tmp_path / "bare/model.safetensors").unlink()
    found = diffeat("segment", place / "coco/val", "--proposals", tmp_path / "bare", "--json")
    assert (found.code, "a Mask2Former without weights" in found.err) == (1, True)
    found = diffeat("segment", place / "coco/val", "--parts", "diffcut", "--stuff", "sky")
    assert "--stuff is for --proposals" in found.err
