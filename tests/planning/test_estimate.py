"""What `diffeat plan` says, against what an extraction then does: counted, weighed, measured."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import diffeat
from diffeat import ExtractSpec
from diffeat.backbones import ModelRequest
from diffeat.errors import DiffeatError, SpecError
from diffeat.planning.estimate import estimate
from diffeat.planning.flops import counter
from diffeat.planning.live import peak_bytes
from diffeat.planning.rates import GPUS, gpu_rate, picture_flops
from diffeat.planning.words import about_text, flop_text, size_text, time_text, times_text


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Nothing that a test counts is remembered for anybody."""
    monkeypatch.setenv("DIFFEAT_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Three pictures of two classes, of sizes 32×32, 40×48 and 64×32."""
    root, rng = tmp_path_factory.mktemp("in"), np.random.default_rng(0)
    for name, size in {"cat/0": (32, 32), "cat/1": (40, 48), "dog/2": (64, 32)}.items():
        path = root / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(path)
    return diffeat.open_source(root)


@pytest.fixture
def planned(folder_of, source):
    """Estimate of a tiny pipeline or a vision model; no rate is measured."""

    def plan(name, spec, **how):
        model = name if ":" in name else str(folder_of(name))
        request = ModelRequest(model, device="cpu", dtype="float32")
        return estimate(request, source, spec, **{"measure": False, **how})

    return plan


# --- operations ----------------------------------------------------------------------------------

JOBS = {
    "pixels": ("pixel", {"timesteps": (20, 60), "blocks": ("up.1",)}),
    "a VAE and prompts": ("sd1", {"timesteps": (20,), "blocks": ("mid",), "prompt": "a {class}"}),
    "members": ("sd1", {"timesteps": (20, 60), "blocks": ("up.0",), "ensemble": 2}),
    "mirror images": ("pixel", {"timesteps": (20,), "blocks": ("up.0", "up.1"), "flip": True}),
    "tiles": ("pixel", {"timesteps": (20,), "blocks": ("mid",), "size": 64, "tile": 32}),
    "an inversion": ("sd1", {"timesteps": (-1, 200), "blocks": ("mid",), "noise": "inversion",
                             "steps": 10}),
    "a generation": ("pixel", {"timesteps": (800,), "blocks": ("mid",), "noise": "generation",
                               "steps": 10}),
    "attention maps": ("sd1", {"timesteps": (20,), "blocks": ("up.1.attn.0:cross.map",)}),
    "the VAE alone": ("sd1", {"timesteps": (20,), "blocks": ("vae",)}),
    "classes": ("dit", {"timesteps": (20,), "blocks": ("block.1",)}),
    "two texts": ("flux", {"timesteps": (260,), "blocks": ("single.0",)}),
    "a vision model": ("timm:vit_tiny_patch16_224@random", {"timesteps": (0,),
                                                           "blocks": ("blocks.1",)}),
}  # fmt: skip


@pytest.mark.parametrize("job", JOBS)
def test_operations_are_those_that_an_extraction_does(job, planned, source, folder_of, tmp_path):
    """torch's counter looks at the whole extraction, text and VAE included."""
    name, fields = JOBS[job]
    spec = ExtractSpec(**fields)
    found = planned(name, spec)
    backbone = diffeat.load(name if ":" in name else str(folder_of(name)), device="cpu")
    rows = []
    hook = backbone.denoiser.register_forward_pre_hook(
        lambda _m, args, given: rows.append(len(next(iter((*args, *given.values()))))),
        with_kwargs=True,
    )
    with counter() as counted:
        diffeat.extract_to_file(backbone, source, spec, tmp_path / "f.h5", progress=False)
    hook.remove()
    assert found.flops == counted.get_total_flops() > 0
    assert found.effort["forwards"] * found.count == sum(rows)


def test_a_remembered_count_is_the_same(planned, tmp_path, monkeypatch):
    first = planned("pixel", ExtractSpec(20, "mid"))
    monkeypatch.setattr("diffeat.planning.estimate.count_costs", None)  # not counted again
    again = planned("pixel", ExtractSpec((20, 60, 90), "mid", seed=3))
    assert again.costs == first.costs
    assert again.flops == 3 * first.flops


def test_operations_of_pictures_that_keep_their_size_are_those_of_each(planned, source, tmp_path):
    spec = ExtractSpec(20, "mid", fit="native", pool="1x1")
    found = planned("pixel", spec)
    assert found.size == ((32, 32), (64, 32))
    each = [planned("pixel", ExtractSpec(20, "mid", size=size)).costs["cut"]
            for size in ((32, 32), (40, 48), (64, 32))]  # fmt: skip
    assert found.flops == pytest.approx(sum(each), rel=1e-6)


# --- the file ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "labelled"),
    [
        ({"blocks": ("mid",), "pool": "1x1"}, False),
        ({"blocks": ("all",), "pool": "1x1"}, True),
        ({"blocks": ("stages",), "dtype": "int8"}, True),
        ({"blocks": ("up.1",), "fit": "pad", "dtype": "float32"}, False),
    ],
)
def test_the_file_is_as_large_as_it_says(fields, labelled, folder_of, source, tmp_path):
    if not labelled:
        rng = np.random.default_rng(0)
        for k in range(7):
            array = rng.integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(array).save(tmp_path / f"{k}{'ä' * k}.png")
        source = diffeat.open_source(f"{tmp_path}/*.png")
    spec = ExtractSpec(**{"timesteps": (20,), **fields})
    request = ModelRequest(str(folder_of("pixel")), device="cpu")
    found = estimate(request, source, spec, measure=False)
    diffeat.extract_to_file(request, source, spec, tmp_path / "f.h5", progress=False)
    assert found.file_bytes == pytest.approx((tmp_path / "f.h5").stat().st_size, rel=0.05)


# --- memory --------------------------------------------------------------------------------------


def test_what_lives_at_once_by_hand():
    """Of two convolutions and a sum: in turn 8, 8 and 16, 16 and 16 maps of 100 cells."""
    first, second = (nn.Conv2d(a, b, 3, padding=1, device="meta") for a, b in ((3, 8), (8, 16)))
    x = torch.empty(1, 3, 10, 10, device="meta")

    def run():
        y = second(first(x))
        y += 1  # in place
        return (y.flatten(1) * 2).view(-1)  # views take nothing

    assert peak_bytes(run) == 4 * 100 * (16 + 16)


def test_attention_counts_as_fused_kernels_do_it():
    q = torch.empty(2, 4, 1000, 8, device="meta")
    assert peak_bytes(lambda: F.scaled_dot_product_attention(q, q, q)) == 4 * q.numel()


def test_memory_grows_with_the_batch(planned):
    small, large = (planned("pixel", ExtractSpec(20, "mid"), batch_size=n) for n in (8, 16))
    assert large.memory["forward"] == 2 * small.memory["forward"]
    assert small.memory["weights"] == large.memory["weights"] > 0
    assert small.memory["peak"] >= sum(small.memory[n] for n in ("program", "weights", "forward"))


# --- time ----------------------------------------------------------------------------------------


def test_a_gpu_is_a_share_of_its_published_peak(planned):
    found = planned("pixel", ExtractSpec(20, "mid"), gpu="h100", fraction=0.25)
    assert found.rate["rate"] == 0.25 * 1e12 * GPUS["h100"]["float32"]
    assert found.seconds == pytest.approx(found.flops / found.rate["rate"])


def test_half_the_sparse_figures():
    """Vendors print the sparse peak first."""
    for name, sparse in {"h100": 1979, "h200": 1979, "l4": 242, "h100-pcie": 1513}.items():
        assert GPUS[name]["bfloat16"] == pytest.approx(sparse / 2, rel=2e-3)


@pytest.mark.parametrize(
    ("gpu", "dtype", "fraction", "why"),
    [
        ("h10", "float32", 0.3, "unknown.*'h100'"),
        ("v100", "bfloat16", 0.3, "no published peak in bfloat16; expected --model-dtype float16"),
        ("h100", "float32", 0, "share of the peak"),
        ("h100", "float32", 1.5, "share of the peak"),
    ],
)
def test_what_no_gpu_can_be(gpu, dtype, fraction, why):
    with pytest.raises(SpecError, match=why):
        gpu_rate(gpu, dtype, fraction)


def test_the_rate_of_this_machine_is_measured_once(planned, monkeypatch):
    spec = ExtractSpec(20, "mid", pool="1x1")
    found = planned("pixel", spec, measure=None)
    assert found.rate["from"] == "measured"
    assert found.seconds == pytest.approx(found.flops / found.rate["rate"])
    flops = picture_flops({"evaluations": 1, "forwards": 1, "walks": False, "encodes": 0},
                          found.costs)  # fmt: skip
    assert found.rate["rate"] == pytest.approx(
        flops * found.rate["rows"] / found.rate["seconds"], rel=0.1
    )
    monkeypatch.setattr("diffeat.planning.estimate.measure_rate", None)
    assert planned("pixel", spec, measure=None).rate["from"] == "remembered"


def test_a_model_that_does_not_fit_has_no_time_and_says_why(planned, monkeypatch):
    def full(*_args, **_options):
        raise MemoryError

    monkeypatch.setattr("diffeat.extraction.batch_size.Trial._run", full)
    found = planned("pixel", ExtractSpec(20, "mid", pool="1x1"), measure=None)
    assert found.seconds is None
    assert any("does not fit into the memory of cpu" in note for note in found.notes)


def test_a_known_model_has_no_time_without_weights(source, tmp_path):
    found = estimate(ModelRequest("edm-cifar10", device="cpu"), source,
                     ExtractSpec(0.5, "mid", pool="1x1"))  # fmt: skip
    assert found.seconds is None
    assert found.flops > 1e9
    assert any("weights of edm-cifar10 are not on this machine" in note for note in found.notes)


def test_nothing_is_fetched(source, monkeypatch):
    asked = []

    def refuse(*args, **options):
        import huggingface_hub

        asked.append(huggingface_hub.constants.HF_HUB_OFFLINE)
        raise OSError("set HF_HUB_OFFLINE=0 to enable look-ups")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(DiffeatError, match=r"'owner/model' is not on .*a plan asks no server"):
        estimate(ModelRequest("owner/model", device="cpu"), source, ExtractSpec(20, "mid"))
    assert asked == [True]
    import huggingface_hub

    assert huggingface_hub.constants.HF_HUB_OFFLINE is False


def test_what_the_extraction_refuses_is_refused(planned):
    with pytest.raises(SpecError, match="selects nothing"):
        planned("pixel", ExtractSpec(20, "nowhere"))
    with pytest.raises(SpecError, match="out of range"):
        planned("pixel", ExtractSpec(5000, "mid"))


# --- words ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (size_text(0), "0 B"),
        (size_text(999), "999 B"),
        (size_text(1500), "1.5 kB"),
        (size_text(999_600), "1.0 MB"),
        (size_text(2.34e12), "2.3 TB"),
        (flop_text(1.2e12), "1.2 TFLOP"),
        (flop_text(7.9e10, "FLOP/s"), "79 GFLOP/s"),
        (time_text(0.3), "under 1 s"),
        (time_text(40), "40 s"),
        (time_text(119), "119 s"),
        (time_text(120), "2.0 min"),
        (time_text(7200), "2.0 h"),
        (time_text(400_000), "4.6 days"),
        (about_text(0.3), "under 1 s"),
        (about_text(40), "about 40 s"),
    ],
)
def test_numbers_for_people(text, wanted):
    assert text == wanted


@pytest.mark.parametrize(
    ("effort", "levels", "members", "wanted"),
    [
        ({"evaluations": 2, "forwards": 2, "walks": False}, 2, 1, "7 pictures × 2 t = 14 forwards"),
        ({"evaluations": 2, "forwards": 16, "walks": False}, 2, 8,
         "7 pictures × 2 t × 8 members = 112 forwards"),
        ({"evaluations": 1, "forwards": 4, "walks": False}, 1, 2,
         "7 pictures × 1 t × 2 members × 2 views = 28 forwards"),
        ({"evaluations": 50, "forwards": 50, "walks": True}, 2, 1,
         "7 pictures × 50 steps = 350 forwards"),
        ({"evaluations": 0, "forwards": 0, "walks": False, "encodes": 1}, 1, 1,
         "7 pictures, 7 encodes of the VAE"),
    ],
)  # fmt: skip
def test_the_product_is_spelled_out(effort, levels, members, wanted):
    assert times_text(7, levels, effort, members) == wanted
