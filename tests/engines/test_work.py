"""How work is cut and told, without any worker: tasks, shares, requests, options."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import diffeat
from diffeat.backbones import ModelRequest
from diffeat.engines import run_job
from diffeat.engines.base import TASK_BYTES, TASKS_PER_WORKER, tasks_of, without
from diffeat.engines.ranks import _shares
from diffeat.errors import SpecError
from diffeat.images import ArraySource, open_source
from diffeat.loading import load_model
from diffeat.work import Job
from tests.engines.common import ROWS, SPEC, save_pictures
from tests.images.builders import noise, pack, saved

# --- tasks and shares -------------------------------------------------------------------------


def grid(count: int, batch: int = 4) -> list[tuple[int, int]]:
    return [(start, min(start + batch, count)) for start in range(0, count, batch)]


@pytest.mark.parametrize("count", [1, 3, 4, 31, 400, 4001])
@pytest.mark.parametrize("workers", [1, 2, 7])
def test_tasks_are_all_batches_once_and_in_order(count, workers):
    spans = grid(count)
    tasks = tasks_of(spans, 1000, workers)
    assert [span for task in tasks for span in task] == spans
    assert all(tasks)
    if len(spans) >= TASKS_PER_WORKER * workers:
        assert len(tasks) >= TASKS_PER_WORKER * workers


def test_tasks_are_no_larger_than_a_shard():
    spans = grid(4000)
    row = TASK_BYTES // 10  # two batches of four fit, three do not
    tasks = tasks_of(spans, row, 1)
    assert {len(task) for task in tasks} == {2}
    enormous = tasks_of(spans, 100 * TASK_BYTES, 1)
    assert {len(task) for task in enormous} == {1}


def test_no_work_is_no_task():
    assert tasks_of([], 1000, 2) == []
    assert tasks_of([(0, 4)], 0, 2) == [[(0, 4)]]


def test_what_is_left_of_a_task():
    spans = grid(20)
    assert without(spans, []) == spans
    assert without(spans, [(0, 20)]) == []
    assert without(spans, [(4, 12)]) == [(0, 4), (12, 16), (16, 20)]
    assert without(spans, [(0, 6), (14, 20)]) == [(4, 8), (8, 12), (12, 16)]  # half is not enough
    assert without([], [(0, 6)]) == []


@pytest.mark.parametrize("count", [0, 1, 2, 3, 41, 400])
@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_shares_are_contiguous_and_equal_to_a_batch(count, world):
    spans = grid(count)
    shares = _shares(spans, world)
    assert len(shares) == world
    assert [span for share in shares for span in share] == spans
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1


# --- what is sent to workers ------------------------------------------------------------------


@pytest.fixture(scope="module")
def of_kind(pictures, tmp_path_factory):
    """A source of every kind, by its name."""
    root = tmp_path_factory.mktemp("sources")
    listed = sorted(pictures.rglob("*.png"))
    (root / "list.txt").write_text("\n".join(map(str, listed)), "utf-8")
    pack(root / "p.tar", {f"{k}.png": saved(noise(k)) for k in range(3)})
    few = save_pictures(root / "few", 4, broken=None)

    def find(kind: str) -> diffeat.Source:
        if kind == "hub":
            hub = pytest.importorskip("datasets")
            raw = [{"bytes": saved(noise(k)), "path": None} for k in range(3)]
            data = hub.Dataset.from_dict(
                {"image": raw, "label": [0, 1, 0]},
                features=hub.Features(
                    {"image": hub.Image(), "label": hub.ClassLabel(names=["a", "b"])}
                ),
            )
            data.save_to_disk(root / "hub")
            return open_source(root / "hub")
        if kind == "arrays":
            pixels = np.stack([noise(k) for k in range(3)])
            return ArraySource("arrays", ("a", "b", "c"), np.array([0, 1, 0]), ("x", "y"),
                               captions=("1", "2", "3"), pixels=pixels)  # fmt: skip
        return open_source({
            "folder": few, "glob": f"{few}/**/*.png", "list": root / "list.txt", "tar": root /
            "p.tar", "paths": listed[-3:], "picture": listed[-1], "digits": "digits",
        }[kind])  # fmt: skip

    return find


KINDS = ("folder", "glob", "list", "paths", "picture", "tar", "hub", "arrays", "digits")


@pytest.mark.parametrize("kind", KINDS)
def test_job_with_every_kind_of_source_can_be_sent(of_kind, kind):
    source = of_kind(kind)
    job = Job(ModelRequest("m"), source, SPEC, Path("f.h5"), batch_size=ROWS, on_error="skip")
    back = pickle.loads(pickle.dumps(job))
    assert replace(back, source=source) == job
    found = back.source
    assert type(found) is type(source)
    assert (found.name, found.ids, found.class_names, found.captions) == (
        source.name, source.ids, source.class_names, source.captions
    )  # fmt: skip
    assert (found.labels is None) == (source.labels is None)
    assert source.labels is None or found.labels.tolist() == source.labels.tolist()
    assert found.fingerprint() == source.fingerprint()
    last = len(source) - 1
    assert np.array_equal(np.asarray(found.load(last)), np.asarray(source.load(last)))


def test_a_used_source_can_be_sent(of_kind):
    """What it opened for itself, such as an archive, stays here."""
    for kind in ("tar", "hub"):
        source = of_kind(kind)
        before = np.asarray(source.load(1))
        assert np.array_equal(np.asarray(pickle.loads(pickle.dumps(source)).load(1)), before)


def test_model_request_can_be_sent():
    request = ModelRequest(
        "m", device="cpu", dtype="bf16", allow_pickle=True, lora="x", channels_last=True
    )
    back = pickle.loads(pickle.dumps(request))
    assert back == request
    assert (back.dtype, back.allow_pickle, back.channels_last) == ("bfloat16", True, True)
    assert Path(back.lora).is_absolute()


def test_a_backbone_knows_what_another_process_must_load(backbone_of, folder_of):
    backbone = backbone_of("pixel")
    request = pickle.loads(pickle.dumps(backbone.request))
    assert request == ModelRequest(str(folder_of("pixel")), device="cpu", dtype="float32")
    assert load_model(request).fingerprint == backbone.fingerprint


# --- options ----------------------------------------------------------------------------------


@pytest.fixture
def job(of_kind, model, tmp_path) -> Job:
    request = ModelRequest(str(model), device="cpu")
    return Job(request, of_kind("folder"), SPEC, tmp_path / "f.h5", progress=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "slurm"}, "expected one of auto, local, torchrun, ray"),
        ({"engine": "torchrun"}, "no torchrun started this process"),
        ({"engine": "local", "address": "auto"}, "an address is for engine ray"),
        ({"engine": "auto", "address": "auto"}, "an address is for engine ray"),
        ({"engine": "torchrun", "address": "auto"}, "an address is for engine ray"),
        ({"engine": "local", "processes": 0}, "processes=0; expected at least 1"),
        ({"engine": "ray", "processes": 0}, "processes=0"),
        ({"engine": "auto", "processes": -1}, "processes=-1"),
    ],
)
def test_wrong_combinations_are_refused(job, options, message):
    with pytest.raises(SpecError, match=message):
        run_job(job, **options)
    assert list(job.path.parent.iterdir()) == []


def test_number_of_processes_is_torchruns(job, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(SpecError, match="torchrun's; leave processes out"):
        run_job(job, processes=2)


def test_one_rank_alone_is_one_process(job, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("RANK", "0")
    assert run_job(job).where == "cpu"


def test_workers_take_gpus_in_turn(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    auto = ModelRequest("m")
    assert [auto.on(k).device for k in range(4)] == [
        "cuda:0",
        "cuda:1",
        "cuda:2",
        "cuda:0",
    ]
    for device in ("cpu", "cuda:1"):
        assert ModelRequest("m", device=device).on(2).device == device
