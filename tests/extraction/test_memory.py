"""Memory that runs out: fewer rows at a time, every picture all the same, or a clear end."""

from __future__ import annotations

import gc
import weakref
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import diffeat
from diffeat.errors import DeviceError
from diffeat.extraction import Batch, Plan, batches, extractor_for, run_batch, start_batch
from diffeat.extraction import plan as plan_module
from diffeat.extraction.memory import host_available, host_peak, is_out_of_memory
from tests.extraction.common import rows_of, same, spec
from tests.pipelines import gaussian, pictures

ERRORS = {
    "cuda": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "cpu": lambda: RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't "
                                "allocate memory: you tried to allocate 549755813888 bytes."),
    "cublas": lambda: RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublas"),
    "python": MemoryError,
}  # fmt: skip
IDS = [f"p{i}" for i in range(7)]


@contextmanager
def small(module, rows, error=ERRORS["cuda"]):
    """A module that has no memory for more than so many rows."""

    def hook(_module, inputs, named):
        if len(next(iter([*inputs, *named.values()]))) > rows:
            raise error()

    handle = module.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def extractor_of(backbone, name, batch_size=8, blocks="up.1", **options):
    asked = spec(name, blocks, options.pop("timesteps", 200), **options)
    return extractor_for(Plan(backbone, asked), batch_size)


def check(found, undisturbed, again):
    """As without the lack of memory, and bit for bit as with the smaller size from the start."""
    assert found.keys() == undisturbed.keys() == again.keys()
    for key, values in undisturbed.items():
        same(found[key], values)
        assert torch.equal(found[key], again[key])


def disturbed(backbone, name, pixels, module, rows, batch_size=8, **options):
    """Run out of memory above so many rows of a module, and check what comes of it."""

    def run(size):
        return run_batch(
            extractor_of(backbone, name, size, **options), Batch.of(pixels, IDS, range(7))
        )

    extractor = extractor_of(backbone, name, batch_size, **options)
    with small(module, rows), pytest.warns(UserWarning, match="out of memory"):
        found = run_batch(extractor, Batch.of(pixels, IDS, range(7)))
    check(found, run(batch_size), run(extractor.batch_size))
    return extractor.batch_size


@pytest.mark.parametrize("kind", ERRORS)
def test_rows_are_halved_and_no_picture_is_lost(kind, backbone_of):
    backbone, pixels = backbone_of("pixel"), pictures(7)
    expected = run_batch(extractor_of(backbone, "pixel"), Batch.of(pixels, IDS, range(7)))
    extractor = extractor_of(backbone, "pixel")
    with (
        small(backbone.denoiser, 2, ERRORS[kind]),
        rows_of(backbone.denoiser) as rows,
        pytest.warns(UserWarning, match="out of memory with .* rows") as caught,
    ):
        found = run_batch(extractor, Batch.of(pixels, IDS, range(7)))
    again = run_batch(extractor_of(backbone, "pixel", 1), Batch.of(pixels, IDS, range(7)))
    check(found, expected, again)
    assert extractor.batch_size == 1
    said = [str(warning.message) for warning in caught]
    assert "out of memory with 7 rows per forward; going on with 3" in said[0]
    assert "out of memory with 3 rows per forward; going on with 1" in said[1]
    assert len(said) == 2
    assert rows == [1] * 7  # hooks run in their order, so failed attempts do not count


def test_the_smaller_size_stays(backbone_of):
    backbone, extractor = backbone_of("pixel"), extractor_of(backbone_of("pixel"), "pixel")
    with small(backbone.denoiser, 4), pytest.warns(UserWarning, match="going on with 3"):
        run_batch(extractor, Batch.of(pictures(7), IDS, range(7)))
    assert (extractor.batch_size, extractor.pictures) == (3, 3)
    with rows_of(backbone.denoiser) as rows:  # no warning
        run_batch(extractor, Batch.of(pictures(7), IDS, range(7)))
    assert rows == [3, 3, 1]


def test_memory_of_the_vae_counts_too(backbone_of):
    backbone = backbone_of("sd1")
    options = {"blocks": ("vae.down.0", "up.1"), "timesteps": (10, 200), "latent": "sample"}
    # 14 rows of 7 pictures do not fit, nor do 7 rows of 7, nor 3 of 3
    assert disturbed(backbone, "sd1", pictures(7), backbone.vae.encoder, 2, 64, **options) == 1


@pytest.mark.parametrize("ahead", [False, True])
def test_pictures_of_sizes_of_their_own(ahead, backbone_of):
    backbone, rng = backbone_of("sd1"), np.random.default_rng(0)
    sizes = [(32, 32), (48, 32), (32, 32), (32, 32), (48, 32), (32, 32), (32, 32)]
    pixels = [rng.integers(0, 256, (3, *size), dtype=np.uint8) for size in sizes]
    options = {"fit": "native", "pool": "1x1", "latent": "sample", "prompt": "a cat"}
    expected = run_batch(extractor_of(backbone, "sd1", **options), Batch.of(pixels, IDS, range(7)))
    alone = extractor_of(backbone, "sd1", **options)(Batch.of(pixels[4][None], IDS[4:5], [4]))
    torch.testing.assert_close(expected["up.1", 200][4:5], alone["up.1", 200], rtol=0, atol=1e-5)
    extractor = extractor_of(backbone, "sd1", **options)
    batch = Batch.of(pixels, IDS, range(7))
    batch = batch.drawn(extractor.plan) if ahead else batch
    with small(backbone.denoiser, 1), pytest.warns(UserWarning, match="out of memory"):
        found = start_batch(extractor, batch).result()
    again = run_batch(extractor_of(backbone, "sd1", 1, **options), Batch.of(pixels, IDS, range(7)))
    check(found, expected, again)


@pytest.mark.parametrize("options", [{"tile": 32, "size": 64}])
def test_views(options, backbone_of):
    backbone, size = backbone_of("sd1"), options.get("size", 32)
    pixels = pictures(7, (size, size))
    assert disturbed(backbone, "sd1", pixels, backbone.denoiser, 2, **options) == 1


@pytest.mark.parametrize(
    ("options", "used"),
    [
        ({"fit": "native", "pool": "1x1"}, 4),  # 65536 cells of latents in one forward
        ({"fit": "native", "pool": "1x1", "flip": True}, 7),
        ({"size": 64, "tile": 32, "blocks": ("up.0", "up.1")}, 7),
        ({"noise": "inversion", "steps": 5, "timesteps": (600, 200)}, 7),  # not 7 · 2
    ],
)
def test_halving_begins_with_the_rows_of_the_forward(options, used, backbone_of, monkeypatch):
    backbone = backbone_of("pixel")
    monkeypatch.setattr(backbone, "latent_shape", lambda size: (3, 128, 128))
    extractor, seen = extractor_of(backbone, "pixel", 64, **options), []

    def start(*_):
        seen.append(min(7, extractor.forward_rows((32, 32))))
        if len(seen) == 1:
            raise ERRORS["cuda"]()

    monkeypatch.setattr(extractor, "start", start)
    with pytest.warns(UserWarning, match=f"with {used} rows per .*going on with {used // 2} "):
        assert batches._attempt(extractor, Batch.of(torch.empty(7, 3, 32, 32), IDS)) is None
    assert seen == [used]
    assert extractor.batch_size == extractor.forward_rows((32, 32)) == used // 2


def test_pictures_that_go_one_by_one_may_be_too_many_for_the_vae(backbone_of, monkeypatch):
    backbone = backbone_of("sd1")
    extractor = extractor_of(backbone, "sd1", fit="native", pool="1x1")
    monkeypatch.setattr(extractor.plan, "default_batch", lambda size=None: 1)
    pixels = list(np.asarray(pictures(3, (32, 32))))
    with (
        small(backbone.vae.encoder, 1),
        pytest.warns(UserWarning, match="with 3 pictures at a time; going on with 1"),
    ):
        found = run_batch(extractor, Batch.of(pixels, IDS[:3], range(3)))
    assert found["up.1", 200].shape[0] == 3


@pytest.mark.parametrize("options", [{"ensemble": 3}, {"noise": "inversion", "steps": 5}])
def test_members_and_trajectories(options, backbone_of):
    backbone = backbone_of("pixel")
    assert disturbed(backbone, "pixel", pictures(7), backbone.denoiser, 1, **options) == 1


def test_explicit_noise_and_conditions_stay_with_their_pictures(backbone_of):
    backbone, asked = backbone_of("sd1"), spec("sd1", "up.1", prompt="")
    eps = gaussian(7, *backbone.latent_shape((32, 32)))
    prompts = ["a cat", "dog", "house", "a cat", "", "dog", "a dog"]
    how = {"noise": eps, "prompts": prompts}
    whole, parts = (
        diffeat.extract(backbone, pictures(7), asked, batch_size=n, **how) for n in (7, 3)
    )
    with small(backbone.denoiser, 3), pytest.warns(UserWarning, match="out of memory"):
        found = diffeat.extract(backbone, pictures(7), asked, batch_size=7, **how)
    check(found, whole, parts)


def test_no_memory_for_one_row(backbone_of):
    backbone = backbone_of("pixel")
    extractor = extractor_of(backbone, "pixel", 2)
    with (
        small(backbone.denoiser, 0),
        pytest.warns(UserWarning, match="going on with 1"),
        pytest.raises(DeviceError, match=r"one row of one picture .CUDA out of memory.*smaller"),
    ):
        run_batch(extractor, Batch.of(pictures(2), IDS[:2], range(2)))


@pytest.mark.parametrize(
    ("kind", "words"), [(RuntimeError, "sizes do not match"), (ValueError, "out of memory")]
)
def test_other_errors_are_not_about_memory(kind, words, backbone_of):
    backbone = backbone_of("pixel")
    extractor = extractor_of(backbone, "pixel")
    with small(backbone.denoiser, 0, lambda: kind(words)), pytest.raises(kind, match=words):
        run_batch(extractor, Batch.of(pictures(2), IDS[:2], range(2)))
    assert extractor.batch_size == 8


def test_what_failed_is_let_go_before_the_next_attempt(backbone_of):
    backbone, alive = backbone_of("pixel"), []

    def hook(module, inputs, output):
        mine = torch.zeros(1000)  # held by this frame, and so by the error's traceback
        alive.append([ref() is not None for ref in refs])
        refs.extend([weakref.ref(mine), *kept])
        kept.clear()
        if len(output) > 3:
            raise ERRORS["cuda"]()

    def keep(*read):
        value = type(extractor).keep(extractor, *read)
        kept.append(weakref.ref(value))
        return value

    refs, kept, extractor = [], [], extractor_of(backbone, "pixel", blocks=("down.0", "up.1"))
    extractor.keep = keep
    gc.disable()
    handle = backbone.denoiser.mid_block.register_forward_hook(hook)
    try:
        with pytest.warns(UserWarning, match="out of memory"):
            run_batch(extractor, Batch.of(pictures(7), IDS, range(7)))
    finally:
        handle.remove()
        gc.enable()
    assert alive[0] == []
    assert alive[1] == [False, False]  # its own, and down.0


def test_the_cache_of_a_gpu_is_emptied(monkeypatch):
    emptied = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(True))
    backbone = SimpleNamespace(device=torch.device("cuda", 1))
    plan = SimpleNamespace(
        backbone=backbone, levels=[1, 2], grid=None, spec=SimpleNamespace(ensemble=3)
    )

    def start(*_):
        raise ERRORS["cuda"]()

    extractor = SimpleNamespace(plan=plan, forward_rows=lambda size: 64, start=start)
    with pytest.warns(UserWarning, match="with 24 rows per forward; going on with 12"):
        assert batches._attempt(extractor, Batch.of(torch.empty(4, 3, 32, 32), ["a"] * 4)) is None
    assert emptied == [True]


def test_real_errors_are_recognised():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50)
    assert is_out_of_memory(caught.value)
    with pytest.raises(MemoryError) as caught:
        np.empty(1 << 60, np.uint8)
    assert is_out_of_memory(caught.value)
    with pytest.raises(RuntimeError) as caught:
        torch.zeros(2) @ torch.zeros(3)
    assert not is_out_of_memory(caught.value)


# --- pictures per call ----------------------------------------------------------------------------


def test_pictures_per_call_bound_the_features_in_memory(backbone_of, monkeypatch):
    backbone = backbone_of("pixel")
    extractor = extractor_of(backbone, "pixel", 8, blocks=("up.0", "up.1"), timesteps=(10, 20))
    each = sum(4 * 2 * block.channels * (32 // block.stride) ** 2
               for block in backbone.blocks if block.name in ("up.0", "up.1"))  # fmt: skip
    assert extractor.plan.bytes_per_picture == each
    assert extractor.pictures == 8
    for budget, count in ((3 * each, 3), (3 * each - 1, 2), (1, 1), (8 * each, 8), (9 * each, 8)):
        monkeypatch.setattr(plan_module, "MAX_BATCH_BYTES", budget)
        assert extractor.pictures == count
    monkeypatch.setattr(plan_module, "MAX_BATCH_BYTES", 3 * each)
    with rows_of(backbone.denoiser) as rows:
        diffeat.extract(backbone, pictures(7), extractor.plan.spec, batch_size=8)
    assert rows == [6, 6, 2]


def test_views_hold_whole_maps(backbone_of):
    backbone = backbone_of("sd1")
    pooled = extractor_of(backbone, "sd1", pool="1x1").plan
    mirrored = extractor_of(backbone, "sd1", pool="1x1", flip=True).plan
    assert pooled.pictures_per_call(1 << 20) > 3 * mirrored.pictures_per_call(1 << 20)


# --- how much there is ----------------------------------------------------------------------------


def write(root, **files):
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_available_memory_is_the_least_of_all_limits(tmp_path):
    assert host_available(tmp_path) is None
    write(tmp_path, proc__meminfo="MemTotal:  100 kB\nMemAvailable:      64 kB\n")
    assert host_available(tmp_path) == 65536
    write(tmp_path, proc__self__cgroup="0::/a/b\n")
    assert host_available(tmp_path) == 65536
    top = tmp_path / "sys/fs/cgroup"
    write(top, **{"a__memory.max": "50000\n", "a__memory.current": "20000\n",
                  "a__b__memory.max": "max\n", "a__b__memory.current": "10000\n"})  # fmt: skip
    assert host_available(tmp_path) == 30000
    write(top, **{"a__memory.stat": "anon 15000\ninactive_file 4000\n"})
    assert host_available(tmp_path) == 34000
    write(top, **{"memory.max": "30000\n", "memory.current": "40000\n"})
    assert host_available(tmp_path) == 0


def test_the_older_control_groups_count_too(tmp_path):
    write(tmp_path, proc__meminfo="MemAvailable: 64 kB\n",
          proc__self__cgroup="4:cpu,memory:/a\n3:devices:/b\n")  # fmt: skip
    write(tmp_path / "sys/fs/cgroup/memory", **{
        "a__memory.limit_in_bytes": "5000", "a__memory.usage_in_bytes": "2000",
        "a__memory.stat": "total_inactive_file 100"})  # fmt: skip
    assert host_available(tmp_path) == 3100


def test_this_machine_says_what_it_has():
    available, (held, peak) = host_available(), host_peak()
    assert available is None or 1 << 20 < available < 1 << 50
    assert held == peak == 0 or 1 << 20 < held <= peak
