"""A Mask2Former trained for some steps: what it is shown, and that it is loaded by its folder."""

from __future__ import annotations

import numpy as np
from click.testing import CliRunner

from diffeat.targets.panoptic import open_panoptic
from diffeat.vision.proposals import Mask2Former
from scripts.train_mask2former import Example, augmented, main, network, read
from tests.panoptic_sets import coco, scene


def test_what_is_read(tmp_path):
    found = read(open_panoptic(coco(tmp_path)), 24)
    assert len(found) == 4
    _, ids, segments = scene(1)
    assert found[1].masks.shape == (len(segments), 24, 24)
    assert set(found[1].labels.tolist()) == {0, 1, 2, 3}
    shares = found[1].masks.mean((1, 2))
    place = {17: 0, 18: 1, 187: 2, 193: 3}
    for one in segments:
        mine = found[1].labels.tolist().index(place[one["category_id"]])
        assert abs(shares[mine] - (ids == one["id"]).mean()) < 0.03


def test_masks_are_moved_with_pixels():
    """A square that is white in the picture and True in its mask stays so."""
    pixels = np.zeros((32, 32, 3), np.uint8)
    mask = np.zeros((1, 32, 32), bool)
    pixels[6:20, 10:22] = 255
    mask[:, 6:20, 10:22] = True
    for seed in range(8):
        values, masks, labels = augmented(
            Example(pixels, mask, np.array([3])), np.random.default_rng(seed)
        )
        light = (values[0] > values[0].mean()).numpy()
        assert labels.tolist() == [3]
        inside = masks[0].numpy() > 0
        assert (light & inside).sum() / (light | inside).sum() > 0.85


def test_trained_from_a_shell(tmp_path, monkeypatch):
    coco(tmp_path / "coco")
    small = lambda classes, side, queries, width: network(classes, 64, queries, 32)  # noqa: E731
    monkeypatch.setattr("scripts.train_mask2former.network", small)
    out = tmp_path / "model"
    asked = [f"{tmp_path}/coco:val2017", str(out), "--steps", "3", "--queries", "5"]
    found = CliRunner().invoke(main, asked)
    assert found.exception is None, found.output
    model = Mask2Former(out, "cpu")
    assert model.classes == ("cat", "dog", "sky", "grass")
    assert model.propose(scene(0)[0]).masks.shape == (5, 24, 32)
