"""`/sizes`, `/placements` and `grid` in files: real extractions for each fit, joined, resumed."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image, ImageOps

import diffeat
from diffeat.cli import cli
from diffeat.coords import FITS
from diffeat.errors import SpecMismatch, StoreError
from diffeat.images import Source
from diffeat.jobs import extract_to_file
from diffeat.store import FeatureStore, merge_files, verify
from diffeat.work import Worker
from probes import Cells

ROOT = Path(diffeat.__file__).parent.parent
SIZES = {"a": (45, 70), "b": (33, 20), "c": (32, 32), "d": (130, 67), "e": (6, 90)}
"""(H, W) of the pictures as they are seen; "b" is stored lying down."""
BY_HAND = {  # sx, tx, sy, ty of a 45×70 picture in 32×32
    "squash": [32 / 70, 0, 32 / 45, 0],
    "crop": [32 / 45, -12.5 * 32 / 45, 32 / 45, 0],
    "box-crop": [50 / 70, -9, 32 / 45, 0],
    "pad": [32 / 70, 0, 21 / 45, 5],
    "native": [72 / 70, 0, 44 / 45, 0],  # multiples of 4
}


@pytest.fixture(scope="module")
def backbone():
    return diffeat.load("unet-cifar10", device="cpu")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for name, (height, width) in SIZES.items():
        image = Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8))
        exif = Image.Exif()
        if name == "b":
            image, exif[0x0112] = image.transpose(Image.Transpose.ROTATE_90), 6
        image.save(folder / f"{name}.png", exif=exif)
    return folder


def spec(fit="squash", pool="2x2", **options) -> diffeat.ExtractSpec:
    return diffeat.ExtractSpec((20,), ("mid",), pool=pool, fit=fit, noise="none", **options)


def extract(backbone, pictures, path, asked, **options):
    source = pictures if isinstance(pictures, Source) else diffeat.open_source(pictures)
    options = {"batch_size": 2, "progress": False, **options}
    return extract_to_file(backbone, source, asked, path, **options)


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("fit", FITS)
def test_a_file_says_how_large_pictures_are_and_where_they_lie(
    fit, mirror, backbone, pictures, tmp_path
):
    extract(backbone, pictures, tmp_path / "f.h5", spec(fit, mirror=mirror))
    assert verify(tmp_path / "f.h5") == []
    with h5py.File(tmp_path / "f.h5") as file:  # plain h5py
        assert (file["sizes"].dtype, file["placements"].dtype) == (np.int32, np.float64)
        assert file["sizes"][:].tolist() == [list(size) for size in SIZES.values()]
        assert file["features/mid/t20"].attrs["grid"].tolist() == [2, 2]
        sx, tx, sy, ty = BY_HAND[fit]
        expected = [-sx, tx + 70 * sx, sy, ty] if mirror else [sx, tx, sy, ty]
        np.testing.assert_allclose(file["placements"][0], expected, rtol=1e-15)
    files = [pictures / f"{name}.png" for name in SIZES]
    found = diffeat.extract(backbone, files, spec(fit, mirror=mirror), batch_size=2)
    with FeatureStore(tmp_path / "f.h5") as store:
        assert store.sizes.tolist() == found.sizes.tolist()
        assert store.placements.tolist() == found.placements.tolist()
        assert (found.sizes.dtype, found.placements.dtype) == (np.int32, np.float64)
        place = store.placement(0)
        assert place.picture_size == SIZES["a"]
        assert place.input_size == ((44, 72) if fit == "native" else (32, 32))


def test_maps_of_a_file_lie_where_the_picture_has_its_light(backbone, pictures, tmp_path):
    """A whole way round: a lamp in a picture, a file, Cells, the place of the largest answer."""
    folder = tmp_path / "lamp"
    folder.mkdir()
    pixels = np.zeros((64, 128, 3), np.uint8)
    pixels[36:44, 76:84] = 255  # around (80, 40)
    Image.fromarray(pixels).save(folder / "a.png")
    for fit, mirror in (("crop", False), ("squash", True), ("pad", False)):
        path = tmp_path / f"{fit}.h5"
        asked = diffeat.ExtractSpec((20,), ("down.0",), fit=fit, mirror=mirror, noise="none")
        extract(backbone, folder, path, asked)
        with FeatureStore(path) as store:
            cells = Cells(
                {("down.0", 20): store["down.0", 20]},
                sizes=store.sizes,
                placements=store.placements,
                input_size=store.spec.size,
            )
            maps = cells.maps(0)
            assert "grid" not in store["down.0", 20].attrs
        at_lamp = maps.sample(("down.0", 20), [[80, 40]])[0]
        elsewhere, _ = maps.sample(("down.0", 20), [[47, 40], [80, 14], [58, 10]])
        opposite, _ = maps.sample(("down.0", 20), [[47, 23]])
        far = np.linalg.norm(elsewhere - opposite, axis=1)
        assert np.linalg.norm(at_lamp - opposite) > 2 * far.max(), fit


def test_the_example_of_the_docs(backbone, pictures, tmp_path, monkeypatch):
    text = (ROOT / "docs" / "conditions.md").read_text("utf-8")
    (example,) = re.findall(r"```python\n(.*?placement\(0\).*?)```", text, re.S)
    asked = diffeat.ExtractSpec((20,), ("down.0",), fit="crop", noise="none")
    extract(backbone, pictures, tmp_path / "f.h5", asked)
    monkeypatch.chdir(tmp_path)
    found = {}
    exec(example, found)
    sx, tx, sy, ty = BY_HAND["crop"]
    np.testing.assert_allclose(found["u"], [[sx * 80.5 + tx - 0.5, sy * 40.5 + ty - 0.5]])
    assert found["seen"].tolist() == [False]
    assert found["values"].shape[0] == 1
    assert found["whole"].shape[1:] == found["shown"].shape == SIZES["a"]
    columns = np.arange(70)
    assert (found["shown"] == ((columns >= 12) & (columns < 58))).all()


def test_tensors_are_their_own_input(backbone):
    images = torch.rand(3, 3, 32, 48)
    asked = diffeat.ExtractSpec((20,), ("mid",), pool="1x1")
    found = diffeat.extract(backbone, images, asked)
    assert found.boxes is None
    assert found.sizes.tolist() == [[32, 48]] * 3
    assert found.placements.tolist() == [[1, 0, 1, 0]] * 3
    mirrored = diffeat.extract(backbone, images, spec(mirror=True))
    assert mirrored.placements.tolist() == [[-1, 48, 1, 0]] * 3


def test_pictures_in_memory_are_turned_upright_first(backbone):
    image = Image.new("RGB", (40, 20))
    image.getexif()[0x0112] = 6
    assert ImageOps.exif_transpose(image).size == (20, 40)
    found = diffeat.extract(backbone, [image], spec("pad"))
    assert found.sizes.tolist() == [[40, 20]]
    assert found.placements.tolist() == [[16 / 20, 8, 32 / 40, 0]]


# engines, kills


def begin(backbone, pictures, path, asked, batches: int = 2) -> None:
    """A run that is interrupted after so many batches, every one of them a shard."""
    rows, done = Worker._rows, []

    def counted(self, *args):
        done.append(1)
        if len(done) > batches:
            raise KeyboardInterrupt
        return rows(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Worker, "_rows", counted)
        patch.setattr("diffeat.store.write.writer.SHARD_SECONDS", 0)
        with pytest.raises(KeyboardInterrupt):
            extract(backbone, pictures, path, asked)


def test_a_resumed_run_has_the_same_columns(backbone, pictures, tmp_path):
    extract(backbone, pictures, tmp_path / "whole.h5", spec("pad"))
    begin(backbone, pictures, tmp_path / "f.h5", spec("pad"))
    result = extract(backbone, pictures, tmp_path / "f.h5", spec("pad"))
    assert (result.status, result.computed) == ("resumed", 1)
    same(tmp_path / "f.h5", tmp_path / "whole.h5")


def same(path, other) -> None:
    with h5py.File(path) as one, h5py.File(other) as two:
        assert set(one) == set(two) >= {"sizes", "placements"}
        for name in ("ids", "sizes", "placements", "digests", "features/mid/t20"):
            np.testing.assert_array_equal(one[name][:], two[name][:])
            assert one[name].attrs["blake2b"] == two[name].attrs["blake2b"]


LACKING = "goes on without /sizes and /placements, which its unfinished parts lack; --overwrite"


@pytest.fixture
def older(backbone, pictures, tmp_path, monkeypatch):
    """Parts as a version leaves them that reads by today's rule and knows no placements."""
    columns = Worker._columns

    def without(self, *args):
        return tuple(c for c in columns(self, *args) if c.name not in ("sizes", "placements"))

    with monkeypatch.context() as patch:
        patch.setattr(Worker, "_columns", without)
        begin(backbone, pictures, tmp_path / "f.h5", spec("pad"))
    return tmp_path / "f.h5"


def test_parts_without_columns_are_gone_on_with_as_they_are(older, backbone, pictures):
    with pytest.warns(UserWarning, match=LACKING):
        result = extract(backbone, pictures, older, spec("pad"))
    assert (result.status, result.computed) == ("resumed", 1)
    assert verify(older) == []
    with h5py.File(older) as file:
        assert set(file) == {"ids", "features", "boxes", "digests", "file_stats"}
    with FeatureStore(older) as store:
        assert (store.sizes, store.placements) == (None, None)
        with pytest.raises(StoreError, match=r"/sizes, /placements\) is not known"):
            store.placement(0)


def test_parts_without_columns_are_made_anew_with_them(older, backbone, pictures):
    result = extract(backbone, pictures, older, spec("pad"), overwrite=True)
    assert result.computed == 5
    assert verify(older) == []
    with FeatureStore(older) as store:
        assert store.placements.shape == (5, 4)


def test_a_finished_file_without_columns_is_complete(backbone, pictures, tmp_path):
    path = lacking(backbone, pictures, tmp_path, "sizes", "placements")
    assert extract(backbone, pictures, path, spec()).status == "already complete"


def lacking(backbone, pictures, folder, *names):
    """A finished file from which data sets were taken."""
    extract(backbone, pictures, folder / "f.h5", spec())
    with h5py.File(folder / "f.h5", "r+") as file:
        for name in names:
            del file[name]
    return folder / "f.h5"


# whole files


@pytest.fixture(scope="module")
def halves(backbone, pictures, tmp_path_factory):
    """Two files of other pictures; never write there."""
    folder = tmp_path_factory.mktemp("halves")
    source = diffeat.open_source(pictures)
    extract(backbone, source.take([3, 4]), folder / "a.h5", spec("crop"))
    extract(backbone, source.take([0, 1, 2]), folder / "b.h5", spec("crop"))
    return folder


def test_a_merge_keeps_the_columns(halves, tmp_path):
    merge_files([halves / "a.h5", halves / "b.h5"], tmp_path / "all.h5")
    assert verify(tmp_path / "all.h5") == []
    with FeatureStore(tmp_path / "all.h5") as store:
        expected = [list(SIZES[name[0]]) for name in ("d", "e", "a", "b", "c")]
        assert store.sizes.tolist() == expected
        np.testing.assert_allclose(store.placements[2], BY_HAND["crop"], rtol=1e-15)
        assert store["mid", 20].attrs["grid"].tolist() == [2, 2]


def test_a_merge_drops_what_one_file_lacks(halves, tmp_path):
    shutil.copy(halves / "b.h5", tmp_path)
    with h5py.File(tmp_path / "b.h5", "r+") as file:
        del file["placements"]
    with pytest.warns(UserWarning, match=r"/placements is dropped, because .*b\.h5 has none"):
        merge_files([halves / "a.h5", tmp_path / "b.h5"], tmp_path / "all.h5")
    with FeatureStore(tmp_path / "all.h5") as store:
        assert store.placements is None
        assert len(store.sizes) == 5
        with pytest.raises(StoreError, match="is not known"):
            store.placement(0)


def test_other_features_of_the_same_pictures(backbone, pictures, halves, tmp_path):
    source = diffeat.open_source(pictures).take([3, 4])
    more = diffeat.ExtractSpec((20,), ("up.0",), pool="2x2", fit="crop", noise="none")
    extract(backbone, source, tmp_path / "more.h5", more)
    merge_files([halves / "a.h5", tmp_path / "more.h5"], tmp_path / "all.h5")
    with FeatureStore(tmp_path / "all.h5") as store:
        assert store.blocks == ["mid", "up.0"]
        assert store.sizes.tolist() == [list(SIZES["d"]), list(SIZES["e"])]
    with h5py.File(tmp_path / "more.h5", "r+") as file:
        file["sizes"][0] = (1, 2)
        del file["sizes"].attrs["blake2b"]
    with pytest.raises(SpecMismatch, match="same ids, but sizes differ"):
        merge_files([halves / "a.h5", tmp_path / "more.h5"], tmp_path / "other.h5")


@pytest.mark.parametrize("suffix", [".npz", ".zarr"])
def test_an_export_carries_the_columns(suffix, halves, tmp_path):
    with FeatureStore(halves / "b.h5") as store:
        store.export(tmp_path / f"f{suffix}")
        expected = {"sizes": store.sizes, "placements": store.placements}
    if suffix == ".npz":
        found = np.load(tmp_path / "f.npz")
    else:
        found = pytest.importorskip("zarr").open_group(tmp_path / "f.zarr", mode="r")
        assert found["features/mid/t20"].attrs["grid"] == [2, 2]
    for name, values in expected.items():
        assert found[name].dtype == values.dtype
        np.testing.assert_array_equal(found[name][:], values)


@pytest.mark.parametrize(
    ("name", "index", "value", "problem"),
    [
        ("sizes", (1, 0), 34, "sizes: another checksum than when they were written"),
        ("sizes", (1, 0), 0, "sizes have a picture without pixels"),
        ("placements", (0, 1), 0.25, "placements: another checksum than when they were written"),
        ("placements", (0, 2), -1, "placements are of no fit"),
        ("placements", (0, 0), 0, "placements are of no fit"),
        ("placements", (0, 3), np.nan, "placements: inf or nan"),
    ],
)
def test_verify_finds_what_was_changed(name, index, value, problem, halves, tmp_path):
    shutil.copy(halves / "b.h5", tmp_path)
    with h5py.File(tmp_path / "b.h5", "r+") as file:
        file[name][index] = value
    assert any(found.startswith(problem) for found in verify(tmp_path / "b.h5"))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("sizes", np.ones((3, 3), np.int32)),
        ("sizes", np.ones((3, 2), np.int64)),
        ("sizes", np.ones((3, 2), np.float32)),
        ("placements", np.ones((3, 4), np.float32)),
        ("placements", np.ones((2, 4))),
        ("placements", np.ones((3, 4), np.int64)),
    ],
)
def test_columns_of_another_form_are_refused(name, values, halves, tmp_path):
    shutil.copy(halves / "b.h5", tmp_path)
    with h5py.File(tmp_path / "b.h5", "r+") as file:
        del file[name]
        file[name] = values
    with FeatureStore(tmp_path / "b.h5") as store, pytest.raises(StoreError, match=name):
        getattr(store, name)
    assert any(name in problem for problem in verify(tmp_path / "b.h5"))


def test_columns_in_another_file_are_not_followed(halves, tmp_path):
    shutil.copy(halves / "b.h5", tmp_path)
    with h5py.File(tmp_path / "b.h5", "r+") as file:
        del file["placements"]
        file["placements"] = h5py.ExternalLink(str(halves / "a.h5"), "/placements")
    with pytest.raises(StoreError, match="points to another file"):
        FeatureStore(tmp_path / "b.h5")


def test_info_says_nothing_where_placements_are_known(halves):
    answer = CliRunner().invoke(cli, ["info", str(halves / "a.h5")])
    assert answer.exit_code == 0
    assert "placed" not in answer.output
    assert '"placements": true' in CliRunner().invoke(
        cli, ["info", str(halves / "a.h5"), "--json"]
    ).output  # fmt: skip
