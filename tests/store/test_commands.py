"""`diffeat merge`, `export`, `verify` and `info`, on files and on parts."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from diffeat.cli import cli
from diffeat.errors import DiffeatError
from diffeat.store import FeatureStore, verify
from tests.store.write.test_shards import content, shard_files


def run(*args) -> tuple[int, str]:
    """Exit code and output of a command; errors as `main` would show them."""
    result = CliRunner().invoke(cli, [str(arg) for arg in args])
    if isinstance(result.exception, DiffeatError):
        return result.exception.exit_code, f"error: {result.exception}"
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


@pytest.fixture
def unfinished(job, each_batch_a_shard):
    """A job with 8 of its 10 pictures in two shards."""
    made = job(labels=np.arange(10) % 2, class_names=("cat", "dog"))
    made.begin((0, 4), (4, 8))
    return made


@pytest.fixture
def ready(unfinished):
    """The same with all of its pictures."""
    unfinished.begin((8, 10))
    return unfinished


def test_info_of_parts(unfinished):
    code, text = run("info", unfinished.path)
    assert code == 0
    assert "unfinished, 8 of 10 pictures are in 2 shards" in text
    assert "mid, up.1" in text
    assert "run the same diffeat extract again" in text
    code, text = run("info", unfinished.path, "--json")
    facts = json.loads(text)
    assert (facts["finished"], facts["pictures"]["count"], facts["complete"]) == (8, 10, False)
    assert facts["spec"] == unfinished.manifest.spec


def test_verify_of_sound_parts(unfinished):
    code, text = run("verify", unfinished.path)
    assert code == 1
    assert "8 of 10 pictures are in 2 shards, checksums compared" in text


def test_verify_of_damaged_parts(unfinished):
    bad = shard_files(unfinished)[1]
    data = bytearray(bad.read_bytes())
    data[-1] ^= 1
    bad.write_bytes(data)
    code, text = run("verify", unfinished.path)
    assert code == 1
    assert f"{bad.name} has another checksum" in text
    assert "4 of 10 pictures" in text
    assert bad.exists()  # who looks changes nothing
    assert json.loads(run("verify", unfinished.path, "--json")[1])["problems"]


def test_merge_of_unfinished_parts(unfinished):
    code, text = run("merge", unfinished.path)
    assert code == 1
    assert "2 of 10 pictures are missing; run the same `diffeat extract` again" in text
    assert not unfinished.path.exists()
    assert len(shard_files(unfinished)) == 2


def test_merge_of_finished_parts(ready, job):
    whole = job("whole.h5", labels=np.arange(10) % 2, class_names=("cat", "dog")).write()
    assert "run diffeat merge" in run("info", ready.path)[1]
    code, text = run("merge", ready.path)
    assert (code, text) == (0, f"{ready.path}: 10 pictures, 2 blocks at 2 t\n")
    assert content(ready.path) == content(whole)
    assert not ready.path.with_name(ready.path.name + ".parts").exists()
    with ready.writer() as writer:
        assert writer.complete  # the command that made it knows it


def test_merge_of_parts_with_compression(ready):
    code, text = run("merge", ready.path, "--compression", "gzip", "--json")
    assert code == 0
    assert json.loads(text)["compression"] == "gzip"
    with FeatureStore(ready.path) as store:
        assert store.compression == "gzip"


def test_merge_of_damaged_parts(ready):
    bad = shard_files(ready)[0]
    data = bytearray(bad.read_bytes())
    data[-1] ^= 1
    bad.write_bytes(data)
    code, text = run("merge", ready.path)
    assert code == 1
    assert bad.name in text
    assert not ready.path.exists()
    assert "4 of 10 pictures are missing" in run("merge", ready.path)[1]


def test_merge_while_somebody_works(ready):
    with ready.writer():
        code, text = run("merge", ready.path)
    assert code == 1
    assert "another process is writing" in text


def test_merge_of_what_is_there(sound):
    code, text = run("merge", sound)
    assert code == 1
    assert "no such folder; there is nothing to merge" in text


def test_merge_of_older_parts(ready):
    note = ready.path.with_name(ready.path.name + ".parts") / "request.json"
    values = json.loads(note.read_text())
    note.write_text(json.dumps({name: values[name] for name in ("spec", "model", "pictures")}))
    code, text = run("merge", ready.path)
    assert code == 1
    assert "run the same `diffeat extract` again" in text


def test_joining(job, tmp_path):
    one, two = job("a.h5").write(), job("b.h5", count=3, ids=("x", "y", "z")).write()
    out = tmp_path / "out.h5"
    code, text = run("merge", out, one, two, "--compression", "lzf")
    assert (code, text) == (0, f"{out}: 13 pictures, 2 blocks at 2 t\n")
    assert verify(out) == []
    assert run("merge", out, one)[0] == 1
    assert run("merge", out, one, "--overwrite")[0] == 0


def test_export(sound, tmp_path):
    out = tmp_path / "x.npz"
    code, text = run("export", sound, "-o", out, "-t", "60", "-b", "mid")
    assert (code, text) == (0, f"wrote {out}: 1 feature sets of 10 pictures\n")
    with np.load(out) as found, FeatureStore(sound) as store:
        np.testing.assert_array_equal(found["features/mid/t60"], store["mid", 60][:])
    code, text = run("export", sound, "-o", out, "--overwrite", "--json")
    assert json.loads(text) == {"path": str(out), "pictures": 10, "features": 4}


def test_export_of_what_is_not_there(sound, tmp_path):
    code, text = run("export", sound, "-o", tmp_path / "x.npz", "-t", "61")
    assert code == 2
    assert "has no t=61; it has 20, 60" in text


def test_info_says_how_it_is_stored(job):
    path = job(dtype="int8", how={"device": "cpu"}).write(compression="gzip")
    code, text = run("info", path)
    assert code == 0
    assert "compression=gzip" in text
    assert "device=cpu" in text
    assert "10×3×2×2 int8" in text
    facts = json.loads(run("info", path, "--json")[1])
    assert (facts["compression"], facts["how"]) == ("gzip", {"device": "cpu"})
    assert {row["dtype"] for row in facts["features"]} == {"int8"}
