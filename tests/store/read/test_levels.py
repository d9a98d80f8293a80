"""Levels of a file by what they were asked for: in Python, and by every verb that reads files."""

from __future__ import annotations

import json

import numpy as np
import pytest

import diffeat
from diffeat.errors import SpecError
from diffeat.images import ArraySource
from diffeat.jobs import extract_to_file
from diffeat.store import FeatureStore, merge_files
from tests.command import command
from tests.extraction.common import spec

RATIOS = ("sigma=0.3", "snr=10", 20)


@pytest.fixture
def run(monkeypatch, capsys):
    with command(monkeypatch, capsys) as run:
        yield run


@pytest.fixture(scope="module")
def made(backbone_of, tmp_path_factory):
    """Files of a model with steps, of a flow model and of one that counts by sigma."""
    folder, rng = tmp_path_factory.mktemp("files"), np.random.default_rng(0)
    pixels = rng.integers(0, 256, (24, 32, 32, 3), dtype=np.uint8)
    labels, ids = np.arange(24) % 2, tuple(f"{k}.png" for k in range(24))
    source = ArraySource("x", ids, labels, ("cat", "dog"), pixels)
    for model, block, levels in (
        ("pixel", "up.1", RATIOS),
        ("pixel-flow", "up.1", (0.25, 500, "sigma=3")),
        ("edm", "up.1", (0.5, "snr=100")),
    ):
        asked = spec(model, block, levels, pool="1x1")
        path = folder / f"{model}.h5"
        extract_to_file(backbone_of(model), source, asked, path, progress=False)
    return folder


def test_what_was_asked_finds_the_level_again(made, backbone_of):
    schedule = backbone_of("pixel").schedule
    with FeatureStore(made / "pixel.h5") as store:
        for asked in (*RATIOS, " sigma = 0.30 ", "20", np.int64(20), 20.0):
            level = store.level(asked)
            expected = schedule.resolve(asked)
            assert (level.t, level.alpha, level.sigma) == (
                expected.t, expected.alpha, expected.sigma)  # fmt: skip
            assert store["up.1", asked] is store["up.1", level.t] is store["up.1"][asked]
        # the same ratio in its other form
        assert store.level("snr=11.11111111111111").t == store.level("sigma=0.3").t
        assert store.native(["snr=10", 20]) == [schedule.resolve("snr=10").t, 20]
        assert store.native([]) is store.native(None) is None
        assert store["up.1", "snr=10"].attrs["asked"] == "snr=10"
        assert "asked" not in store["up.1", 20].attrs


def test_flow_times_and_sigmas(made):
    with FeatureStore(made / "pixel-flow.h5") as store:
        assert [store.level(t).t for t in (0.25, "0.25", 250, "250")] == [250] * 4
        assert [store.level(t).t for t in (0.5, "500", "sigma=3", 0.75)] == [500, 500, 750, 750]
        with pytest.raises(SpecError, match=r"has no t=0\.3; it has 250, 500, 750"):
            store.level(0.3)
    with FeatureStore(made / "edm.h5") as store:
        assert store.level("sigma=0.5").t == store.level("snr=4").t == 0.5
        assert store.level("snr=100").t == store.level(0.1).t == store.level("sigma=0.1").t


def test_what_was_not_asked_names_the_nearest(made, backbone_of):
    t = backbone_of("pixel").schedule.resolve("sigma=0.3").t
    with FeatureStore(made / "pixel.h5") as store:
        with pytest.raises(SpecError, match=rf"no sigma=0\.29; .*nearest are t={t:.0f} \(.*, asked "
                                            r"as sigma=0\.3\), t=.*snr=10\), t=20"):  # fmt: skip
            store["up.1", "sigma=0.29"]
        with pytest.raises(SpecError, match="positive"):
            store.level("sigma=-1")
        with pytest.raises(SpecError, match="is not understood"):
            store.level("often")


def test_fingerprints_know_nothing_of_it(made, backbone_of, tmp_path):
    """The same levels, asked for natively: the same file but for the note, and it is complete."""
    with FeatureStore(made / "pixel.h5") as store:
        native, known, pictures = store.timesteps, store.fingerprint, store.spec.timesteps
        source = ArraySource("x", tuple(store.ids), store.labels, tuple(store.class_names),
                             np.random.default_rng(0).integers(
                                 0, 256, (24, 32, 32, 3), dtype=np.uint8))  # fmt: skip
    asked = spec("pixel", "up.1", pictures, pool="1x1")
    done = extract_to_file(backbone_of("pixel"), source, asked, made / "pixel.h5", progress=False)
    assert done.status == "already complete"
    extract_to_file(backbone_of("pixel"), source, asked, tmp_path / "n.h5", progress=False)
    with FeatureStore(tmp_path / "n.h5") as store:
        assert (store.timesteps, store.fingerprint) == (native, known)
        with pytest.raises(SpecError, match="not asked for"):
            store.level("sigma=0.3")
    out = merge_files([made / "pixel.h5"], tmp_path / "again.h5", "gzip")
    with FeatureStore(out) as store:
        assert store.level("sigma=0.3").t in native


def test_every_verb_takes_it(made, run, tmp_path):
    file = made / "pixel.h5"
    with FeatureStore(file) as store:
        t = store.level("sigma=0.3").t
        values, ratio = store["up.1", t][:], store.level(t).sigma / store.level(t).alpha
    assert run("export", file, "-o", tmp_path / "f.npz", "-t", "sigma=0.3").code == 0
    with np.load(tmp_path / "f.npz") as found:
        names = [name for name in found if name.startswith("features/")]
        assert names == [f"features/up.1/t{t}"]
        np.testing.assert_array_equal(found[names[0]], values)
    answer = run("search", file, "-t", "sigma=0.3,20", "--json")
    assert {cell["t"] for cell in json.loads(answer.out)["surface"]["cells"]} == {20, t}, answer
    answer = run("align", file, "-t", "snr=10", "--with", f"{file}:up.1@sigma=0.3", "--json")
    assert answer.code == 0, answer.err
    for verb in ("export", "search", "align"):
        more = ("-o", tmp_path / "g.npz") if verb == "export" else ()
        answer = run(verb, file, "-t", "sigma=0.29", *more)
        assert answer.code == 2
        assert f"nearest are t={t}" in answer.err
    told = run("info", file).out
    assert f"asked     sigma=0.3 → t {t}, sigma/alpha {ratio:.4g}" in told
    facts = json.loads(run("info", file, "--json").out)
    assert set(facts["asked"]) == {str(t), str(facts["spec"]["timesteps"][1])}


def test_info_says_native(made, backbone_of, run, tmp_path):
    source = ArraySource("x", ("a",), pixels=np.zeros((1, 32, 36, 3), np.uint8))
    asked = diffeat.ExtractSpec(20, "up.1", pool="1x1", fit="native")
    extract_to_file(backbone_of("pixel"), source, asked, tmp_path / "f.h5", progress=False)
    assert "size=native, fit=native" in run("info", tmp_path / "f.h5").out
