"""Noise that follows from what a picture holds, whatever it is called."""

from __future__ import annotations

import shutil
from dataclasses import replace
from hashlib import blake2b
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import diffeat
from diffeat.adapt.classifier import Pictures
from diffeat.errors import PictureError, SpecError
from diffeat.extraction import noise_names
from diffeat.images import ArraySource, open_source
from diffeat.jobs import extract_to_file
from diffeat.noise import picture_noise
from diffeat.search.live import LiveFeatures
from diffeat.store import FeatureStore
from diffeat.work import Job, Worker
from tests.extraction.common import T, differ, same, spec

EXACT = {"rtol": 1e-5, "atol": 1e-5}


def asked(**options) -> diffeat.ExtractSpec:
    return spec("pixel", "up.1", pool="2x2", **{"noise": "per-content", **options})


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Three pictures, below the working folder."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    (tmp_path / "x" / "cat").mkdir(parents=True)
    for k in range(3):
        pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "x" / "cat" / f"{k}.png")
    return tmp_path / "x"


def paths(folder: Path) -> list[Path]:
    return sorted(folder.glob("cat/*.png"))


WAYS = {
    "absolute": lambda f: [p.resolve() for p in paths(f)],
    "relative": lambda f: [p.relative_to(Path.cwd()) for p in paths(f)],
    "folder": open_source,
    "relative folder": lambda f: open_source("x"),
    "glob": lambda f: open_source("x/*/*.png"),
    "PIL": lambda f: [Image.open(p) for p in paths(f)],
    "loaded PIL": lambda f: [(image.load(), image)[1] for image in map(Image.open, paths(f))],
}


@pytest.mark.parametrize(
    "options",
    [{}, {"ensemble": 2, "flip": True}, {"size": (32, 56), "tile": 32, "tile_noise": "tile"},
     {"mirror": True, "fit": "native"}],
    ids=["plain", "members and mirror", "tiles", "mirrored, native"],
)  # fmt: skip
def test_one_picture_by_any_name(options, folder, backbone_of):
    backbone = backbone_of("pixel")
    found = {way: diffeat.extract(backbone, pictures(folder), asked(**options))["up.1", T]
             for way, pictures in WAYS.items()}  # fmt: skip
    for way, values in found.items():
        assert torch.equal(values, found["absolute"]), way
    by_id = [diffeat.extract(backbone, WAYS[way](folder), asked(**options, noise="per-image"))
             for way in ("absolute", "folder", "PIL")]  # fmt: skip
    assert len({tuple(one["up.1", T][0].tolist()) for one in by_id}) == 3
    other = diffeat.extract(backbone, paths(folder), asked(**options, seed=1))["up.1", T]
    assert differ(other, found["absolute"])


def test_the_noise_is_that_of_the_digest(folder, backbone_of):
    """Against noise drawn by hand from the hash of each file's bytes, as hex in the id's place."""
    backbone, files = backbone_of("pixel"), paths(folder)
    names = [blake2b(path.read_bytes(), digest_size=16).hexdigest() for path in files]
    eps = [[picture_noise(0, name, e, (3, 32, 32)) for e in range(2)] for name in names]
    assert not np.array_equal(*eps[0])
    expected = diffeat.extract(
        backbone, files, asked(ensemble=2), noise=torch.tensor(np.array(eps))
    )
    found = diffeat.extract(backbone, files, asked(ensemble=2))
    torch.testing.assert_close(found["up.1", T], expected["up.1", T], **EXACT)


def test_a_renamed_and_reordered_picture(folder, backbone_of):
    before = diffeat.extract(backbone_of("pixel"), paths(folder), asked())["up.1", T]
    moved = shutil.copy(paths(folder)[2], folder / "other.png")
    after = diffeat.extract(backbone_of("pixel"), [moved, paths(folder)[0]], asked())["up.1", T]
    same(after, before[[2, 0]])


def test_posterior_samples_follow_too(folder, backbone_of):
    wanted = spec("sd1", "up.0", latent="sample", noise="none")
    by_content = replace(wanted, noise="per-content")
    backbone, files = backbone_of("sd1"), paths(folder)[:1]
    renamed = diffeat.extract(backbone, files, by_content, ids=["z"])["up.0", T]
    assert torch.equal(diffeat.extract(backbone, files, by_content)["up.0", T], renamed)
    assert differ(diffeat.extract(backbone, files, wanted, ids=["z"])["up.0", T],
                  diffeat.extract(backbone, files, wanted)["up.0", T], 1e-5)  # fmt: skip


def test_pixels_count_where_there_is_no_file(folder, backbone_of):
    backbone = backbone_of("pixel")
    images = [Image.open(path).convert("RGB") for path in paths(folder)]
    pixels = np.stack([np.asarray(image) for image in images])
    expected = diffeat.extract(backbone, pixels, asked(), ids=["a", "b", "c"])["up.1", T]
    in_memory = [Image.open(BytesIO(path.read_bytes())) for path in paths(folder)]
    floats = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    source = ArraySource("x", tuple("xyz"), pixels=pixels)
    for form in (images, list(pixels), in_memory, source):
        assert torch.equal(diffeat.extract(backbone, form, asked())["up.1", T], expected)
    for form in (floats, list(floats), floats.numpy(), floats.double()):
        same(diffeat.extract(backbone, form, asked())["up.1", T], expected)
    # floats that are no 8-bit picture have noise of their own
    off = floats.clone()
    off[:, 0, 0, 0] = (off[:, 0, 0, 0] + 1e-4).clamp(max=1)
    assert differ(diffeat.extract(backbone, off, asked())["up.1", T], expected)
    assert differ(diffeat.extract(backbone, paths(folder), asked())["up.1", T], expected)


def test_grey_pictures_count_as_arrays_do(backbone_of):
    grey = np.random.default_rng(0).integers(0, 256, (2, 32, 32), dtype=np.uint8)
    expected = diffeat.extract(backbone_of("pixel"), grey, asked())["up.1", T]
    images = [Image.fromarray(one) for one in grey]
    assert torch.equal(diffeat.extract(backbone_of("pixel"), images, asked())["up.1", T], expected)


def test_a_file_that_is_gone(folder, backbone_of):
    image = Image.open(paths(folder)[0])
    image.load()
    pixels = np.asarray(image)
    paths(folder)[0].unlink()
    with pytest.warns(UserWarning, match=r"picture '0': its file .* cannot be read any more"):
        found = diffeat.extract(backbone_of("pixel"), image, asked())["up.1", T]
    assert torch.equal(found, diffeat.extract(backbone_of("pixel"), pixels, asked())["up.1", T])
    with pytest.raises(PictureError, match="no such file"):
        diffeat.extract(backbone_of("pixel"), [folder / "lost.png"], asked())


def test_files_and_searches_have_the_same(folder, backbone_of, tmp_path):
    backbone, source = backbone_of("pixel"), open_source(folder)
    expected = diffeat.extract(backbone, paths(folder), asked())["up.1", T]
    extract_to_file(backbone, source, asked(), tmp_path / "f.h5", batch_size=2)
    with FeatureStore(tmp_path / "f.h5") as store:
        same(torch.from_numpy(store["up.1", T][:]), expected)
        assert store.spec.noise == "per-content"
    live = LiveFeatures(backbone, [source], asked())
    same(torch.from_numpy(live.read("up.1", T)), expected)
    # another process is told the digests, not the pictures' names
    job = Job(backbone.request, source, asked(), tmp_path / "g.h5")
    told = replace(job, **Worker(job, backbone).findings)
    [(_, rows)] = Worker(told, backbone).batches([(0, 3)])
    same(torch.from_numpy(rows[f"features/up.1/t{T}"]), expected)
    # a run that goes on computes the rest as the whole would have been
    [(_, rest)] = Worker(told, backbone).batches([(1, 3)])
    same(torch.from_numpy(rest[f"features/up.1/t{T}"]), expected[1:])


def test_validation_of_training_too(folder):
    """Pictures of a training loop are named by their digests where their own noise is drawn."""
    source = open_source(folder)
    plan = SimpleNamespace(spec=asked())
    classifier = SimpleNamespace(
        noisy=SimpleNamespace(plan=plan), backbone=SimpleNamespace(device="cpu"), batch_size=2
    )
    names = Pictures(classifier, source)._names
    assert names == [blake2b(p.read_bytes(), digest_size=16).hexdigest() for p in paths(folder)]
    plan.spec = asked(noise="per-image")
    assert Pictures(classifier, source)._names == list(source.ids)


def test_where_it_cannot_be(folder):
    with pytest.raises(SpecError, match=r"before 0\.7"):
        noise_names(asked(), ["a"], None, [0])
