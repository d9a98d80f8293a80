"""Several processes on this machine: the same file as one, whoever is lost on the way."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import threading
from dataclasses import dataclass, replace
from multiprocessing import forkserver

import pytest

from diffeat import errors
from diffeat.errors import (
    DiffeatError,
    ModelError,
    NumericsError,
    PictureError,
    SpecError,
    StoreError,
)
from diffeat.images import FileSource
from diffeat.work import Worker
from tests.command import command
from tests.engines.common import (
    BROKEN,
    COUNT,
    OPTIONS,
    SPEC,
    Buggy,
    Deadly,
    added,
    alive,
    as_kind,
    below,
    extract,
    half,
    parts_of,
    same,
    save_overflowing,
    shards,
    until,
)

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def run(monkeypatch, capsys):
    with command(monkeypatch, capsys) as run:
        yield run


def workers() -> list[int]:
    """Worker processes of this process."""
    pid = forkserver._forkserver._forkserver_pid
    return below(pid) if pid else []


@pytest.fixture(autouse=True)
def nobody_is_left():
    yield
    until(lambda: not workers(), "the end of all workers", 10)


# --- the same as one process ------------------------------------------------------------------


def test_two_processes_make_what_one_makes(model, pictures, reference, tmp_path):
    path = tmp_path / "f.h5"
    result = extract(model, pictures, path, processes=2)
    assert {"sizes", "placements", "boxes"} <= set(reference)
    assert same(path, reference)
    assert (result.status, result.where) == ("done", "2 processes")
    assert (result.pictures, result.skipped, result.computed) == (COUNT - 1, 1, COUNT - 1)
    again = extract(model, pictures, path, processes=2)
    assert (again.status, again.computed) == ("already complete", 0)


def test_two_processes_add_what_is_new(model, pictures, reference, tmp_path, capfd):
    path = tmp_path / "f.h5"
    new = half(model, pictures, path)
    result = extract(model, pictures, path, processes=2, progress=None)
    assert (result.status, result.computed) == ("grown", new)
    assert f"f.h5: {new + 1} of {COUNT} pictures are new; extracting them" in capfd.readouterr().err
    assert added(path, reference)


def test_parts_without_placements_are_gone_on_with_as_they_are(
    model, pictures, reference, tmp_path, monkeypatch
):
    columns, path = Worker._columns, tmp_path / "f.h5"

    def without(self, *args):
        return tuple(c for c in columns(self, *args) if c.name not in ("sizes", "placements"))

    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Worker, "_columns", without)
        patch.setattr("diffeat.store.write.writer.SHARD_SECONDS", 0)
        patch.setattr("diffeat.store.write.writer.merge_shards", killed)
        with pytest.raises(KeyboardInterrupt):
            extract(model, pictures, path, engine="local")
    shards(path)[-1].unlink()
    with pytest.warns(UserWarning, match="goes on without /sizes and /placements"):
        assert extract(model, pictures, path, processes=2).status == "resumed"
    assert same(path, {k: v for k, v in reference.items() if k not in ("sizes", "placements")})


def test_skipped_pictures_are_not_computed_in_one_process(model, pictures, tmp_path):
    alone = extract(model, pictures, tmp_path / "1.h5", engine="local")
    assert alone.computed == COUNT - 1


def test_a_worker_is_killed(model, pictures, reference, tmp_path, run):
    path, killed = tmp_path / "f.h5", []

    def kill() -> None:
        until(lambda: shards(path), "the first shard")
        killed.append(workers()[-1])
        os.kill(killed[0], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    done = run("extract", model, pictures, "-o", path, "--processes", 2, "--json", *OPTIONS)
    thread.join()
    assert done.code == 0, done.err
    assert same(path, reference)
    assert not alive(killed[0])
    assert "was lost (signal 9); it is replaced" in done.err
    told = json.loads(done.out)
    assert (told["pictures"], told["skipped"]) == (COUNT - 1, 1)
    assert told["computed"] >= COUNT - 1


def test_pictures_that_kill_every_worker(model, pictures, reference, tmp_path, capfd):
    """The driver gives up with a reason; another engine does what is missing."""
    path = tmp_path / "f.h5"
    with pytest.raises(StoreError, match=r"lost .* times .* signal 9 .* pictures are kept"):
        extract(model, as_kind(Deadly, pictures, deadly=COUNT - 1), path, processes=2)
    out, err = capfd.readouterr()
    assert "was lost" in err
    assert out == ""  # a program may read it (--json)
    kept = len(shards(path))
    assert kept > 0
    result = extract(model, pictures, path, engine="local")
    assert result.status == "resumed"
    assert 1 <= result.computed < COUNT
    assert same(path, reference)


# --- errors -----------------------------------------------------------------------------------


def test_every_error_survives_the_way_to_the_driver():
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    kinds = [kind for kind in kinds if issubclass(kind, DiffeatError)]
    assert len(kinds) > 8
    for kind in kinds:
        error = kind("a", "b") if kind is PictureError else kind("what, why")
        back = pickle.loads(pickle.dumps(error))
        assert type(back) is kind
        assert (str(back), vars(back)) == (str(error), vars(error))


def check_error(error: type, message: str, *arguments, **options) -> None:
    with pytest.raises(error, match=message):
        extract(*arguments, processes=2, **options)


def test_unreadable_picture(model, pictures, tmp_path, reference):
    path = tmp_path / "f.h5"
    check_error(PictureError, f"ü{BROKEN:03d}.png", model, pictures, path, on_error="fail")
    extract(model, pictures, path, processes=2)  # now it is skipped
    assert same(path, reference)


def test_numbers_too_large(model, pictures, tmp_path):
    huge = save_overflowing(model, tmp_path / "huge")
    spec = replace(SPEC, dtype="float16")
    path = tmp_path / "f.h5"
    check_error(NumericsError, "mid.*20|20.*mid", huge, pictures, path, spec=spec)
    assert not path.exists()


def test_unknown_block(model, pictures, tmp_path):
    spec = replace(SPEC, blocks=("mit",))
    check_error(SpecError, "did you mean 'mid'", model, pictures, tmp_path / "f.h5", spec=spec)


def test_missing_model(pictures, tmp_path):
    check_error(ModelError, "nowhere", tmp_path / "nowhere", pictures, tmp_path / "f.h5")


def test_output_cannot_be_written(model, pictures, tmp_path):
    (tmp_path / "file").write_text("in the way")
    path = tmp_path / "file" / "f.h5"
    check_error(StoreError, "cannot be written", model, pictures, path)


def test_unforeseen_error(model, pictures, tmp_path, capfd):
    """A bug is no reason to start worker after worker."""
    source = as_kind(Buggy, pictures)
    check_error(DiffeatError, "ZeroDivisionError: by a picture", model, source, tmp_path / "f.h5")


def test_source_that_cannot_be_sent(model, pictures, tmp_path):
    @dataclass(frozen=True)
    class Local(FileSource):
        pass

    check_error(DiffeatError, "Local", model, as_kind(Local, pictures), tmp_path / "f.h5")


def test_folder_of_parts_taken_away(model, pictures, tmp_path):
    """Somebody removes what is being written: an error, no endless replacing."""
    path = tmp_path / "f.h5"

    def remove() -> None:
        until(lambda: shards(path), "the first shard")
        while parts_of(path).exists():  # a worker may write into it meanwhile
            shutil.rmtree(parts_of(path), ignore_errors=True)

    thread = threading.Thread(target=remove)
    thread.start()
    check_error(StoreError, "nobody is making|shards are missing", model, pictures, path)
    thread.join()
    assert not path.exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 1, f"ü{BROKEN:03d}.png"),
        (("-b", "mit"), 2, "did you mean 'mid'"),
    ],
)
def test_message_and_exit_code(model, pictures, tmp_path, run, arguments, code, message):
    options = [one for one in OPTIONS if one not in ("--on-error", "skip")]
    given = ("-o", tmp_path / "f.h5", "--processes", 2, *options, "--on-error", "fail", *arguments)
    done = run("extract", model, pictures, *given)
    assert done.code == code
    assert done.err.lower().count("error") == 1 + ("--on-error" in done.err)
    assert message in done.err
    assert done.out == ""
