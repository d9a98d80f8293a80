"""Every kind of dense head, kept and applied: masks, depth maps, and what `view` shows of it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import diffeat as package
import probes
from diffeat.cli import cli
from diffeat.search.kept import about_head
from diffeat.search.stored import made_of
from probes.aggregate import HyperfeatureMixer
from probes.cells import Cells
from probes.dense import DepthHead, FPNHead, PixelLinear, PixelMLPEnsemble, PixelRegression

MODEL = "unet-cifar10"
SIZES = [(30, 44), (36, 28), (24, 24), (41, 33)]
BRIEF = {"steps": 4, "epochs": 2, "random_state": 0, "progress": False}
MASKED = {
    "ridge": PixelLinear(),
    "logistic": PixelLinear(kind="logistic"),
    "ensemble": PixelMLPEnsemble(members=3, steps=20, random_state=0, progress=False),
    "mix": FPNHead(over_t="mix", width=8, **BRIEF),
    "mixer": FPNHead(mixer=HyperfeatureMixer(width=8), width=8, **BRIEF),
}
DEEP = {"ridge": PixelRegression(), "vpd": DepthHead(max_depth=8.0, **BRIEF)}


def toy(k: int) -> tuple[np.ndarray, np.ndarray]:
    """A red box on grey, and its mask."""
    h, w = SIZES[k]
    mask = np.zeros((h, w), np.uint8)
    mask[5 : h // 2 + 3, 4 : w // 2 + k] = 1
    pixels = np.array([[60, 60, 60], [220, 60, 40]])[mask]
    noise = np.random.default_rng(k).integers(0, 30, (h, w, 3))
    return (pixels + noise).astype(np.uint8), mask


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("heads")
    (folder / "p").mkdir()
    for k in range(len(SIZES)):
        Image.fromarray(toy(k)[0]).save(folder / f"p/{k}.png")
    asked = ["extract", MODEL, folder / "p", "-o", folder / "f.h5", "-t", "20,100", "-b",
             "up.0,up.1", "--size", 32, "--fit", "pad", "--batch-size", 4]  # fmt: skip
    done = CliRunner().invoke(cli, list(map(str, asked)))
    assert done.exception is None, done.output
    return folder


def kept(place: Path, head, path: Path, depth: bool = False) -> dict[str, np.ndarray]:
    """Fit and keep a head; what it says of the file."""
    with package.FeatureStore(place / "f.h5") as store:
        keys = [(block, t) for block in store.blocks for t in store.timesteps]
        cells = Cells({key: store[key] for key in keys}, sizes=store.sizes,
                      placements=store.placements, input_size=store.spec.size)  # fmt: skip
        masks = [toy(int(Path(one).stem))[1] for one in store.ids]
        if depth:
            head.fit(cells, [1 + 2 * one.astype(np.float32) for one in masks])
        else:
            head.fit(cells, masks, classes=["ground", "box"])
        names = [] if depth else ["ground", "box"]
        probes.save(head, path, about_head(made_of(store), keys, names))
        return dict(zip(store.ids, probes.load(path, "cpu").predict(cells), strict=True))


class TestMasks:
    @pytest.mark.parametrize("name", MASKED)
    def test_file_and_pictures_give_what_the_head_says(self, diffeat, place, tmp_path, name):
        head = tmp_path / "h.safetensors"
        wanted = kept(place, MASKED[name], head)
        for what, more in ((place / "f.h5", ()), (place / "p", ("--batch-size", 4))):
            out = tmp_path / what.name
            answer = diffeat("segment", what, "--head", head, "-o", out, "--uncertainty", *more)
            assert answer.code == 0, answer.err
            meaning = json.loads((out / "classes.json").read_text("utf-8"))
            most = np.log(2) if name == "ensemble" else 0.5
            assert meaning["uncertainty"]["most"] == pytest.approx(most)
            for one, mask in wanted.items():
                assert mask.shape == SIZES[int(Path(one).stem)]
                with Image.open(out / one) as image:
                    np.testing.assert_array_equal(np.asarray(image), mask)
                assert (out / "uncertainty" / one).is_file()

    def test_view(self, diffeat, place, tmp_path):
        for name, files in (("ridge", 0), ("mix", 2)):
            kept(place, MASKED[name], tmp_path / f"{name}.safetensors")
            answer = diffeat("view", tmp_path / f"{name}.safetensors", "-o",
                             tmp_path / name / "v.png")  # fmt: skip
            assert answer.code == 0, answer.err
            assert "2 classes: ground, box" in answer.out
            assert len(list((tmp_path / name).glob("*.png"))) == files
        assert "v-weights.png: the weight of each cell" in answer.out


class TestDepth:
    @pytest.mark.parametrize("name", DEEP)
    def test_maps_of_both_formats(self, diffeat, place, tmp_path, name):
        head = tmp_path / "d.safetensors"
        wanted = kept(place, DEEP[name], head, depth=True)
        answer = diffeat("predict", head, place / "f.h5", "-o", tmp_path / "png")
        assert answer.code == 0, answer.err
        assert "4 depth maps of 4 pictures" in answer.out
        answer = diffeat("predict", head, place / "p", "-o", tmp_path / "npz", "--format", "npz",
                         "--batch-size", 4, "--json")  # fmt: skip
        assert json.loads(answer.out)["predicts"] == "depth"
        note = (tmp_path / "png/depth.json").read_text("utf-8")
        answer = diffeat("predict", head, place / "f.h5", "-o", tmp_path / "png", "--format", "npz")
        assert answer.code == 2
        assert "format: png → npz" in answer.err
        assert (tmp_path / "png/depth.json").read_text("utf-8") == note
        scale = json.loads(note)["scale"]
        with open(tmp_path / "png/pictures.csv", encoding="utf-8") as file:
            rows = {row["id"]: row for row in csv.DictReader(file)}
        for one, depth in wanted.items():
            with Image.open(tmp_path / "png" / one) as image:
                assert image.mode == "I;16"
                found = np.asarray(image) * scale
            np.testing.assert_allclose(found, np.clip(depth, 0.001, None), atol=0.00051)
            with np.load((tmp_path / "npz" / one).with_suffix(".npz")) as file:
                np.testing.assert_array_equal(file["depth"], depth)
            assert (tmp_path / "png/colours" / one).with_suffix(".jpg").is_file()
            assert float(rows[one]["median"]) == pytest.approx(np.median(depth), rel=1e-5)

    def test_what_does_not_go_together(self, diffeat, place, tmp_path):
        head = tmp_path / "d.safetensors"
        kept(place, DEEP["ridge"], head, depth=True)
        vectors = probes.LinearProbe().fit(np.eye(4), np.arange(4) % 2)
        with package.FeatureStore(place / "f.h5") as store:
            probes.save(vectors, tmp_path / "v.safetensors",
                        about_head(made_of(store), [("up.0", 20)]))  # fmt: skip
        (tmp_path / "used").mkdir()
        (tmp_path / "used/mine").write_text("kept")
        for asked, message in (
            (("segment", place / "f.h5", "--head", head, "--json"), "which gives depth"),
            (("predict", head, place / "f.h5", "--confusion", "c.png"), "--confusion is not for"),
            (("predict", head, place / "f.h5", "-o", tmp_path / "used"), "is in use"),
            (("predict", head, place / "p", "-o", place / "p", "--overwrite"), "written over"),
            (("predict", tmp_path / "v.safetensors", place / "f.h5", "--format", "npz"),
             "--format is for depth maps"),
            (("predict", tmp_path / "v.safetensors", place / "f.h5", "-o", tmp_path / "used"),
             "is a folder"),
        ):  # fmt: skip
            answer = diffeat(*asked)
            assert answer.code == 2, answer.err
            assert message in " ".join(answer.err.split())
        assert (tmp_path / "used/mine").read_text() == "kept"
