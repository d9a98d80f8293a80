"""The mirrored picture alone: what a file that Pillow mirrored gives."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image, ImageOps

import diffeat
from diffeat.cli import cli
from diffeat.errors import SpecError
from diffeat.search.live import LiveFeatures
from diffeat.store import FeatureStore
from tests.extraction.common import T, differ, same, spec

NAMES = ("0.png", "1.png")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Pictures, and the same mirrored by Pillow, under equal names."""
    root, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for name in ("plain", "mirrored"):
        (root / name).mkdir()
    for name in NAMES:
        image = Image.fromarray(random.integers(0, 256, (45, 61, 3), dtype=np.uint8))
        image.save(root / "plain" / name)
        ImageOps.mirror(image).save(root / "mirrored" / name)
    return root / "plain", root / "mirrored"


def features(backbone, folder, wanted, **options):
    files = [folder / name for name in NAMES]
    return diffeat.extract(backbone, files, wanted, ids=NAMES, **options)


@pytest.mark.parametrize("fit", ["squash", "crop", "box-crop", "pad"])
@pytest.mark.parametrize("noise", ["none", "shared", "per-image"])
def test_features_are_those_of_a_mirrored_file(fit, noise, folders, backbone_of):
    backbone = backbone_of("pixel")
    wanted = spec("pixel", ["up.0", "mid"], noise=noise, fit=fit, size=32)
    found = features(backbone, folders[0], replace(wanted, mirror=True))
    expected = features(backbone, folders[1], wanted)
    plain = features(backbone, folders[0], wanted)
    for name in ("up.0", "mid"):
        assert torch.equal(found[name, T], expected[name, T])
        assert differ(found[name, T], plain[name, T])
    np.testing.assert_array_equal(found.boxes, expected.boxes)


def test_explicit_noise_and_tiles_lie_in_the_mirrored_frame(folders, backbone_of):
    backbone = backbone_of("pixel")
    wanted = spec("pixel", "up.0", size=(32, 72), tile=32)
    eps = torch.randn(2, *backbone.latent_shape((32, 72)))
    found = features(backbone, folders[0], replace(wanted, mirror=True), noise=eps)
    expected = features(backbone, folders[1], wanted, noise=eps)
    assert torch.equal(found["up.0", T], expected["up.0", T])


def test_tensors_and_own_sizes(folders, backbone_of):
    backbone = backbone_of("pixel")
    images = torch.rand(2, 3, 32, 32)
    wanted = spec("pixel", "up.0", noise="none")
    found = diffeat.extract(backbone, images, replace(wanted, mirror=True))
    same(found["up.0", T], diffeat.extract(backbone, images.flip(3), wanted)["up.0", T])
    wanted = replace(wanted, fit="native", pool="2x2")
    found = features(backbone, folders[0], replace(wanted, mirror=True))
    same(found["up.0", T], features(backbone, folders[1], wanted)["up.0", T])


def test_flip_is_the_mean_of_both_in_the_frame_of_the_picture(folders, backbone_of):
    """What `flip` is not: the mirrored picture's own features."""
    backbone = backbone_of("pixel")
    wanted = spec("pixel", "up.0", noise="none", size=32)
    found = {
        key: features(backbone, folders[0], replace(wanted, **fields))["up.0", T]
        for key, fields in {"plain": {}, "flip": {"flip": True}, "mirror": {"mirror": True}}.items()
    }
    same(found["flip"], (found["plain"] + found["mirror"].flip(3)) / 2)


def test_in_files_on_the_command_line_and_in_a_live_search(folders, backbone_of, tmp_path):
    backbone = backbone_of("pixel")
    asked = ["--noise", "shared", "--fit", "pad", "--size", "32", "--pool", "2x2"]
    for folder, out, more in ((*folders[:1], "m.h5", ["--mirror"]), (folders[1], "p.h5", [])):
        line = ["extract", backbone.request.name, folder, "-o", tmp_path / out, "-t", T, "-b",
                "up.0", "--device", "cpu", *asked, *more]  # fmt: skip
        result = CliRunner().invoke(cli, list(map(str, line)), catch_exceptions=False)
        assert result.exit_code == 0, result.output
    with FeatureStore(tmp_path / "m.h5") as found, FeatureStore(tmp_path / "p.h5") as expected:
        assert (found.spec.mirror, expected.spec.mirror) == (True, False)
        assert json.loads(found.file.attrs["spec"])["mirror"] is True
        assert "mirror" not in json.loads(expected.file.attrs["spec"])
        np.testing.assert_array_equal(found["up.0", T][:], expected["up.0", T][:])
        np.testing.assert_array_equal(found.boxes, expected.boxes)
        live = LiveFeatures(backbone, [diffeat.open_source(folders[0])], found.spec, 1 << 30,
                            progress=False)  # fmt: skip
        np.testing.assert_array_equal(live.read("up.0", T), found["up.0", T][:])
    result = CliRunner().invoke(cli, list(map(str, [*line, "--mirror"])))
    assert result.exit_code != 0
    assert "mirror: False → True" in str(result.output) + str(result.exception)


def test_what_mirroring_cannot_be_joined_with(backbone_of):
    with pytest.raises(SpecError, match="flip and mirror are given; expected one of them"):
        spec("pixel", "up.0", flip=True, mirror=True)
    with pytest.raises(SpecError, match="mirror='yes'; expected true or false"):
        spec("pixel", "up.0", mirror="yes")
    wanted = spec("pixel", "up.0", 0, noise="generation", steps=4, mirror=True)
    with pytest.raises(SpecError, match="no picture that could be mirrored; leave mirror out"):
        diffeat.extract(backbone_of("pixel"), torch.rand(1, 3, 32, 32), wanted)
