"""The batch size that is found by measuring, and remembered."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch

import diffeat
from diffeat.errors import SpecError
from diffeat.extraction import (
    Conditions,
    Extractor,
    Plan,
    batch_size,
    extractor_for,
    resolve_batch,
)
from diffeat.extraction import plan as plan_module
from diffeat.extraction.remembered import cache_file, recall, remember
from tests.extraction.common import rows_of, same, spec
from tests.extraction.test_memory import ERRORS, small
from tests.pipelines import pictures


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Nothing that a test measures is remembered for anybody."""
    monkeypatch.setenv("DIFFEAT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Clock:
    """Seconds of a trial as a function of its rows; and how often which was tried."""

    def __init__(self, monkeypatch, seconds, full=lambda rows: False):
        self.rows: list[int] = []

        class Trial:
            def __init__(trial, plan, conditions, make, sharing):
                self.sharing = sharing

            def __call__(trial, rows):
                self.rows.append(rows)
                return seconds(rows)

            def is_full(trial):
                return full(self.rows[-1])

        monkeypatch.setattr(batch_size, "Trial", Trial)


def plan_of(backbone, name="pixel", blocks="up.1", t=200, **options):
    return Plan(backbone, spec(name, blocks, t, **options))


def automatic(plan):
    return resolve_batch(plan, "auto", Conditions.of_spec(plan.backbone, plan.spec), Extractor)


# --- the size -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "best", "tried"),
    [
        (lambda n: 1.0, 1024, 11),  # a batch costs what a row costs
        (lambda n: 0.1 * n, 1, 3),  # two doublings in vain
        (lambda n: 0.1 * n / min(n, 8), 8, 6),
        (lambda n: {1: 0.1, 2: 0.2, 4: 0.3}.get(n, n * 1.0), 4, 5),  # a hump is got over
        (lambda n: None if n > 16 else 0.01, 16, 6),  # memory ran out
        (lambda n: None, 1, 1),
        (lambda n: 0.1 * n**0.99, 1, 3),  # less than 1 % per doubling
        (lambda n: 20.0, 1, 1),  # the next would end after half a minute
    ],
)
def test_the_fastest_size_is_found(seconds, best, tried, backbone_of, monkeypatch):
    clock = Clock(monkeypatch, seconds)
    assert automatic(plan_of(backbone_of("pixel"))) == best
    assert clock.rows == [2**i for i in range(tried)]


def test_measuring_stops_before_memory_is_full(backbone_of, monkeypatch):
    clock = Clock(monkeypatch, lambda n: 1.0, full=lambda n: n >= 8)
    assert automatic(plan_of(backbone_of("pixel"))) == 8
    assert clock.rows == [1, 2, 4, 8]


def test_attention_maps_bound_the_size(backbone_of, monkeypatch):
    plan = plan_of(backbone_of("sd1"), "sd1", "up.1.attn.0:self.map")
    monkeypatch.setattr(plan_module, "MAX_MAP_BYTES", 5 * 4 * 256**2)
    clock = Clock(monkeypatch, lambda n: 1.0)
    assert automatic(plan) == 4
    assert clock.rows == [1, 2, 4]


@pytest.mark.parametrize(
    "options",
    [
        {"ensemble": 3, "t": (10, 700)},
        {"noise": "inversion", "steps": 10, "t": (900, 100)},
        {"noise": "generation", "steps": 10, "t": (100, 900)},
        {"tile": 32, "size": 64, "blocks": ("up.0", "up.1")},
        {"fit": "pad", "pool": "1x1", "latent": "sample"},
    ],
)
def test_a_trial_is_a_forward_of_so_many_rows(options, backbone_of, monkeypatch):
    monkeypatch.setattr(batch_size, "LARGEST", 4)
    backbone = backbone_of("sd1")
    with rows_of(backbone.denoiser) as rows:
        extractor = extractor_for(plan_of(backbone, "sd1", **options), "auto")
    assert extractor.batch_size in (1, 2, 4)
    assert set(rows) <= {1, 2, 4}
    assert len(rows) <= 3 * 2 * 3  # three sizes, two runs, three steps of a trajectory


def test_running_out_of_memory_ends_the_search(backbone_of, monkeypatch):
    backbone = backbone_of("pixel")
    monkeypatch.setattr(batch_size, "GAIN", 0.0)  # whatever this machine is busy with
    for kind in ERRORS.values():
        with small(backbone.denoiser, 4, kind), rows_of(backbone.denoiser) as rows:
            assert batch_size.measure(plan_of(backbone), Conditions(backbone), Extractor) == 4
        assert set(rows) == {1, 2, 4}


def test_other_errors_of_a_trial_are_not_hidden(backbone_of):
    backbone = backbone_of("pixel")
    broken = small(backbone.denoiser, 0, lambda: RuntimeError("broken"))
    with broken, pytest.raises(RuntimeError, match="broken"):
        automatic(plan_of(backbone))


def test_host_memory_is_watched(backbone_of, monkeypatch):
    state = {"held": (100, 100), "available": 1000}
    monkeypatch.setattr(batch_size, "host_peak", lambda: state["held"])
    monkeypatch.setattr(batch_size, "host_available", lambda: state["available"])
    backbone = backbone_of("pixel")
    trial = batch_size.Trial(plan_of(backbone), Conditions(backbone), Extractor)
    for peak, full in ((100, False), (525, False), (526, True)):  # 2 · 426 > 0.85 · 1000
        state["held"] = (100, peak)
        assert trial.is_full() is full
    state["available"] = None  # not known here, but it is what was there at first that counts
    assert trial.is_full() is True


def test_workers_that_share_a_device_share_its_memory(backbone_of, monkeypatch):
    use, backbone = {}, backbone_of("pixel")
    monkeypatch.setattr(batch_size, "device_use", lambda device: use["all"])
    monkeypatch.setattr(batch_size, "own_use", lambda device: (0.125, use["own"]))
    monkeypatch.setattr(batch_size, "host_peak", lambda: (100, use["peak"]))
    monkeypatch.setattr(batch_size, "host_available", lambda: 1000)

    def full(sharing, device="cpu", **state):
        use.update({"peak": 100, **state})
        trial = batch_size.Trial(plan_of(backbone), Conditions(backbone), Extractor, sharing)
        trial._device, trial._weights = torch.device(device), 0.125
        return trial.is_full()

    # half of 0.85 each: 2 · 212 < 425 < 2 · 213, and 2 · 0.27 - 0.125 < 0.425 < 2 · 0.28 - 0.125
    assert [full(2, peak=100 + grown) for grown in (212, 213)] == [False, True]
    assert [full(2, "cuda", all=0.5, own=own) for own in (0.27, 0.28)] == [False, True]
    assert full(2, "cuda", all=0.86, own=0.2)  # whoever it was
    assert [full(1, "cuda", all=share, own=share) for share in (0.84, 0.86)] == [False, True]


@pytest.mark.parametrize("options", [{}, {"tile": 32, "size": 64, "blocks": ("up.0", "up.1")}])
def test_how_many_share_a_device_is_passed_on(options, backbone_of, monkeypatch):
    clock = Clock(monkeypatch, lambda n: 0.1 * n)
    plan = plan_of(backbone_of("sd1"), "sd1", **options)
    for sharing, runs in ((1, 3), (3, 6), (3, 6), (1, 6)):  # each is remembered by itself
        extractor_for(plan, "auto", sharing=sharing)
        assert len(clock.rows) == runs
    assert clock.sharing == 3


def test_features_with_a_measured_size_are_the_same(backbone_of, monkeypatch):
    monkeypatch.setattr(batch_size, "LARGEST", 2)
    backbone, asked = backbone_of("pixel"), spec("pixel", "up.1")
    found = diffeat.extract(backbone, pictures(5), asked, batch_size="auto")
    same(found["up.1", 200], diffeat.extract(backbone, pictures(5), asked)["up.1", 200])


def test_sizes_of_their_own_go_by_the_rule(backbone_of, monkeypatch):
    clock = Clock(monkeypatch, lambda n: 1.0)
    plan = plan_of(backbone_of("pixel"), fit="native", pool="1x1")
    assert automatic(plan) == plan.default_batch()
    assert clock.rows == []


@pytest.mark.parametrize("asked", ["fast", "8", True, 2.5, float("nan"), [4], 0, -3])
def test_no_batch_size(asked, backbone_of):
    with pytest.raises(SpecError, match="batch size"):
        extractor_for(plan_of(backbone_of("pixel")), asked)


# --- what is remembered ---------------------------------------------------------------------------


def test_the_second_time_nothing_is_measured(backbone_of, folder, monkeypatch):
    clock = Clock(monkeypatch, lambda n: 0.1 * n / min(n, 8))
    plan = plan_of(backbone_of("pixel"))
    assert [automatic(plan), automatic(plan)] == [8, 8]
    assert len(clock.rows) == 6
    # what changes neither time nor memory does not matter
    assert automatic(plan_of(backbone_of("pixel"), t=20, seed=5)) == 8
    assert len(clock.rows) == 6
    (entry,) = json.loads((folder / "batch_sizes.json").read_text()).values()
    assert entry["rows"] == 8
    assert entry["torch"] == torch.__version__
    assert entry["device"] == "cpu"
    assert [path.name for path in folder.iterdir()] == ["batch_sizes.json"]


@pytest.mark.parametrize("change", [{"blocks": "up.0"}, {"size": 64}, {"ensemble": 2},
                                    {"pool": "1x1"}, {"dtype": "float16"}])  # fmt: skip
def test_another_plan_is_measured_by_itself(change, backbone_of, monkeypatch):
    clock = Clock(monkeypatch, lambda n: 0.1 * n)
    automatic(plan_of(backbone_of("pixel")))
    automatic(plan_of(backbone_of("pixel"), **change))
    assert len(clock.rows) == 6


def test_another_model_machine_or_torch_is_measured_by_itself(backbone_of, monkeypatch):
    backbone, other = backbone_of("pixel"), backbone_of("pixel-flow")
    seen = []

    def key():
        plan = plan_of(backbone)
        seen.append(batch_size.situation(plan, Conditions(backbone)))
        return seen[-1] not in seen[:-1]

    assert key()
    assert not key()
    monkeypatch.setattr(torch, "__version__", "9.9")
    assert key()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    assert key()
    monkeypatch.setattr(backbone, "channels_last", not backbone.channels_last)
    assert key()
    backbone = other
    assert key()


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"k": 3}', '{"k": {"rows": "8"}}', '{"k": {"rows": 0}}',
                '{"k": {"rows": 1025}}', '{"k": {"rows": 8.0}}', "\udcff",
                '{"k": {"rows": true}}', ""]
)  # fmt: skip
def test_a_damaged_memory_is_ignored_and_written_anew(content, folder):
    folder.mkdir()
    path = folder / "batch_sizes.json"
    path.write_text(content, "utf-8", errors="surrogateescape")
    with pytest.warns(UserWarning, match=r"batch_sizes\.json is ignored and written anew"):
        assert recall("k") is None
    remember("k", 4, {})  # without another warning
    assert recall("k") == 4


def test_entries_of_others_stay(folder):
    remember("a", 2, {"model": "x"})
    remember("b", 4, {})
    remember("a", 8, {"model": "x"})
    assert (recall("a"), recall("b"), recall("c")) == (8, 4, None)


def test_a_memory_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DIFFEAT_CACHE", str(tmp_path / "file"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        remember("k", 8, {})
    assert any("8 cannot be remembered" in str(warning.message) for warning in caught)


def test_where_it_lies(monkeypatch, tmp_path):
    assert cache_file() == tmp_path / "cache" / "batch_sizes.json"
    monkeypatch.delenv("DIFFEAT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_file() == tmp_path / "xdg" / "diffeat" / "batch_sizes.json"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_file() == Path.home() / ".cache" / "diffeat" / "batch_sizes.json"
