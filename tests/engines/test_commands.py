"""The command is stopped or killed, with workers; the next run goes on."""

from __future__ import annotations

import json
import os
import signal

import pytest

from tests.command import command
from tests.engines import driver
from tests.engines.common import (
    COUNT,
    OPTIONS,
    alive,
    below,
    extract,
    same,
    shards,
    start,
    until,
    workers_below,
)


@pytest.fixture
def begin(server, tmp_path, monkeypatch):
    """Starts a command; gives its process, and the files that it writes to."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    started = []

    def start(*arguments: object, slow: bool = False):
        out, err = (tmp_path / f"{name}-{len(started)}" for name in ("out", "err"))
        process = server.Process(target=driver.work, args=(arguments, out, err, slow))
        process.start()
        started.append(process)
        return process, out, err

    yield start
    for process in started:
        process.kill()
        process.join()


@pytest.mark.parametrize("engine", ["one", "processes"])
@pytest.mark.parametrize("how", ["SIGTERM", "Ctrl-C"])
def test_stopped(begin, model, pictures, reference, tmp_path, how, engine):
    """It keeps what is finished, says so, and leaves no process and no traceback."""
    path = tmp_path / "f.h5"
    arguments = ("extract", model, pictures, "-o", path, *OPTIONS, "--json")
    arguments += ("--processes", 2) if engine == "processes" else ()
    process, out, err = begin(*arguments)
    if engine == "processes":
        until(lambda: shards(path), "the first shard")
    else:
        until(lambda: path.with_name("f.h5.parts").exists(), "the beginning")
    workers = below(process.pid)
    if how == "SIGTERM":
        os.kill(process.pid, signal.SIGTERM)
    else:
        os.killpg(process.pid, signal.SIGINT)  # a terminal tells all of them
    process.join(30)
    assert process.exitcode == {"SIGTERM": 143, "Ctrl-C": 130}[how], err.read_text()
    told = err.read_text()
    last = beyond_its_start(told)
    assert last == ["interrupted: finished batches are kept; run the same command again"]
    assert out.read_text() == ""
    until(lambda: not any(map(alive, workers)), "the end of the workers", 5)
    assert not path.exists()
    kept = len(shards(path))
    assert kept or engine == "one"

    process, out, err = begin(*arguments)
    process.join(60)
    assert process.exitcode == 0, err.read_text()
    result = json.loads(out.read_text())
    assert result["status"] == ("resumed" if kept else "done")
    assert result["computed"] < COUNT or not kept
    assert beyond_its_start(err.read_text()) == []
    assert same(path, reference)


def beyond_its_start(told: str) -> list[str]:
    """Lines on stderr but those of what was found and planned."""
    return [line for line in told.splitlines() if not line.startswith(("note: ", "plan: "))]


@pytest.mark.slow
def test_workers_end_in_silence(begin, model, pictures, reference, tmp_path):
    path = tmp_path / "f.h5"
    arguments = ("extract", model, pictures, "-o", path, *OPTIONS, "--processes", 2)
    process, _, err = begin(*arguments, slow=True)
    process.join(60)
    assert process.exitcode == 0, err.read_text()
    assert same(path, reference)
    assert beyond_its_start(err.read_text()) == []


@pytest.mark.slow
def test_killed_driver(model, pictures, reference, tmp_path):
    """Its workers, started as they always are, end by themselves; one process goes on."""
    path, log = tmp_path / "f.h5", tmp_path / "log"
    arguments = (model, pictures, "-o", path, *OPTIONS, "--processes", 2)
    run = start("extract", *arguments, log=log)
    until(lambda: shards(path) or run.poll() is not None, "the first shard")
    workers, others = workers_below(run.pid), below(run.pid)
    assert len(workers) == 2, log.read_text()
    run.kill()
    run.wait()
    until(lambda: not any(map(alive, others)), "the end of the workers", 20)
    assert not path.exists()
    result = extract(model, pictures, path)
    assert result.status == "resumed"
    assert 0 <= result.computed < COUNT
    assert same(path, reference)


def test_another_driver_waits_for_nobody(begin, model, pictures, tmp_path, reference, monkeypatch,
                                         capsys):  # fmt: skip
    """While one command works, the same command is refused, whatever its engine."""
    path = tmp_path / "f.h5"
    arguments = ("extract", model, pictures, "-o", path, *OPTIONS)
    process, _, err = begin(*arguments, "--processes", 2)
    until(lambda: shards(path), "the first shard")
    os.kill(process.pid, signal.SIGSTOP)
    try:
        with command(monkeypatch, capsys) as run:
            refused = run(*arguments)
    finally:
        os.kill(process.pid, signal.SIGCONT)
    assert refused.code == 1
    assert "another process is writing it" in refused.err
    process.join(60)
    assert process.exitcode == 0, err.read_text()
    assert same(path, reference)


@pytest.mark.slow
def test_no_cluster_there(begin, model, pictures, tmp_path):
    """A wrong address is told within seconds."""
    arguments = ("-o", tmp_path / "f.h5", *OPTIONS, "--engine", "ray", "--address", "127.0.0.1:9")
    process, _, err = begin("extract", model, pictures, *arguments)
    process.join(30)
    assert process.exitcode == 1
    assert "no Ray cluster at '127.0.0.1:9'" in err.read_text()
