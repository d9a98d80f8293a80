"""Work that is begun and fetched later, noise drawn ahead, and numbers that are none."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import diffeat
from diffeat.backbones import devices
from diffeat.errors import NumericsError, SpecError
from diffeat.extraction import (
    Batch,
    Conditions,
    Plan,
    draw_noise,
    extractor_for,
    run_batch,
    start_batch,
)
from diffeat.extraction.pending import Buffers, peaks
from diffeat.noise import picture_noise
from tests.extraction.common import spec
from tests.pipelines import EACH_PATH, NATIVE, levels, pictures

IDS = ["a", "b", "c", "d", "e"]
SPECS = {
    "plain": {},
    "ensemble": {"ensemble": 3},
    "sampled": {"latent": "sample", "ensemble": 2},
    "shared": {"noise": "shared"},
    "clean": {"noise": "none"},
    "inversion": {"noise": "inversion", "steps": 5},
    "generation": {"noise": "generation", "steps": 5},
    "tiles": {"tile": 32, "size": 64},
    "mirrored": {"flip": True},
    "mirrored samples": {"flip": True, "latent": "sample", "pool": "1x1"},
}


def extractor_of(backbone, name="sd1", batch_size=None, **options):
    options = {"blocks": ("vae", "up.1"), **options}
    asked = spec(name, options.pop("blocks"), options.pop("timesteps", 200), **options)
    conditions = Conditions.of_spec(backbone, asked, len(IDS))
    return extractor_for(Plan(backbone, asked), batch_size, conditions)


def equal(found, expected):
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        assert torch.equal(found[key], values), key


# --- begun and fetched ----------------------------------------------------------------------------


@pytest.mark.parametrize("what", SPECS)
def test_begun_with_noise_drawn_ahead_equals_called(what, backbone_of):
    extractor = extractor_of(backbone_of("sd1"), batch_size=4, **SPECS[what])
    pixels = pictures(5, extractor.plan.size)
    batch = Batch.of(pixels, IDS, range(5))
    called = extractor(batch)
    with ThreadPoolExecutor(1) as pool:
        noise, sample = pool.submit(draw_noise, extractor.plan, IDS, extractor.plan.size).result()
        drawn = pool.submit(batch.drawn, extractor.plan).result()
    pending = extractor.start(Batch.of(pixels, IDS, noise=noise, sample=sample))
    equal(pending.result(), called)
    assert pending.result() is pending.result()
    # parts of another size change the last bits, and nothing more
    for found in (run_batch(extractor, batch), start_batch(extractor, drawn).result()):
        for key, values in called.items():
            torch.testing.assert_close(found[key], values, rtol=1e-5, atol=1e-5)


def test_several_batches_may_wait_for_their_results(backbone_of):
    extractor = extractor_of(backbone_of("sd1"))
    batches = [Batch.of(pictures(2, seed=i), IDS[:2]) for i in range(3)]
    waiting = [extractor.start(batch) for batch in batches]
    for batch, pending in zip(batches, waiting, strict=True):
        equal(pending.result(), extractor(batch))


@pytest.mark.parametrize("options", [{}, {"ensemble": 2}, {"noise": "shared"}])
def test_noise_drawn_ahead_is_that_of_the_pictures(options, backbone_of):
    plan = extractor_of(backbone_of("sd1"), seed=7, **options).plan
    noise, sample = draw_noise(plan, ["x", "y"], NATIVE)
    shape = plan.backbone.latent_shape(NATIVE)
    names = ["", ""] if plan.spec.noise == "shared" else ["x", "y"]
    for row, name in enumerate(names):
        for member in range(plan.spec.ensemble):
            expected = picture_noise(7, name, member, shape)
            assert np.array_equal(noise[row, member].numpy(), expected)
    assert sample is None


def test_noise_that_nothing_needs_is_not_drawn(backbone_of):
    size = NATIVE
    for options in ({"noise": "none"}, {"noise": "inversion"}, {"blocks": "vae.**"}):
        assert draw_noise(extractor_of(backbone_of("sd1"), **options).plan, IDS, size)[0] is None
    pixel = Plan(backbone_of("pixel"), spec("pixel", "up.1", latent="sample"))
    assert draw_noise(pixel, IDS, size)[1] is None


def test_an_inversion_takes_no_noise(backbone_of):
    extractor = extractor_of(backbone_of("sd1"), noise="inversion", steps=5)
    eps = torch.zeros(5, *backbone_of("sd1").latent_shape(NATIVE))
    with pytest.raises(SpecError, match="leave noise= out"):
        extractor.start(Batch.of(pictures(5), IDS, noise=eps))


@pytest.mark.parametrize("noise", ["inversion", "generation"])
def test_noise_by_hand_for_a_trajectory_is_refused(noise, backbone_of):
    asked = spec("pixel", "up.1", noise=noise, steps=5)
    with pytest.raises(SpecError, match=f"noise={noise} makes its own"):
        diffeat.extract(backbone_of("pixel"), pictures(1), asked, noise=torch.zeros(1, 3, 32, 32))


# --- a host that does not wait --------------------------------------------------------------------


class _Waits(TorchDispatchMode):
    """Collects the operations that make a host wait for a device."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name()
        if any(word in name for word in ("_local_scalar_dense", "nonzero", "unique", "item")):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


class _Numbers(TorchFunctionMode):
    """Collects tensors that are made of Python's numbers, which would have to travel."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.tensor:
            self.found.append(args)
        lists = func is torch.Tensor.__getitem__ and isinstance(args[1], (list, tuple))
        if lists and any(isinstance(index, list) for index in (args[1], *args[1])):
            self.found.append(("index", args[1]))
        return func(*args, **(kwargs or {}))


def maps_of(backbone):
    names = [block.name for block in backbone.tensors if block.layout == "map"]
    return tuple(names[-1:])


@pytest.mark.parametrize("name", EACH_PATH)
@pytest.mark.parametrize("noise", ["per-image", "generation"])
def test_no_step_of_a_batch_waits_for_the_device(name, noise, backbone_of, monkeypatch):
    backbone, t = backbone_of(name), levels(name)[0]
    options = {"noise": noise}
    if noise == "generation":
        options["steps"] = 4
        t = backbone.schedule.grid(4)[2].t
    maps = maps_of(backbone)
    blocks = ("net:x0", *(("vae.down.0",) if backbone.vae is not None else ()), *maps)
    if any(block.tensor == "adaln" for block in backbone.tensors):
        blocks += ("block.0:adaln",)
        options["discard"] = (1,)
    if maps:
        options["tokens"] = (0, 2)
    extractor = extractor_of(backbone, name, blocks=blocks, timesteps=t, ensemble=2, **options)
    extractor(Batch.of(pictures(2), IDS[:2]))  # small tensors of numbers travel once
    # where the device is another one, results are looked at only when they are asked for
    monkeypatch.setattr(Buffers, "queued", lambda self: self)
    with _Waits() as waits, _Numbers() as numbers:
        pending = extractor.start(Batch.of(pictures(2, seed=1), IDS[:2]))
    assert not waits.found
    assert not numbers.found
    assert all(torch.isfinite(values).all() for values in pending.result().values())


def test_a_cpu_needs_no_pinned_copies():
    x = torch.arange(3)
    assert devices.upload(x, torch.device("cpu")) is x


def test_numbers_travel_once():
    cpu = torch.device("cpu")
    first = devices.constant((1.0, 2.0), torch.float64, cpu)
    assert first.tolist() == [1, 2]
    assert devices.constant((1.0, 2.0), torch.float64, cpu) is first
    assert devices.constant((1.0, 2.0), torch.float32, cpu).dtype == torch.float32


# --- numbers that are none ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_peaks_are_the_largest_magnitudes(dtype):
    values = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    values[1, 2, 3, 0], values[2, 0, 0, 1], values[3, 1, 2, 2] = -9, float("nan"), -torch.inf
    found = peaks(values)
    expected = np.abs(values.float().numpy()).reshape(5, -1).max(1)
    np.testing.assert_array_equal(found.numpy(), expected)
    assert found.dtype == torch.float32


def loud(copy_of, dtype="float32", factor=1e6):
    backbone = diffeat.load(str(copy_of("pixel-flow")), device="cpu", dtype="float32")
    backbone.denoiser.conv_in.weight.mul_(factor)
    backbone.denoiser.to(getattr(torch, dtype))
    return backbone


def run(backbone, dtype, **options):
    asked = spec("pixel-flow", "conv_in", (0.1, 0.7), dtype=dtype, **options)
    grey = torch.full((2, 3, *NATIVE), 0.5)
    return diffeat.extract(backbone, grey, asked)


@pytest.mark.parametrize("options", [{}, {"ensemble": 2}, {"flip": True}])
def test_what_does_not_fit_float16_is_to_be_stored_in_float32(options, copy_of):
    backbone = loud(copy_of)
    with pytest.raises(NumericsError) as caught:
        run(backbone, "float16", **options)
    message = str(caught.value)
    assert "block 'conv_in' at t=100: inf or nan in float16" in message
    assert "float16 ends at 6.55e+04" in message
    assert "--dtype float32" in message
    assert "--model-dtype" not in message
    peak = run(backbone, "float32", **options)["conv_in", 100].abs().amax((1, 2, 3))[0]
    assert f"the model gave {float(peak):.4g}" in message


def test_the_largest_number_of_float16_may_be_stored(copy_of):
    backbone = loud(copy_of, factor=0)
    for bias, fits in ((65504.0, True), (-65519.0, True), (65520.0, False)):  # rounds to inf
        backbone.denoiser.conv_in.bias.fill_(bias)
        if fits:
            found = run(backbone, "float16")["conv_in", 100]
            assert (found == (65504 if bias > 0 else -65504)).all()
        else:
            with pytest.raises(NumericsError, match="--dtype float32"):
                run(backbone, "float16")


@pytest.mark.parametrize("stored", ["float16", "float32", "bfloat16", "int8"])
def test_what_a_half_precision_model_cannot_compute_needs_another_precision(stored, copy_of):
    backbone = loud(copy_of, "float16", 1e5)  # the weights still fit
    extractor = extractor_of(backbone, "pixel-flow", blocks="conv_in", timesteps=0.7, dtype=stored)
    with pytest.raises(NumericsError, match=r"gave inf in float16.*--model-dtype bfloat16") as info:
        extractor(Batch.of(pictures(2), IDS[:2]))
    assert "--dtype" not in str(info.value)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_nan_in_a_wide_precision_is_damage(dtype, copy_of):
    backbone = loud(copy_of, dtype, 1)
    backbone.denoiser.conv_in.bias.fill_(float("nan"))
    with pytest.raises(NumericsError, match=rf"gave nan in {dtype}.*damaged") as caught:
        run(backbone, "float16")
    assert ("--model-dtype float32" in str(caught.value)) == (dtype == "bfloat16")


# --- int8 -----------------------------------------------------------------------------------------


def test_int8_is_made_in_files_from_float32(backbone_of):
    quantised, exact = (
        extractor_of(backbone_of("sd1"), dtype=dtype)(Batch.of(pictures(2), IDS[:2]))
        for dtype in ("int8", "float32")
    )
    equal(quantised, exact)
    assert {values.dtype for values in quantised.values()} == {torch.float32}


def test_int8_in_memory_is_refused(backbone_of):
    with pytest.raises(SpecError, match="int8 is a form of files"):
        diffeat.extract(backbone_of("sd1"), pictures(1), spec("sd1", "up.1", dtype="int8"))
