"""Parts from models and files: defaults by family, scores, and `diffeat segment --parts`."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from sklearn.metrics import jaccard_score

from diffeat.cli import cli
from diffeat.errors import NumericsError, SpecError
from diffeat.loading import load
from diffeat.search.applied import Piece
from diffeat.zero_shot.parts import MOST, AppliedParts, default_blocks, made_way
from probes.parts import DiffSeg, KMeansParts
from tests.pipelines import build

MODEL = "unet-cifar10"
SIZES = [(40, 52), (36, 44), (30, 44)]
BLOCKS = "down.2.attn.0,mid.attn.0:self.map"


def toy(k: int) -> tuple[np.ndarray, np.ndarray]:
    """A bright box on dark ground, and its mask."""
    rng = np.random.default_rng(k)
    mask = np.zeros(SIZES[k], np.uint8)
    mask[8:24, 6 + 3 * k : 30] = 1
    pixels = np.array([[30, 60, 110], [230, 210, 60]])[mask]
    return (pixels + rng.integers(0, 20, (*mask.shape, 3))).clip(0, 255).astype(np.uint8), mask


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """p/: pictures; t/: their masks; f.h5: maps of features and of attention."""
    folder = tmp_path_factory.mktemp("parts")
    for k in range(len(SIZES)):
        for where, values in zip("pt", toy(k), strict=True):
            (folder / where).mkdir(exist_ok=True)
            Image.fromarray(values).save(folder / where / f"{k}.png")
    run("extract", MODEL, folder / "p", "-o", folder / "f.h5", "-t", "50,300", "-b", BLOCKS,
        "--size", 32, "--dtype", "float32")  # fmt: skip
    return folder


def run(*arguments: object, code: int = 0) -> str:
    done = CliRunner().invoke(cli, list(map(str, arguments)))
    assert done.exit_code == code, done.output
    return done.output


def masks(folder: Path) -> list[np.ndarray]:
    return [np.asarray(Image.open(folder / f"{k}.png")) for k in range(len(SIZES))]


@pytest.mark.parametrize("way", ["diffcut", "diffseg", "kmeans"])
def test_a_model_gives_what_its_file_gives(way, place, tmp_path):
    block = "mid.attn.0:self.map" if way == "diffseg" else "down.2.attn.0"
    options = ("--parts", way, "-t", 50, "-b", block, "--csv", tmp_path / "p.csv", "--json")
    how = ("--size", 32, "--truth", place / "t", "--overlay")
    live = run("segment", MODEL, place / "p", *options, *how, "-o", tmp_path / "live")
    stored = run("segment", place / "f.h5", *options, "-o", tmp_path / "stored")
    live, stored = json.loads(live[live.index("{") :]), json.loads(stored[stored.index("{") :])
    assert live["parts a picture"] == stored["parts a picture"]
    for one, other, (_, truth) in zip(
        masks(tmp_path / "live"), masks(tmp_path / "stored"), map(toy, range(3)), strict=True
    ):
        assert one.shape == truth.shape
        np.testing.assert_array_equal(one, other)
    assert len(list((tmp_path / "live/overlays").iterdir())) == 3
    with open(tmp_path / "p.csv") as file:
        rows = list(csv.DictReader(file))
    for row, mask in zip(rows, masks(tmp_path / "stored"), strict=True):
        assert int(row["parts"]) == len(np.unique(mask))
        assert float(row["largest"]) == pytest.approx(np.bincount(mask.ravel()).max() / mask.size)
    note = json.loads((tmp_path / "stored/classes.json").read_text())
    most = max(len(np.unique(mask)) for mask in masks(tmp_path / "stored"))
    assert len(note["classes"]) == (8 if way == "kmeans" else most)
    assert note["made_by"]["parts"] == way


def test_scores_are_those_of_the_best_names(place, tmp_path):
    """Two clusters, two classes: one-to-one is the better of the two orders, by scikit-learn."""
    out = run("segment", place / "f.h5", "--parts", "kmeans", "--clusters", 2, "-t", 50, "-b",
              "down.2.attn.0", "-o", tmp_path / "o", "--truth", place / "t", "--json")  # fmt: skip
    said = json.loads(out[out.index("{") :])["scores"]
    found = np.concatenate([mask.ravel() for mask in masks(tmp_path / "o")])
    truth = np.concatenate([toy(k)[1].ravel() for k in range(3)])
    both = [jaccard_score(truth, one, average="macro") for one in (found, 1 - found)]
    assert said["set, one-to-one"]["mIoU"] == pytest.approx(max(both))
    assert said["picture, one-to-one"]["mIoU"] >= max(both) - 1e-9
    text = run("segment", place / "f.h5", "--parts", "diffcut", "-b", "down.2.attn.0", "-t", 50,
               "--truth", place / "t")  # fmt: skip
    assert "matched by picture, one-to-one: mIoU" in text
    assert "upper bounds" in text


def test_clusters_of_a_picture_and_a_bound_on_cuts(place, tmp_path):
    run("segment", place / "f.h5", "--parts", "kmeans", "--each-picture", "--clusters", 3, "-t",
        50, "-b", "down.2.attn.0", "-o", tmp_path / "one")  # fmt: skip
    assert {len(np.unique(mask)) for mask in masks(tmp_path / "one")} == {3}
    run("segment", place / "f.h5", "--parts", "diffcut", "--clusters", 2, "--threshold", 1.9, "-t",
        50, "-b", "down.2.attn.0", "-o", tmp_path / "two")  # fmt: skip
    assert {len(np.unique(mask)) for mask in masks(tmp_path / "two")} <= {1, 2}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("p", "--parts", "diffcut"), "is no feature file"),
        (("f.h5", "p", "--parts", "diffcut"), "has no place"),
        (("f.h5", "--parts", "diffcut", "--size", "32"), "--size is for MODEL PICTURES"),
        (("f.h5", "--parts", "diffseg", "--clusters", "3"), "diffseg has no clusters"),
        (("f.h5", "--parts", "kmeans", "--threshold", "1"), "kmeans has no threshold"),
        (("f.h5", "--parts", "diffcut", "--each-picture"), "leave --each-picture out"),
        (("f.h5", "--parts", "diffcut", "--threshold", "3"), r"in (0, 2)"),
        (("f.h5", "--parts", "kmeans", "--clusters", "0"), "expected 1 … 256"),
        (("f.h5", "--parts", "diffseg", "-b", "down.2.attn.0"), "expected self-attention"),
        (("f.h5", "--head", "h.safetensors", "--clusters", "3"), "--clusters is for --parts"),
    ],
)
def test_what_cannot_be_meant(arguments, message, place, tmp_path):
    first = [place / one if one in ("p", "f.h5") else one for one in arguments]
    done = CliRunner().invoke(cli, ["segment", *map(str, first), "-o", str(tmp_path / "o")])
    assert done.exit_code != 0
    assert message in " ".join((done.output + str(done.exception)).split())


def test_a_folder_of_another_run_is_not_written_over(place, tmp_path):
    options = ("segment", place / "f.h5", "-t", 50, "-b", "down.2.attn.0", "-o", tmp_path / "o")
    run(*options, "--parts", "diffcut")
    run(*options, "--parts", "diffcut")  # the same again
    live = ("segment", MODEL, place / "p", "-t", 50, "-b", "down.2.attn.0", "-o", tmp_path / "o")
    for ask in ((*options, "--parts", "kmeans"), (*live, "--parts", "diffcut", "--seed", 7)):
        done = CliRunner().invoke(cli, list(map(str, ask)))
        assert done.exit_code != 0
        assert "holds what another run made" in str(done.exception)


@pytest.mark.parametrize("way", ["kmeans", "diffcut"])
def test_a_picture_that_cannot_be_read(way, place, tmp_path):
    (tmp_path / "p").mkdir()
    Image.fromarray(toy(0)[0]).save(tmp_path / "p/0.png")
    (tmp_path / "p/1.png").write_bytes(b"no picture")
    ask = ("segment", MODEL, tmp_path / "p", "--parts", way, "--size", 32, "--json")
    assert "leave such out with --on-error skip" in run(*ask, code=1)
    out = run(*ask, "--on-error", "skip", "--csv", tmp_path / "p.csv")
    assert list(json.loads(out[out.index("{") : out.rindex("}") + 1])["skipped"]) == ["1.png"]
    with open(tmp_path / "p.csv") as file:
        good, bad = csv.DictReader(file)
    assert (int(good["parts"]) > 0, good["error"], bad["parts"]) == (True, "", "")
    assert "not a picture" in bad["error"]


def test_parts_of_told_features_are_not_scored(tmp_path):
    """Pictures in folders of their class, a model that is told it, true masks."""
    build("dit", tmp_path / "dit")
    for k, kind in enumerate("ab"):
        for where, values in zip("pt", toy(k), strict=True):
            (tmp_path / where / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(tmp_path / where / kind / f"{k}.png")
    (tmp_path / "map.csv").write_text("class,label\na,1\nb,2\n", "utf-8")
    told = ("--label", "class", "--label-map", tmp_path / "map.csv")
    ask = ("segment", tmp_path / "dit", tmp_path / "p", "--parts", "kmeans", *told)
    scored = (*ask, "--truth", tmp_path / "t")
    run(*ask, "--json")  # parts alone are nobody's score
    done = CliRunner().invoke(cli, list(map(str, scored)))
    assert done.exit_code != 0
    assert "conditioned on their own targets" in str(done.exception)
    assert "not a measure of recognition" in run(*scored, "--allow-conditioned")
    run("extract", *ask[1:3], *told, "-o", tmp_path / "f.h5", "-t", 50, "-b", "block.1")
    stored = ("segment", tmp_path / "f.h5", "--parts", "kmeans", "--truth", tmp_path / "t")
    done = CliRunner().invoke(cli, list(map(str, stored)))
    assert "conditioned on their own targets" in str(done.exception)


class TestDefaults:
    def test_of_the_bundled_model(self):
        backbone = load(MODEL, "meta")
        maps = [one.name for one in backbone.tensors if one.name.endswith(":self.map")]
        assert default_blocks(backbone, "diffseg") == tuple(maps)
        assert default_blocks(backbone, "diffcut") == ("down.2.attn.0",)
        assert default_blocks(backbone, "kmeans") == ("up.1",)

    @pytest.mark.parametrize("name", ["sd1", "dit"])
    def test_of_other_families(self, name, tmp_path):
        backbone = load(str(build(name, tmp_path / name)), "meta")
        names = {one.name for one in backbone.tensors}
        for way in ("diffseg", "diffcut", "kmeans"):
            assert set(default_blocks(backbone, way)) <= names
        (cut,) = default_blocks(backbone, "diffcut")
        assert cut.startswith("down." if name == "sd1" else "block.")

    def test_a_model_without_attention_is_told(self):
        backbone = load(MODEL, "meta")
        none = type("Bare", (), {"tensors": (), "blocks": backbone.blocks[:2], "name": "bare"})
        with pytest.raises(SpecError, match="bare has no maps of self-attention"):
            default_blocks(none, "diffseg")


class TestApplied:
    def piece(self, values: np.ndarray) -> Piece:
        n = len(values)
        placed = np.tile([1.0, 0, 1.0, 0], (n, 1))
        return Piece({("m", 1): values}, np.arange(n), {}, np.full((n, 2), 8), placed)

    def test_bad_features_are_told(self):
        applied = AppliedParts(DiffSeg(), (8, 8))
        with pytest.raises(NumericsError, match="nan or inf"):
            list(applied.predict(self.piece(np.full((1, 2, 4, 4), np.nan))))
        with pytest.raises(SpecError, match="vectors"):
            list(applied.predict(self.piece(np.ones((1, 2)))))
        with pytest.raises(SpecError, match="self-attention"):
            list(applied.predict(self.piece(np.ones((1, 2, 4, 4)))))
        with pytest.raises(SpecError, match="no picture"):
            AppliedParts(KMeansParts(), (8, 8)).learn((), 0)

    def test_an_empty_piece_gives_nothing(self):
        assert list(AppliedParts(DiffSeg()).predict(Piece({}, np.arange(0)))) == []

    def test_names_are_those_that_came(self):
        applied = AppliedParts(made_way("diffcut"), (8, 8))
        assert len(applied.names) == MOST
        values = np.zeros((1, 2, 4, 4), np.float32)
        values[0, 0, :, :2] = values[0, 1, :, 2:] = 1
        (seen,) = applied.predict(self.piece(values))
        assert applied.names == ("part 0", "part 1")
        assert seen.values.shape == (8, 8)
        assert seen.shown.all()
        with pytest.raises(SpecError, match="parts by 'magic'"):
            made_way("magic")
