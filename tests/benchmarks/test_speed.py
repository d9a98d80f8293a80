"""The speed suite in its quick form: what is measured, not how fast it is here."""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
from collections import Counter
from pathlib import Path

import h5py
import pytest
import torch
from click.testing import CliRunner

import diffeat
from benchmarks.__main__ import cli
from benchmarks.report import markdown as report
from benchmarks.speed import (
    PARTS,
    accelerator,
    disk,
    ensemble,
    growth,
    overhead,
    reading,
    run_speed,
    surface,
)
from benchmarks.speed.common import in_turn, jpegs, ratios
from benchmarks.speed.settings import Settings
from benchmarks.speed.table import markdown
from diffeat.errors import DiffeatError, SpecError
from diffeat.extraction import Plan

CPU = torch.device("cpu")


@pytest.fixture
def counted(monkeypatch) -> Counter:
    """Rows that went through the denoiser and the VAE of every backbone loaded from now on."""
    rows, load = Counter(), diffeat.load

    def count(name):
        def hook(_module, args, named):
            rows[name] += len([*args, *named.values()][0])

        return hook

    def counted_load(*args, **named):
        backbone = load(*args, **named)
        if backbone.device.type != "meta":
            backbone.denoiser.register_forward_pre_hook(count("denoiser"), with_kwargs=True)
            if backbone.vae is not None:
                backbone.vae.encoder.register_forward_pre_hook(count("vae"), with_kwargs=True)
        return backbone

    monkeypatch.setattr(diffeat, "load", counted_load)
    return rows


def quick(parts: str, **given) -> Settings:
    return Settings(tuple(parts), device="cpu", quick=True, alone=True, **given)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Folder, result and lines told of parts a to d."""
    out, told = tmp_path_factory.mktemp("speed"), []
    return out, run_speed(out, quick("abcd"), told.append), told


class TestClocks:
    def test_works_take_turns_after_a_warm_up(self):
        calls = []
        found = in_turn([lambda: calls.append("a"), lambda: calls.append("b")], 2, CPU)
        assert calls == ["a", "b"] * 3
        assert [len(times) for times in found] == [2, 2]

    def test_ratios_are_of_pairs(self):
        found = ratios([1.0, 6.0, 3.0], [2.0, 2.0, 3.0])
        assert found == {"each": [0.5, 3.0, 1.0], "median": 1.0, "min": 0.5, "max": 3.0}


class TestSuite:
    @pytest.mark.slow
    def test_json_holds_the_result(self, measured):
        out, result, told = measured
        assert json.loads((out / "speed.json").read_text("utf-8")) == json.loads(json.dumps(result))
        assert list(result["parts"]) == list("abcd")
        assert [line[:3] for line in told] == ["(a)", "(b)", "(c)", "(d)"]
        for part in result["parts"].values():
            assert part["seed"] == 0
            assert part["environment"]["packages"]["torch"] == torch.__version__.split("+")[0]

    @pytest.mark.slow
    def test_the_page_shows_the_figures_of_the_json(self, measured):
        out, result, _ = measured
        page, parts = markdown(result), result["parts"]
        assert page in report(out)
        ratio = parts["a"]["ratio"]
        assert f"{ratio['median']:.3f} ({ratio['min']:.3f} … {ratio['max']:.3f}) | ≤ 1.05" in page
        assert f"| {parts['b']['arithmetic']['per_cell']:.2f} | ≥ 20.0" in page
        assert f"| {parts['c']['arithmetic']['ratio']:.2f} | ≥ 2.3" in page
        share = parts["d"]["maps"]["read"]["share"]["median"]
        assert f"| {share:.2f} (" in page
        machine = parts["a"]["environment"]
        assert f"(a, b, c, d) {machine['processor']}, {machine['cores']} cores" in page

    def test_parts_of_an_earlier_run_stay(self, tmp_path, monkeypatch):
        monkeypatch.setattr(overhead, "measure", lambda settings: {"measured": "a"})
        monkeypatch.setattr(growth, "measure", lambda settings: {"measured": "e"})
        run_speed(tmp_path, Settings(("e",)))
        whole = run_speed(tmp_path, Settings(("a",)))
        assert [part["measured"] for part in whole["parts"].values()] == ["a", "e"]
        assert list(run_speed(tmp_path, quick("a"))["parts"]) == ["a"]  # of another length

    def test_a_damaged_or_older_file_is_no_obstacle(self, tmp_path, monkeypatch):
        monkeypatch.setattr(overhead, "measure", lambda settings: {})
        for text in ("{", '{"median_ratio": 1.0}'):
            (tmp_path / "speed.json").write_text(text, "utf-8")
            assert list(run_speed(tmp_path, quick("a"))["parts"]) == ["a"]


class TestOverhead:
    @pytest.mark.slow
    def test_ratios_belong_to_the_seconds(self, measured):
        part = measured[1]["parts"]["a"]
        pairs = zip(part["extraction_seconds"], part["bare_seconds"], strict=True)
        expected = [extraction / bare for extraction, bare in pairs]
        assert part["ratio"]["each"] == pytest.approx(expected, rel=1e-3)
        assert part["ratio"]["median"] == pytest.approx(statistics.median(expected), rel=1e-3)
        assert all(math.isfinite(ratio) and ratio > 0 for ratio in expected)

    @pytest.mark.slow
    def test_both_sides_do_the_same_work(self, counted, monkeypatch):
        sides, forwards = {}, overhead.bare_forwards

        def bare(*args):
            sides["extraction"] = sides.get("extraction", 0) + counted.pop("denoiser", 0)
            forwards(*args)
            sides["bare"] = sides.get("bare", 0) + counted.pop("denoiser", 0)

        monkeypatch.setattr(overhead, "bare_forwards", bare)
        part = overhead.measure(quick("a"))
        whole = (len(part["bare_seconds"]) + 1) * part["pictures"] * 2  # at two noise levels
        assert sides == {"extraction": whole, "bare": whole}
        assert part["forwards"] == part["pictures"] * 2

    def test_the_bare_side_stops_after_the_last_block(self):
        backbone = diffeat.load("unet-cifar10", "cpu")
        fired = []
        for name in ("up.1", "up.2"):
            path = next(block.path for block in backbone.blocks if block.name == name)
            module = backbone.denoiser.get_submodule(path)
            module.register_forward_hook(lambda *_, name=name: fired.append(name))
        arguments = {"sample": torch.zeros(1, 3, 32, 32), "timestep": torch.tensor([20])}
        overhead.bare_forwards(Plan(backbone, overhead.SPEC), [(None, [arguments] * 2)])
        assert fired == ["up.1", "up.1"]

    def test_other_models_are_measured_with_their_vae(self, folder_of, counted):
        model = f"{folder_of('sd1')}@random"
        part = overhead.measure(
            quick("a", model=model, timesteps=(30, 600), blocks=("up.1",), pictures=3, batch=2)
        )
        assert (part["model"], part["pictures"], part["batch"]) == (model, 3, 2)
        assert part["spec"]["size"] == [32, 32]
        # once when the bare side is prepared, then once in every repeat of either side
        assert counted["vae"] == 3 * (1 + 2 * (1 + len(part["bare_seconds"])))

    def test_other_models_need_noise_levels_and_blocks(self):
        with pytest.raises(SpecError, match="-t"):
            overhead.measure(quick("a", model="dit-cifar10"))


class TestSharing:
    @pytest.mark.slow
    def test_many_runs_encode_again_and_one_does_not(self, folder_of, counted):
        model = f"{folder_of('sd1')}@random"
        part = surface.measure(quick("b", model=model))["measured"]
        levels, blocks = len(part["timesteps"]), len(part["blocks"])
        timed = len(part["together_seconds"]) + 1  # with the warm-up
        runs = timed + timed * levels + levels * blocks
        assert counted["vae"] == part["pictures"] * runs
        forwards = 2 * timed * levels + levels * blocks
        assert counted["denoiser"] == part["pictures"] * forwards

    def test_an_ensemble_encodes_once(self, folder_of, counted):
        part = ensemble.measure(quick("c", model=f"{folder_of('sd1')}@random"))["measured"]
        timed = len(part["together_seconds"]) + 1
        assert counted["vae"] == part["pictures"] * timed * (1 + ensemble.MEMBERS)
        assert counted["denoiser"] == part["pictures"] * timed * 2 * ensemble.MEMBERS

    @pytest.mark.slow
    def test_the_measured_side_has_its_own_arithmetic(self, measured):
        part = measured[1]["parts"]["b"]["measured"]
        assert part["by_arithmetic"]["per_t"] == 1.0  # no VAE whose work could be shared
        # at most a whole forward per block saved, and more than the shallowest block costs
        assert 1 < part["by_arithmetic"]["per_cell"] < len(part["blocks"])

    def test_blocks(self):
        assert surface.surface_blocks(diffeat.load("sd15", "meta")) == [
            f"up.{stage}.res.{layer}" for stage in range(4) for layer in range(3)
        ]
        assert len(surface.surface_blocks(diffeat.load("dit-xl-2-256", "meta"))) == 12

    def test_evenly(self):
        names = [str(number) for number in range(10)]
        assert surface.evenly(names, 1) == ["9"]
        assert surface.evenly(names, 5) == ["1", "3", "5", "7", "9"]
        assert surface.evenly(names, 20) == names


class TestDisk:
    def test_dropping_computes_all_that_the_file_needs(self, counted, tmp_path):
        backbone = diffeat.load("unet-cifar10", "cpu")
        plan = Plan(backbone, diffeat.ExtractSpec((20, 60), ("mid",), pool="1x1"))
        (tmp_path / "pictures").mkdir()
        source = jpegs(tmp_path / "pictures", 5, (32, 32), 0)
        part = disk._write(backbone, plan, source, tmp_path / "f.h5", quick("d"))
        timed = len(part["dropped_seconds"]) + 1  # with the warm-up
        assert counted["denoiser"] == 3 * timed * len(source) * len(plan.levels)

    def test_shards_hold_all_pictures(self, tmp_path):
        backbone = diffeat.load("unet-cifar10", "cpu")
        plan = Plan(backbone, diffeat.ExtractSpec((20,), ("mid",), pool="1x1"))
        (tmp_path / "pictures").mkdir()
        source = jpegs(tmp_path / "pictures", 5, (32, 32), 0)
        disk._write(backbone, plan, source, tmp_path / "f.h5", quick("d"))
        (shard,) = (tmp_path / "unmerged.h5.parts").glob("shard-*.h5")
        with h5py.File(shard) as file:
            assert file["features/mid/t20"].shape == (5, 192)

    @pytest.mark.slow
    def test_shares_belong_to_the_seconds(self, measured):
        read = measured[1]["parts"]["d"]["maps"]["read"]
        weight = read["payload_megabytes"] / read["file_megabytes"]
        pairs = zip(read["cold_seconds"]["plain"], read["cold_seconds"]["slices"], strict=True)
        expected = [weight * plain / mine for plain, mine in pairs]
        assert read["share"]["each"] == pytest.approx(expected, rel=2e-3)
        assert 0 <= read["left_in_cache"] <= 1

    @pytest.mark.slow
    def test_all_features_are_read(self, measured):
        part = measured[1]["parts"]["d"]
        spec = diffeat.ExtractSpec(tuple(part["timesteps"]), tuple(part["blocks"]))
        plan = Plan(diffeat.load("unet-cifar10", "meta"), spec)
        expected = part["maps"]["pictures"] * plan.bytes_per_picture / 1e6
        assert part["maps"]["read"]["payload_megabytes"] == round(expected, 3)

    def test_slices_read_all_features(self, tmp_path, monkeypatch):
        spec = diffeat.ExtractSpec((20, 60), ("up.1", "up.2"))
        (tmp_path / "pictures").mkdir()
        source = jpegs(tmp_path / "pictures", 5, (32, 32), 0)
        path = tmp_path / "f.h5"
        backbone = diffeat.load("unet-cifar10", "cpu")
        diffeat.extract_to_file(backbone, source, spec, path, progress=False)
        asked, read = Counter(), h5py.Dataset.__getitem__

        def counting(data, key):
            found = read(data, key)
            if isinstance(key, slice) and "features" in data.name:
                asked[data.name] += len(found)
            return found

        monkeypatch.setattr(h5py.Dataset, "__getitem__", counting)
        monkeypatch.setattr(reading, "SLICE", 1)  # a row at a time
        reading._slices(path)
        names = {f"/features/{block}/t{t}" for block in ("up.1", "up.2") for t in (20, 60)}
        assert asked == dict.fromkeys(names, 5)

    def test_pages_in_the_cache_are_seen(self, tmp_path):
        written, hole = tmp_path / "written", tmp_path / "hole"
        written.write_bytes(os.urandom(1 << 20))
        with open(hole, "wb") as file:
            file.truncate(1 << 20)
        assert reading.resident_share(written) == 1.0
        assert reading.resident_share(hole) == 0.0
        reading.drop_cache(written)
        assert written.stat().st_size == 1 << 20


@pytest.fixture(scope="module")
def grown():
    return growth.measure(quick("e"))


@pytest.mark.slow
class TestGrowth:
    def test_memory_does_not_grow_with_pictures(self, grown):
        runs = grown["pictures"]["runs"]
        assert [run["pictures"] for run in runs] == [32, 128]
        assert all(run["peak_mb"] > run["loaded_mb"] > 50 for run in runs)
        assert grown["pictures"]["memory_ratio"] <= growth.TARGET

    def test_blocks_end_with_the_same(self, grown):
        blocks = grown["blocks"]
        assert blocks["last"] == "up.1.res.0"
        assert [run["blocks"] for run in blocks["runs"]] == [1, 4]
        assert blocks["runs"][0]["ratio"]["median"] == 1.0

    def test_more_blocks_are_no_more_forwards(self, counted):
        part = growth._by_blocks(quick("e"))
        repeats = len(part["runs"][0]["seconds"]) + 1
        assert counted["denoiser"] == len(part["runs"]) * repeats * part["pictures"]

    def test_a_child_is_not_charged_for_its_parent(self):
        """getrusage counts what the parent held when it started the child."""
        held = bytearray(os.urandom(1 << 20)) * 400
        code = "from benchmarks.machine import peak_memory_mb; print(peak_memory_mb())"
        root = Path(growth.benchmarks.__file__).parents[1]
        said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                              check=True, cwd=root).stdout  # fmt: skip
        assert 1 < float(said) < len(held) / 2**20 / 4

    def test_a_failed_child_says_why(self, tmp_path):
        order = {"model": "no-such-model", "device": "cpu", "pictures": str(tmp_path), "t": 20,
                 "block": "mid", "out": str(tmp_path / "f.h5"), "threads": 1}  # fmt: skip
        with pytest.raises(DiffeatError, match=r"(?s)exit code 1.*no-such-model"):
            growth._in_process(order)


@pytest.fixture(scope="module")
def accelerated(folder_of):
    """Part f on the CPU with a tiny model; compiling would take minutes here."""
    patch = pytest.MonkeyPatch()
    patch.setattr(
        accelerator,
        "variants",
        lambda plain: {"fp32": {**plain, "dtype": "fp32"}, "broken": {**plain, "dtype": "fp7"}},
    )
    part = accelerator.measure(quick("f", model=f"{folder_of('sd1')}@random"))
    patch.undo()
    return part


class TestAccelerator:
    def test_without_a_gpu_it_says_so(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert accelerator.measure(Settings(quick=True)) == {
            "device": "cpu", "left_out": accelerator.NO_GPU,
        }  # fmt: skip

    @pytest.mark.slow
    def test_shares_are_operations_by_peak(self, accelerated):
        (model,) = accelerated["models"]
        flops = 1e9 * sum(model["gflops_per_picture"].values())
        assert [run["batch"] for run in model["by_batch"]] == [1, 2]
        for run in (*model["by_batch"], model["variants"]["fp32"]):
            rate = run["pictures"] / statistics.median(run["seconds"])
            assert run["pictures_per_s"] == pytest.approx(rate, rel=1e-3)
            peak = 1e12 * accelerated["matrix_teraflops"]["bf16"]
            assert run["share_of_peak"] == pytest.approx(rate * flops / peak, rel=1e-3)

    @pytest.mark.slow
    def test_gains_are_against_the_best_batch(self, accelerated):
        (model,) = accelerated["models"]
        best = max(model["by_batch"], key=lambda run: run["pictures_per_s"])
        changed = model["variants"]["fp32"]
        assert changed["batch"] == best["batch"]
        gain = changed["pictures_per_s"] / best["pictures_per_s"]
        assert changed["gain"] == pytest.approx(gain, abs=1e-3)
        assert best["gain"] == 1.0

    def test_what_cannot_be_done_is_a_result(self, accelerated):
        broken = accelerated["models"][0]["variants"]["broken"]
        assert "fp7" in broken["error"]
        assert "pictures_per_s" not in broken

    def test_a_batch_that_does_not_fit_ends_the_sweep(self, monkeypatch):
        def throughput(backbone, task, batch, settings):
            if batch > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return {"pictures_per_s": float(batch)}

        monkeypatch.setattr(accelerator, "_throughput", throughput)
        monkeypatch.setattr(diffeat, "load", lambda *_, **__: None)
        task = accelerator.Task("m", "b", 1, (32, 32), (1, 2, 4, 8), 0.0)
        found = accelerator._sweep(task, CPU, quick("f"))
        assert [run["batch"] for run in found] == [1, 2, 4]
        assert "out of memory" in found[-1]["error"]

    def test_all_batches_are_run_and_at_most_two_wait(self):
        class Lazy:
            waiting = most = done = 0

            def start(self, *_):
                self.waiting += 1
                self.most = max(self.most, self.waiting)
                return self

            def result(self):
                self.waiting -= 1
                self.done += 1

        lazy = Lazy()
        accelerator._batches(lazy, None, [], 5)
        assert (lazy.done, lazy.waiting, lazy.most) == (5, 0, accelerator.AHEAD)

    def test_the_peak_is_counted(self, monkeypatch):
        monkeypatch.setattr(accelerator, "seconds", lambda work, device: 0.5)
        found = accelerator.matrix_peak(CPU, torch.float32, quick("f"))
        assert found == round(2 * 2 * 512**3 / 0.5 / 1e12, 3)

    def test_full_size_on_a_gpu(self):
        found = accelerator.tasks(torch.device("cuda"), Settings())
        assert [(task.model, task.size) for task in found] == [
            ("sd15@random", (512, 512)), ("dit-xl-2-256@random", (256, 256)),
        ]  # fmt: skip
        for task in found:
            backbone = diffeat.load(task.model, "meta")
            assert task.block in [block.name for block in backbone.blocks]

    @pytest.mark.slow
    def test_page(self, accelerated, measured):
        environment = measured[1]["parts"]["a"]["environment"]
        parts = {"f": {"title": PARTS["f"][1], "environment": environment, **accelerated}}
        page = markdown({"quick": False, "parts": parts})
        (model,) = accelerated["models"]
        for run in model["by_batch"]:
            share = f"{100 * run['share_of_peak']:.1f} %"
            assert f"| bf16 | {run['batch']} | {run['pictures_per_s']:,.2f} |" in page
            assert share in page
        assert "fp7" in page


class TestCommand:
    @pytest.mark.slow
    def test_run_prints_and_records(self, measured, tmp_path, monkeypatch):
        whole = {**measured[1], "quick": False}

        def fake(out, settings, tell):
            assert (settings.parts, settings.alone, settings.quick) == (("a", "d"), True, False)
            out.mkdir()
            (out / "speed.json").write_text(json.dumps(whole), "utf-8")
            return whole

        monkeypatch.setattr("benchmarks.speed.run_speed", fake)
        monkeypatch.setattr("benchmarks.__main__.RESULTS", tmp_path / "results")
        command = ["run", "speed", "--part", "d,a", "--out", str(tmp_path / "out"), "--record"]
        shown = CliRunner().invoke(cli, command)
        assert shown.exception is None, shown.exception
        assert markdown(whole) in shown.output
        assert json.loads((tmp_path / "results" / "speed.json").read_text("utf-8")) == whole

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["speed", "--part", "a,x"], "part x is unknown"),
            (["speed", "--quick", "--record"], "leave --quick or --record out"),
            (["digits", "--quick"], "are not for digits"),
        ],
    )
    def test_wrong_usage(self, arguments, message):
        shown = CliRunner().invoke(cli, ["run", *arguments])
        assert shown.exit_code == 2
        assert message in shown.output
