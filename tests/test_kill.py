"""`kill -9`, Ctrl-C and a disk that is too small, at many moments of a real extraction.

One helper process, which has imported everything, forks a child for every run; a child is killed
either at a random time, or just before its k-th step that touches the disk. What the helper
saw goes to the tests below as JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import time
from pathlib import Path

import h5py
import pytest

COUNT, BATCH = 12, 2
RANDOM_STEPS, MERGE_STEPS, TIMES, AGAIN = 2, 2, 1, 2


# --- the helper process ---------------------------------------------------------------------


class Helper:
    """Runs scenarios in `folder`; every run is a forked child."""

    def __init__(self, folder: Path):
        import diffeat
        from tests.test_jobs import save_tiny_pipeline

        self.folder = folder
        self.backbone = diffeat.load(save_tiny_pipeline(folder / "model", seed=0), device="cpu")
        self.rng = random.Random(0)

    def run(self, path: Path, **options) -> dict:
        """One run in a child, to its end."""
        return self.wait(self.start(path, **options), path)

    def start(self, path: Path, **options) -> int:
        log = path.with_suffix(".log")
        log.unlink(missing_ok=True)
        child = os.fork()
        if child == 0:
            try:
                self.work(path, log, **options)
            finally:
                os._exit(0)
        return child

    def wait(self, child: int, path: Path) -> dict:
        _, status = os.waitpid(child, 0)
        log = path.with_suffix(".log")
        lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        return {
            "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0,
            "loaded": [value for kind, value in lines if kind == "load"],
            "steps": [value for kind, value in lines if kind == "step"],
            "results": [value for kind, value in lines if kind == "result"],
            "errors": [value for kind, value in lines if kind == "error"],
        }

    def work(self, path: Path, log: Path, kill_before=None, limit=None, **options) -> None:
        """In the child: extract, and note everything in the log before it happens."""
        import diffeat.store.write.writer

        diffeat.store.write.writer.SHARD_SECONDS = 0
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

        def note(kind, value):
            os.write(descriptor, json.dumps([kind, value]).encode() + b"\n")

        # a shell that starts the tests in the background lets them ignore Ctrl-C
        signal.signal(signal.SIGINT, signal.default_int_handler)
        count_steps(note, kill_before)
        if limit is None:
            self.extract(path, note, **options)
            return
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        self.extract(path, note, **options)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        note("step", "more room")
        self.extract(path, note, **options)

    def extract(self, path: Path, note, **options) -> None:
        from diffeat.jobs import extract_to_file
        from tests.test_jobs import SPEC

        source = noting_source(note, **options)
        try:
            result = extract_to_file(
                self.backbone, source, SPEC, path, batch_size=BATCH, progress=False
            )
            note("result", {"status": result.status, "computed": result.computed})
        except BaseException as error:
            note("error", [type(error).__name__, str(error)])

    def state(self, path: Path) -> dict:
        """What lies on the disk, seen with plain h5py."""
        shards = sorted(path.with_name(path.name + ".parts").glob("shard-*.h5"))
        covered = set()
        for shard in shards:
            with h5py.File(shard) as file:
                covered |= set(file["index"][:].tolist())
        return {"final": fingerprint(path), "covered": sorted(covered)}

    def killed(self, name: str, *kills: dict) -> dict:
        """Disturb as many runs as there are `kills`, then let one run to its end.

        A kill is {"after": seconds}, or options of `work` that end the child from within.
        """
        path = self.folder / f"{name}.h5"
        rounds = []
        for kill in (*kills, {}):
            before = self.state(path)
            child = self.start(path, **{k: v for k, v in kill.items() if k != "after"})
            if "after" in kill:
                time.sleep(kill["after"])
                os.kill(child, signal.SIGKILL)
            done = self.wait(child, path)
            rounds.append({"before": before, "run": done, "after": self.state(path)})
        return {"rounds": rounds, "left": sorted(p.name for p in self.folder.glob(name + ".h5*"))}

    def two_at_once(self) -> dict:
        path = self.folder / "shared.h5"
        first = self.start(path, pause=0.02)
        parts = path.with_name(path.name + ".parts")
        while not list(parts.glob("shard-*.h5")):
            time.sleep(0.002)
        log = path.with_suffix(".log")
        kept = log.rename(path.with_suffix(".first"))
        second = self.run(path)
        kept.rename(log)
        return {"second": second, "first": self.wait(first, path), "after": self.state(path)}

    def no_room(self) -> dict:
        """The merged file meets a limit of its size, is made again in the same process."""
        path = self.folder / "no-room.h5"
        done = self.run(path, limit=200_000)
        return {"run": done, "after": self.state(path)}

    def everything(self) -> dict:
        began = time.monotonic()
        whole = self.killed("whole")
        seconds = time.monotonic() - began
        steps = whole["rounds"][0]["run"]["steps"]
        renames = [k for k, step in enumerate(steps) if step == "replace"]
        merge, rename = renames[-2] + 1, renames[-1]
        ends = {
            "before the final rename": rename,
            "after the final rename": rename + 1,
            "when removing the first part": steps.index("unlink", rename),
            "when removing the folder": len(steps) - 1,
        }

        def killed_at(name: str, *steps: int) -> dict:
            return self.killed(name, *({"kill_before": step} for step in steps))

        draw = self.rng.randrange
        moments = [self.rng.uniform(0, seconds) for _ in range(TIMES)]
        return {
            "whole": whole,
            "two": self.two_at_once(),
            "no room": self.no_room(),
            "steps": [killed_at(f"step-{k}", draw(merge)) for k in range(RANDOM_STEPS)],
            "merge": [killed_at(f"merge-{k}", draw(merge, rename)) for k in range(MERGE_STEPS)],
            "ends": {name: killed_at(f"end-{k}", k) for name, k in ends.items()},
            "times": [self.killed(f"time-{k}", {"after": s}) for k, s in enumerate(moments)],
            "again": killed_at("again", *(draw(merge // AGAIN) for _ in range(AGAIN))),
            "ctrl-c": self.killed("ctrl-c", {"interrupt": COUNT - 2}),
        }


def noting_source(note, pause: float = 0.002, interrupt: int | None = None):
    """Pictures that say when they are read, take their time, and may press Ctrl-C."""
    from diffeat.images import ArraySource
    from tests.test_jobs import pictures

    class Noting(ArraySource):
        def load(self, index):
            note("load", index)
            if index == interrupt:
                os.kill(os.getpid(), signal.SIGINT)
            time.sleep(pause)
            return super().load(index)

    ids = tuple(f"ä-{k:03d}" for k in range(COUNT))
    return Noting(name="noting", ids=ids, pixels=pictures(COUNT))


def count_steps(note, kill_before: int | None) -> None:
    """Note every call that changes the disk; die just before number `kill_before`."""
    calls = 0

    def watch(owner, name):
        original = getattr(owner, name)

        def call(*args, **kwargs):
            nonlocal calls
            if calls == kill_before:
                os.kill(os.getpid(), signal.SIGKILL)
            calls += 1
            note("step", name)
            return original(*args, **kwargs)

        setattr(owner, name, call)

    for name in ("replace", "fsync", "unlink", "rmdir", "mkdir"):
        watch(os, name)
    watch(h5py.Dataset, "__setitem__")
    watch(h5py.Group, "__setitem__")


def fingerprint(path: Path) -> str | None:
    """Hash of all data and attributes, read with plain h5py; None without a file.

    A file that cannot be read or is not complete gives the reason instead of a hash.
    """
    if not path.exists():
        return None
    hasher = hashlib.sha256()

    def look(name, item):
        attrs = sorted((key, str(value)) for key, value in item.attrs.items())
        hasher.update(repr((name, attrs)).encode())
        if isinstance(item, h5py.Dataset):
            texts = item.dtype.kind == "O"
            hasher.update(repr((item.shape, str(item.dtype))).encode())
            hasher.update(repr(item[:].tolist()).encode() if texts else item[:].tobytes())

    try:
        with h5py.File(path) as file:
            if not file.attrs["complete"]:
                return "incomplete"
            look("/", file)
            file.visititems(look)
    except Exception as error:
        return f"unreadable: {error}"
    return hasher.hexdigest()


def help_out(folder: Path) -> None:
    """In the helper process: do everything, and leave what was seen."""
    (folder / "seen.json").write_text(json.dumps(Helper(folder).everything()), "utf-8")


# --- the tests ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def seen(tmp_path_factory, server):
    """What the helper saw."""
    folder = tmp_path_factory.mktemp("kill")
    helper = server.Process(target=help_out, args=(folder,))
    helper.start()
    try:
        helper.join(110)
        assert helper.exitcode == 0, "what it said is on stderr"
    finally:
        helper.kill()
        helper.join()
    return json.loads((folder / "seen.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def whole(seen) -> str:
    """Hash of the file of a run that nothing disturbed."""
    (only,) = seen["whole"]["rounds"]
    assert only["run"]["results"] == [{"status": "done", "computed": COUNT}]
    return only["after"]["final"]


def check(scenario: dict, whole: str) -> None:
    """Nothing half-made was visible, nothing was done twice, and the end is the same."""
    *killed, last = scenario["rounds"]
    for done in [*killed, last]:
        before, run, after = done["before"], done["run"], done["after"]
        assert after["final"] in (None, whole)
        assert not set(run["loaded"]) & set(before["covered"])
        if after["final"] is None:
            assert set(before["covered"]) <= set(after["covered"])
    before, run = last["before"], last["run"]
    missing = 0 if before["final"] else COUNT - len(before["covered"])
    status = "already complete" if before["final"] else "resumed" if before["covered"] else "done"
    assert run["errors"] == []
    assert run["results"] == [{"status": status, "computed": missing}]
    assert len(run["loaded"]) == missing
    assert last["after"]["final"] == whole
    assert len(scenario["left"]) == 1, "parts are left beside the finished file"


def test_steps_were_watched(seen):
    steps = seen["whole"]["rounds"][0]["run"]["steps"]
    assert set(steps) == {
        "replace", "fsync", "unlink", "rmdir", "mkdir", "__setitem__"
    }  # fmt: skip
    assert steps.count("replace") >= COUNT // BATCH + 1


@pytest.mark.parametrize("k", range(RANDOM_STEPS))
def test_killed_while_extracting(seen, whole, k):
    scenario = seen["steps"][k]
    assert scenario["rounds"][0]["run"]["signal"] == signal.SIGKILL
    assert scenario["rounds"][0]["after"]["final"] is None
    check(scenario, whole)


@pytest.mark.parametrize("k", range(MERGE_STEPS))
def test_killed_while_merging(seen, whole, k):
    scenario = seen["merge"][k]
    first = scenario["rounds"][0]
    assert first["run"]["signal"] == signal.SIGKILL
    assert first["after"]["final"] is None
    assert first["after"]["covered"] == list(range(COUNT))
    check(scenario, whole)


@pytest.mark.parametrize(
    ("moment", "visible"),
    [
        ("before the final rename", False),
        ("after the final rename", True),
        ("when removing the first part", True),
        ("when removing the folder", True),
    ],
)
def test_killed_at_the_very_end(seen, whole, moment, visible):
    scenario = seen["ends"][moment]
    assert scenario["rounds"][0]["run"]["signal"] == signal.SIGKILL
    assert (scenario["rounds"][0]["after"]["final"] == whole) is visible
    check(scenario, whole)


@pytest.mark.parametrize("k", range(TIMES))
def test_killed_at_a_random_time(seen, whole, k):
    check(seen["times"][k], whole)


def test_killed_again_and_again(seen, whole):
    scenario = seen["again"]
    assert len(scenario["rounds"]) == AGAIN + 1
    assert all(done["run"]["signal"] for done in scenario["rounds"][:-1])
    check(scenario, whole)


def test_ctrl_c_keeps_what_is_finished(seen, whole):
    scenario = seen["ctrl-c"]
    first = scenario["rounds"][0]
    assert [kind for kind, _ in first["run"]["errors"]] == ["KeyboardInterrupt"]
    assert first["after"]["covered"] != []
    check(scenario, whole)


def test_a_second_process_is_refused(seen, whole):
    two = seen["two"]
    ((kind, message),) = two["second"]["errors"]
    assert kind == "StoreError"
    assert "another process is writing" in message
    assert two["second"]["loaded"] == []
    assert two["first"]["results"] == [{"status": "done", "computed": COUNT}]
    assert two["after"]["final"] == whole


def test_no_room_for_the_merged_file(seen, whole):
    run = seen["no room"]["run"]
    ((kind, message),) = run["errors"]
    assert kind == "StoreError"
    assert "Finished pictures are kept" in message
    assert run["results"] == [{"status": "resumed", "computed": 0}]
    assert sorted(run["loaded"]) == list(range(COUNT))
    assert seen["no room"]["after"]["final"] == whole
