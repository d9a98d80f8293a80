"""Vision models on the way from pictures to files and tables."""

from __future__ import annotations

import csv
import json
import math
import re

import h5py
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

import diffeat
from diffeat.errors import ModelError, SpecError
from diffeat.extraction import Plan
from diffeat.noise import NO_T
from diffeat.store import FeatureStore, verify
from tests.command import command
from tests.vision.conftest import pictures

VIT, RESNET = "timm:test_vit@random", "timm:test_resnet@random:3"
SMALL = ("--size", 32, "--pool", "1x1")


@pytest.fixture
def run(monkeypatch, capsys):
    with command(monkeypatch, capsys) as call:
        yield call


@pytest.fixture(scope="module")
def vit():
    return diffeat.load(VIT, device="cpu")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Feature files of two vision models and a diffusion model, of the same 60 digits."""
    folder = tmp_path_factory.mktemp("files")
    source = diffeat.open_source("digits").limit(60)
    made = {}
    for name, model, blocks, t in (
        ("vit", VIT, "blocks.1,blocks.4", 0),
        ("resnet", RESNET, "layer2", 0),
        ("unet", "unet-cifar10@random", "mid", 20),
    ):
        made[name] = folder / f"{name}.h5"
        spec = diffeat.ExtractSpec(t, blocks.split(","), pool="1x1", size=32)
        backbone = diffeat.load(model, device="cpu")
        diffeat.extract_to_file(backbone, source, spec, made[name], progress=False)
    return made


def spec(**options):
    return diffeat.ExtractSpec(**{"timesteps": 0, "blocks": "blocks.2", "size": 32, **options})


# --- names and weights ----------------------------------------------------------------------


def test_the_same_network_by_a_file_and_by_a_seed(vit, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({k: v.contiguous() for k, v in vit.denoiser.state_dict().items()}, path)
    again = diffeat.load(f"timm:test_vit@{path}", device="cpu")
    assert again.fingerprint == vit.fingerprint
    assert diffeat.load("timm:test_vit@random:1", device="cpu").fingerprint != vit.fingerprint
    half = diffeat.load(VIT, device="cpu", dtype="float16")
    assert half.fingerprint != vit.fingerprint
    assert (half.dtype, half.request.dtype) == (torch.float16, "float16")


def test_what_is_recorded_of_the_model(vit):
    assert (vit.family, vit.library, vit.random_seed) == ("vision", "timm", 0)
    assert (vit.latent_factor, vit.step, vit.classes, vit.embedding_shapes) == (1, 16, None, {})
    count = sum(weight.numel() for weight in timm.create_model("test_vit").parameters())
    assert vit.parameters == count


@pytest.mark.parametrize("option", [{"lora": "l.safetensors"}, {"denoiser": "d"},
                                    {"compile": True}, {"offload": "blocks"}])  # fmt: skip
def test_options_for_diffusion_models_are_refused(option):
    with pytest.raises(SpecError, match=f"{next(iter(option))}=.*is for diffusion models"):
        diffeat.load(VIT, device="cpu", **option)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:test_vitt@random", "did you mean.*test_vit"),
        ("transformers:nowhere", "is unknown; expected 'timm:NAME', a folder"),
        ("timm:hiera_tiny_224@random", "none of its outputs lies on a grid"),
    ],
)
def test_unknown_models(name, message):
    with pytest.raises(ModelError, match=message):
        diffeat.load(name, device="meta")


def test_an_architecture_without_weights_has_the_same_blocks(vit):
    bare = diffeat.load("timm:test_vit", device="meta")
    assert bare.tensors == vit.tensors
    assert bare.native_size == vit.native_size == (160, 160)
    with pytest.raises(SpecError, match="no weights"):
        diffeat.extract(bare, pictures(1).pixels[0][None].transpose(0, 3, 1, 2) / 255, spec())


# --- what a spec may say --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timesteps": 20}, "t=20: a vision model sees clean pictures.*leave t out"),
        ({"timesteps": "sigma=0.3"}, "t='sigma=0.3': a vision model sees clean"),
        ({"timesteps": (0, 1)}, "t=1: a vision model"),
        ({"noise": "shared"}, "noise=shared: a vision model"),
        ({"noise": "per-content"}, "noise=per-content: a vision model"),
        ({"noise": "inversion"}, "noise=inversion: a vision model"),
        ({"noise": "generation"}, "noise=generation: a vision model"),
        ({"ensemble": 2}, "ensemble=2: .* is a vision model"),
        ({"latent": "sample"}, "latent='sample': .* is a vision model"),
        ({"scale_latent": False}, "scale_latent=False: .* is a vision model"),
        ({"size": 40}, "multiples of 16; its own size is 160×160"),
        ({"blocks": "blocks.6"}, "selects nothing"),
        ({"blocks": "net:out"}, "selects nothing"),
    ],
)  # fmt: skip
def test_what_a_vision_model_cannot_be_asked(vit, options, message):
    with pytest.raises(SpecError, match=message):
        Plan(vit, spec(**options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": "a cat"}, "no text encoder"),
        ({"label": 3}, "not class-conditional"),
    ],
)
def test_conditions_are_refused(vit, options, message):
    with pytest.raises(SpecError, match=message):
        diffeat.extract(vit, torch.zeros(1, 3, 32, 32), spec(**options))


def test_explicit_noise_is_refused(vit):
    with pytest.raises(SpecError, match="sees clean pictures; leave noise= out"):
        diffeat.extract(vit, torch.zeros(1, 3, 32, 32), spec(), noise=torch.zeros(1, 3, 32, 32))


def test_the_noise_of_a_spec_becomes_none(vit):
    default, said = (Plan(vit, spec(**noise)) for noise in ({}, {"noise": "none"}))
    assert default.spec.noise == "none"
    assert default.spec.fingerprint == said.spec.fingerprint
    (level,) = default.levels
    assert (level.t, level.alpha, level.sigma, level.log_snr) == (0, 1, 0, math.inf)


def test_a_network_with_fixed_positions_takes_its_own_size_only():
    fixed = diffeat.load("timm:mixer_s32_224", device="meta")
    Plan(fixed, spec(blocks="blocks.2", size=224))
    with pytest.raises(SpecError, match=r"positions are those of 224×224.*cannot interpolate"):
        Plan(fixed, spec(blocks="blocks.2", size=256))


def test_tiles_and_mirrors_are_those_of_pixels(vit):
    shown = torch.rand(1, 3, 32, 64, generator=torch.Generator().manual_seed(2))
    asked = spec(size=(32, 64), dtype="float32")
    tiled = diffeat.extract(vit, shown, diffeat.ExtractSpec(
        0, "blocks.2", size=(32, 64), tile=32, dtype="float32"))["blocks.2", 0]  # fmt: skip
    for columns in (slice(0, 32), slice(32, 64)):
        half = diffeat.extract(vit, shown[..., columns], spec(dtype="float32"))["blocks.2", 0]
        cells = slice(columns.start // 16, columns.stop // 16)
        torch.testing.assert_close(tiled[..., cells], half)
    mirrored = diffeat.extract(vit, shown.flip(3), asked)["blocks.2", 0]
    plain = diffeat.extract(vit, shown, asked)["blocks.2", 0]
    flipped = diffeat.ExtractSpec(0, "blocks.2", size=(32, 64), flip=True, dtype="float32")
    found = diffeat.extract(vit, shown, flipped)["blocks.2", 0]
    torch.testing.assert_close(found, (plain + mirrored.flip(3)) / 2)


# --- files ----------------------------------------------------------------------------------


def test_a_file_of_a_vision_model(files):
    assert verify(files["vit"]) == []
    with h5py.File(files["vit"]) as file:
        data = file["features/blocks.4/t0"]
        level = [data.attrs[name] for name in ("t", "alpha", "sigma", "log_snr", "stride")]
        assert level == [0, 1, 0, math.inf, 16]
        assert data.shape == (60, 64)
        assert json.loads(file.attrs["spec"])["noise"] == "none"
        assert json.loads(file.attrs["spec"])["timesteps"] == [0]
        how = json.loads(file.attrs["how"])
        assert (how["timm"], "diffusers" in how) == (timm.__version__, False)
    with FeatureStore(files["vit"]) as store:
        assert store.timesteps == [0]
        assert store.timesteps[0] is NO_T
        assert store.model["family"] == "vision"
        assert store["blocks.1", 0].shape == (60, 64)
    with FeatureStore(files["unet"]) as store:
        assert store.timesteps == [20]


def test_files_of_one_model_are_merged_and_exported(run, files, tmp_path):
    other, whole = tmp_path / "other.h5", tmp_path / "whole.h5"
    answer = run("extract", VIT, "digits", "-o", other, "-b", "blocks.2", "--limit", 60, *SMALL)
    assert answer.code == 0, answer.err
    assert run("merge", whole, files["vit"], other).code == 0
    with h5py.File(whole) as file:
        assert list(file["features"]) == ["blocks.1", "blocks.2", "blocks.4"]
        assert file["features/blocks.2/t0"].attrs["log_snr"] == math.inf
    assert run("verify", whole).code == 0
    assert run("export", whole, "-o", tmp_path / "f.npz").code == 0
    with np.load(tmp_path / "f.npz") as found, h5py.File(whole) as file:
        wanted = file["features/blocks.4/t0"][:]
        np.testing.assert_array_equal(found["features/blocks.4/t0"], wanted)


def test_the_same_command_goes_on(run, tmp_path):
    asked = ("extract", VIT, "digits", "-o", tmp_path / "f.h5", "-b", "blocks.2", *SMALL)
    assert "20 computed now" in run(*asked, "--limit", 20).out
    assert "already complete" in run(*asked, "--limit", 20, "-t", 0).out
    refused = run(*asked, "-t", 20)
    assert refused.code != 0
    assert "a vision model sees clean pictures" in refused.err


# --- tables ---------------------------------------------------------------------------------


def test_t_is_blank_in_what_people_read(run, files, tmp_path):
    rows = {}
    for name in ("vit", "unet"):
        shown = run("info", files[name]).out.splitlines()
        rows[name] = next(line.split() for line in shown if re.search(r"×\d+ float16", line))[:4]
    assert rows["vit"] == ["blocks.1", "1.0000", "0.0000", "inf"]
    assert rows["unet"][:2] == ["mid", "20"]
    table = tmp_path / "p.csv"
    for verb in ("search", "probe"):
        answer = run(verb, files["vit"], "--csv", table, "--png", tmp_path / "p.png")
        assert answer.code == 0, answer.err
        assert "t=" not in answer.out
        assert re.search(r"best on validation: blocks\.[14][ ,]", answer.out)
        with open(table, newline="") as file:
            assert [row["t"] for row in csv.DictReader(file)] == ["", ""]
    found = json.loads(run("search", files["vit"], "--json").out)
    assert "blocks" in json.dumps(found)
    assert "t=20" in run("search", files["unet"]).out


def test_a_search_straight_from_a_vision_model(run, files):
    live = json.loads(run("search", VIT, "digits", "--limit", 60, "-b", "blocks.1,blocks.4",
                          "--size", 32, "--json").out)  # fmt: skip
    stored = json.loads(run("search", files["vit"], "--json").out)
    scores = [[(c["block"], c["t"], c["validation"]) for c in found["surface"]["cells"]]
              for found in (live, stored)]  # fmt: skip
    assert scores[0] == scores[1]


def test_alignment_with_a_vision_models_file(run, files):
    asked = ("align", files["unet"], "--metrics", "cka", "-k", 3, "--json", "--with")
    found = json.loads(run(*asked, f"{files['vit']}:blocks.4").out)["cells"]
    assert found == json.loads(run(*asked, f"{files['vit']}:blocks.4@0").out)["cells"]
    with h5py.File(files["unet"]) as one, h5py.File(files["vit"]) as two:
        x, y = one["features/mid/t20"][:], two["features/blocks.4/t0"][:]
    x, y = (v.astype(np.float64) - v.astype(np.float64).mean(0) for v in (x, y))
    cross, left, right = (np.linalg.norm(m) for m in (x.T @ y, x.T @ x, y.T @ y))
    assert found[0]["cka"] == pytest.approx(cross**2 / (left * right), rel=1e-5)
    shown = run("align", files["vit"], "--with", f"{files['resnet']}:layer2", "--metrics", "cka")
    assert [len(line.split()) for line in shown.out.splitlines()[-2:]] == [2, 2]  # block, cka


def test_blocks_are_listed(run):
    rows = json.loads(run("blocks", "timm:test_resnet", "--json").out)
    assert [(row["name"], row["stride"], row["shape"]) for row in rows][-1] == (
        "layer4", 32, [96, 5, 5]
    )  # fmt: skip
    kinds = json.loads(run("blocks", "timm:test_vit", "-b", "blocks.0:self.*", "--json").out)
    assert [row["name"] for row in kinds] == [f"blocks.0:self.{letter}" for letter in "qkv"]
    aliases = json.loads(run("blocks", "timm:test_vit", "--aliases", "--json").out)
    assert aliases["blocks.-1"] == "blocks.5"
