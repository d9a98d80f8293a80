"""`diffeat align` from pictures to its files."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from diffeat.errors import ModelError
from diffeat.images import open_source
from diffeat.search.analysis import pictures_of
from diffeat.store import FeatureStore
from diffeat.vision import load_vision
from tests.search.analysis.test_align import cka, plain
from tests.store.conftest import Job

MODEL = "timm:test_resnet@random"


class Digits(Job):
    """A file whose pictures are some digits."""

    @property
    def source(self):
        return open_source("digits").limit(self.count)


@pytest.fixture
def digits(tmp_path) -> Job:
    job = Digits(tmp_path / "f.h5", count=20, shape=(6,))
    job.write()
    return job


def test_against_a_vision_model(diffeat, digits, tmp_path):
    files = {name: tmp_path / f"a.{name}" for name in ("csv", "png", "safetensors")}
    outputs = ("--csv", files["csv"], "--png", files["png"], "--keep", files["safetensors"])
    answer = diffeat("align", digits.path, "digits", "--with", MODEL, "-k", 3, *outputs, "--json")
    assert answer.code == 0, answer.err
    held = json.loads(answer.out)
    assert (held["pictures"], held["k"], held["other"]) == (20, 3, MODEL)
    with FeatureStore(digits.path) as store:
        source = pictures_of(store, range(20), open_source("digits"))
    seen = load_vision(MODEL).features(source).astype(np.float64)
    for cell in held["cells"]:
        wanted = cka(plain(digits, cell["block"], cell["t"]), seen)
        assert cell["cka"] == pytest.approx(wanted, rel=1e-4)
    assert len(files["csv"].read_text().splitlines()) == 5
    with Image.open(files["png"]) as picture:
        assert picture.format == "PNG"
    assert files["safetensors"].stat().st_size > 20 * 96 * 4


def test_kept_features_are_read(diffeat, digits, tmp_path, monkeypatch):
    arguments = ("align", digits.path, "digits", "--with", MODEL, "-k", 3, "--keep",
                 tmp_path / "k.safetensors")  # fmt: skip
    first = diffeat(*arguments)
    monkeypatch.setattr("diffeat.vision.model.VisionModel.encode", None)
    assert diffeat(*arguments).out == first.out
    other = diffeat(*arguments, "--limit", 10)
    assert other.code == 1
    assert "other pictures" in other.err


def test_against_a_cell_of_a_file(diffeat, digits):
    answer = diffeat("align", digits.path, "--with", f"{digits.path}:up.1@60", "-t", 60, "-k", 3)
    assert answer.code == 0, answer.err
    mid, up = answer.out.splitlines()[-2:]
    assert up.split()[:3] == ["up.1", "60", "1.0000*"]
    wanted = cka(plain(digits, "mid", 60), plain(digits, "up.1", 60))
    assert float(mid.split()[2]) == pytest.approx(wanted, abs=1e-4)


def test_pictures_alone_mean_dinov2(diffeat, digits, monkeypatch):
    def asked(name, *_):
        raise ModelError(f"asked for {name}")

    monkeypatch.setattr("diffeat.vision.load_vision", asked)
    answer = diffeat("align", digits.path, "digits", "-k", 3)
    assert (answer.code, "asked for facebook/dinov2-base" in answer.err) == (1, True)


def test_alone_and_again(diffeat, digits, tmp_path):
    alone = diffeat("align", digits.path)
    assert alone.out.splitlines()[1].split() == ["block", "t", "uniformity"]
    second = Digits(tmp_path / "again.h5", count=20, shape=(6,), seed=1).write()
    both = diffeat("align", digits.path, "--again", second)
    assert both.code == 0, both.err
    assert both.out.splitlines()[1].split() == ["block", "t", "uniformity", "alignment"]
    assert "again again.h5" in both.out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--with", MODEL), 1, "say with PICTURES where the originals lie"),
        (("--with", "g.h5"), 2, "g.h5:BLOCK@T"),
        (("digits", "--with", "g.h5:mid@20"), 2, "PICTURES are for a vision model"),
        (("--with", "g.h5:mid@low"), 2, "native t"),
        (("--with", "g.h5:mid@20"), 1, "g.h5"),
        (("--keep", "k.safetensors"), 2, "--keep"),
        (("--png", "/dev/null/a.png"), 2, "nothing can be written there"),
        (("--png", "a.npz"), 2, "says NumPy"),
        (("digits", "--with", "timm:resnet51", "-k", 3), 1, "did you mean"),
        (("digits", "--with", MODEL, "-k", 20), 2, "k=20 neighbours among 20 pictures"),
        (("photos", "--with", MODEL, "-k", 3), 2, "of the 20 pictures"),
        (("--metrics", "alignment"), 2, "--again"),
        (("-b", "down.0"), 2, "no block 'down.0'"),
    ],
)
def test_wrong_usage(diffeat, digits, arguments, code, message):
    answer = diffeat("align", digits.path, *arguments)
    assert message in answer.err
    assert answer.code == code
