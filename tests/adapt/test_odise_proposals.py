"""A kept ODISE names proposals: from Python, on the command line, and in a benchmark."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import diffeat as package
from benchmarks.catalogue import open_benchmark
from benchmarks.run import run_benchmark
from benchmarks.tasks.open_vocabulary.file import System
from diffeat.adapt.odise import ODISE
from diffeat.adapt.odise_proposals import load_odise, named_proposals
from diffeat.targets.dense import open_dense
from diffeat.targets.panoptic import open_panoptic
from diffeat.vision.joint import JointModel
from diffeat.vision.proposals import Mask2Former
from probes.open_vocabulary.merging import panoptic
from tests.command import command
from tests.mask2former import save_clip, save_mask2former
from tests.panoptic_sets import coco

BLOCKS = ("odise:2", "odise:5", "odise:vae.1")
SETTINGS = {
    "blocks": BLOCKS, "short": 32, "longest": 64, "divisor": 8, "strides": (2, 4), "channels": 24,
    "width": 16, "epochs": 1, "batch_size": 2, "progress": False,
}  # fmt: skip
WORDS = {"cat": ["kit"], "dog": [], "sky": [], "grass": []}


@pytest.fixture(scope="module")
def place(tmp_path_factory, folder_of):
    """coco/, m2f/, clip/, sd/ and odise.safetensors, trained on coco's pictures for one epoch."""
    root = tmp_path_factory.mktemp("odise")
    coco(root / "coco", "train", range(10, 13))
    coco(root / "coco", "val", range(3))
    truth = open_panoptic(f"{root}/coco:train")
    (root / "dense/images").mkdir(parents=True)
    (root / "dense/masks").mkdir()
    (root / "dense/classes.txt").write_text("\n".join(WORDS), "utf-8")
    source = truth.pictures()
    for row, name in enumerate(truth.ids):
        source.load(row).save(root / "dense/images" / name)
        labels = truth.labels(row).astype(np.uint8)
        Image.fromarray(labels).save(root / "dense/masks" / name.replace(".jpg", ".png"))
    save_mask2former(root / "m2f")
    save_clip(root / "clip")
    (root / "sd").symlink_to(folder_of("sd1"))
    backbone = package.load(str(root / "sd"), "cpu", dtype="float32")
    clip = JointModel.load(root / "clip", "cpu")
    trained = ODISE(backbone, clip, WORDS, **SETTINGS).fit(open_dense(str(root / "dense")))
    trained.save(root / "odise.safetensors")
    return root


@pytest.fixture
def diffeat(monkeypatch, capsys):
    with command(monkeypatch, capsys) as run:
        yield run


@pytest.fixture(scope="module")
def odise(place):
    backbone = package.load(str(place / "sd"), "cpu", dtype="float32")
    return load_odise(place / "odise.safetensors", backbone, str(place / "clip"), "cpu")


def test_names_and_nothing_share_one(place, odise):
    picture = np.asarray(Image.open(place / "coco/val/000000000000.jpg"))
    found = Mask2Former(place / "m2f", "cpu").propose(picture)
    scores, nothing = named_proposals(odise, picture, found)
    np.testing.assert_allclose(scores.sum(1) + nothing, 1, rtol=1e-6)
    there = (found.masks > 0).any(2).any(1).numpy()
    np.testing.assert_allclose(nothing[there], 1 - found.scores.numpy()[there], rtol=1e-5)
    assert (nothing[~there] == 1).all()
    wanted = odise.name(picture, found).scores[there].argmax(1)
    assert scores[there].argmax(1).tolist() == wanted.tolist()
    assert named_proposals(odise, picture, found, "kit,lawn,sea")[0].shape == (6, 3)


def test_segments_are_those_of_the_command_line(place, odise):
    """Merged by the masks' probabilities, with the proposals' own chances of nothing."""
    picture = np.asarray(Image.open(place / "coco/val/000000000000.jpg"))
    found = replace(Mask2Former(place / "m2f", "cpu").propose(picture),
                    scores=torch.tensor([0.9, 0.8, 0.7, 0.95, 0.6, 0.85]))  # fmt: skip
    scores, nothing = named_proposals(odise, picture, found)
    shares = 1 / (1 + np.exp(-found.masks.double().numpy()))
    segmented = odise.segment(picture, found, things={0, 1})
    wanted = panoptic(scores, shares, {0, 1}, void=nothing, object_mask_threshold=0.0)
    np.testing.assert_array_equal(segmented.ids, wanted.ids)
    assert segmented.segments == wanted.segments != []
    labels = odise.segment(picture, found)
    votes = np.einsum("qk,qhw->khw", scores, shares)
    there = (found.masks.numpy() > 0)[nothing < 1].any(0)
    clear = np.diff(np.sort(votes, 0)[-2:], axis=0)[0] > 1e-5
    np.testing.assert_array_equal(labels[there & clear], votes.argmax(0)[there & clear])
    assert (labels[~there] == -1).all()
    none = np.zeros((0, *picture.shape[:2]), bool)
    assert (odise.segment(picture, none) == -1).all()
    assert odise.segment(picture, none, things={0}).segments == []


def test_on_the_command_line(place, odise, diffeat, tmp_path):
    asked = ("segment", place / "sd", place / "coco/val", "--head", place / "odise.safetensors",
             "--proposals", place / "m2f")  # fmt: skip
    found = diffeat(*asked, "--clip", place / "clip", "--stuff", "sky,grass", "--model-dtype",
                    "float32", "--overlap-threshold", 0, "-o", tmp_path / "o", "--truth",
                    f"{place}/coco:val", "--json")  # fmt: skip
    assert found.code == 0, found.err
    said = json.loads(found.out)
    assert said["segmented"] == 3
    written = open_panoptic(tmp_path / "o/panoptic.json", place / "coco/val")
    assert (written.classes, written.things) == (tuple(WORDS), {0, 1})
    model = Mask2Former(place / "m2f", "cpu")
    for row in range(3):
        picture = np.asarray(Image.open(place / f"coco/val/{row:012d}.jpg"))
        scores, nothing = named_proposals(odise, picture, model.propose(picture))
        kept = scores.max(1) >= nothing
        allowed = set(scores.argmax(1)[kept].tolist())
        assert {one["class"] for one in written[row].segments} <= allowed
        assert bool(written[row].segments) == bool(kept.any())
    assert "--head and --clip" in diffeat(*asked, "--json").err
    bare = diffeat(*asked[:5], "--json")
    assert (bare.code, "holds an ODISE, which names masks" in bare.err) == (2, True)
    alone = diffeat(*asked[:1], *asked[2:], "--clip", place / "clip", "--json")
    assert (alone.code, "MODEL PICTURES --head" in alone.err) == (2, True)


def test_in_a_benchmark(place, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFEAT_DATA", str(place))
    systems = (System("ODISE", "truth", "odise", head="./odise.safetensors"),
               System("none", "truth", "odise", head="./none.safetensors"))  # fmt: skip
    benchmark = replace(
        open_benchmark("odise-coco"), systems=systems, train="./coco:train", test="./coco:val",
        proposals="./m2f", model="./sd", clip="./clip",
    )  # fmt: skip
    result = run_benchmark(benchmark, tmp_path, "cpu")
    (row,) = result["rows"]
    scores = {one["name"]: one["value"] for one in row["scores"]}
    assert 0 <= scores["PQ"] < 1
    assert result["missing"] == {
        "none": "./none.safetensors: no such head; train one (diffeat.adapt.ODISE)"
    }
