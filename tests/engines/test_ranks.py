"""Two ranks of torchrun: started by it once, and otherwise with what it tells them."""

from __future__ import annotations

import json
import signal
from dataclasses import replace

import pytest

from tests.engines import rank
from tests.engines.common import (
    BROKEN,
    COUNT,
    OPTIONS,
    SPEC,
    Deadly,
    added,
    as_kind,
    extract,
    half,
    same,
    save_overflowing,
    shards,
    start,
)

LIMIT = 40
"""Seconds after which a rank hangs."""


@pytest.mark.slow
def test_torchrun_makes_what_one_process_makes(model, pictures, reference, tmp_path):
    path, log = tmp_path / "f.h5", tmp_path / "log"
    arguments = ("extract", model, pictures, "-o", path, *OPTIONS, "--json")
    run = start("--standalone", "--nproc-per-node", 2, "-m", "diffeat", *arguments,
                module="torch.distributed.run", log=log)  # fmt: skip
    assert run.wait(100) == 0, log.read_text()
    assert same(path, reference)
    text = log.read_text()
    told = json.loads(text[text.index("{") : text.rindex("}") + 1])
    assert told["computed"] >= COUNT - 1
    assert (told["status"], told["where"]) == ("done", "2 ranks")


@pytest.fixture
def two_ranks(server, tmp_path, monkeypatch):
    """Have jobs done by two ranks; what each made of every job, and how its process ended."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def do(*jobs: tuple, own_group: bool = False, port=None, attempt=None, limit=LIMIT):
        port, outs = port or rank.free_port(), [tmp_path / f"{k}.json" for k in range(2)]
        for out in outs:
            out.unlink(missing_ok=True)
        processes = [
            server.Process(target=rank.work, args=(k, port, out, jobs, own_group, attempt))
            for k, out in enumerate(outs)
        ]
        try:
            for process in processes:
                process.start()
            for process in processes:
                process.join(limit)
            codes = [process.exitcode for process in processes]
        finally:
            for process in processes:
                process.kill()
                process.join()
        found = [json.loads(out.read_text("utf-8")) if out.exists() else None for out in outs]
        return found, codes

    return do


def test_two_ranks_and_then_nothing_to_do(two_ranks, model, pictures, reference, tmp_path):
    path = tmp_path / "f.h5"
    (first, second), codes = two_ranks(((model, pictures, path), {}))
    assert codes == [0, 0]
    assert (first[0]["status"], first[0]["where"]) == ("done", "2 ranks")
    assert second == [None]
    assert same(path, reference)
    (first, second), codes = two_ranks(((model, pictures, path), {}))
    assert (first[0]["status"], first[0]["computed"], second) == ("already complete", 0, [None])


def test_two_ranks_add_what_is_new(two_ranks, model, pictures, reference, tmp_path):
    path = tmp_path / "f.h5"
    new = half(model, pictures, path)
    (first, second), codes = two_ranks(((model, pictures, path), {}))
    assert codes == [0, 0]
    assert (first[0]["status"], first[0]["computed"], second) == ("grown", new, [None])
    assert added(path, reference)


def test_several_jobs_in_a_program_with_a_group_of_its_own(
    two_ranks, model, pictures, reference, tmp_path
):
    jobs = [((model, pictures, tmp_path / f"{k}.h5"), {}) for k in range(3)]
    (first, _), codes = two_ranks(*jobs, own_group=True)
    assert codes == [0, 0]
    assert [one.get("status") for one in first] == ["done"] * 3, first
    assert all(same(path, reference) for (_, _, path), _ in jobs)


def test_unreadable_picture(two_ranks, model, pictures, reference, tmp_path):
    """One rank meets it; the other does not wait for ever, and what is done is kept."""
    path = tmp_path / "f.h5"
    ((first,), (second,)), codes = two_ranks(((model, pictures, path), {"on_error": "fail"}))
    assert codes == [0, 0]
    assert first["error"] == "PictureError"
    assert f"ü{BROKEN:03d}.png" in first["message"]
    assert second is None or second["error"] == "StoreError"
    ((first,), _), _ = two_ranks(((model, pictures, path), {}))
    assert first["status"] in ("done", "resumed")
    assert same(path, reference)


def test_a_lost_rank(two_ranks, model, pictures, reference, tmp_path):
    """The other ends too; it says that one was lost."""
    path, source = tmp_path / "f.h5", as_kind(Deadly, pictures, deadly=COUNT - 1)
    ((first,), second), codes = two_ranks(((model, source, path), {}))
    assert codes == [0, -signal.SIGKILL]
    assert second is None
    assert first["error"] == "StoreError"
    assert "another rank was lost" in first["message"]
    assert "finished pictures are kept" in first["message"]
    assert len(shards(path)) >= 1
    assert extract(model, pictures, path).status == "resumed"
    assert same(path, reference)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("SpecError", "did you mean 'mid'"),
        ("ModelError", "nowhere"),
        ("NumericsError", "mid"),
        ("StoreError", "cannot be written"),
    ],
)
def test_errors_are_those_of_one_process(two_ranks, model, pictures, tmp_path, error, message):
    path, options = tmp_path / "f.h5", {}
    if error == "SpecError":
        options = {"spec": replace(SPEC, blocks=("mit",))}
    elif error == "ModelError":
        model = tmp_path / "nowhere"
    elif error == "NumericsError":
        model, options = (
            save_overflowing(model, tmp_path / "huge"),
            {"spec": replace(SPEC, dtype="float16")},
        )
    else:
        (tmp_path / "file").write_text("in the way")
        path = tmp_path / "file" / "f.h5"
    (found, _), codes = two_ranks(((model, pictures, path), options))
    assert codes == [0, 0]
    assert found[0]["error"] == error
    assert message in found[0]["message"]
    assert not path.exists()
    assert shards(path) == []
