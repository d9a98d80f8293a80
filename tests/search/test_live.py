"""A search straight from the backbone: the features of `diffeat extract`, bit for bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import diffeat
from diffeat.errors import SpecError
from diffeat.images import ArraySource
from diffeat.search import (
    Classification,
    LiveFeatures,
    frequency_guess,
    live_frequency,
    live_task,
    search_surface,
    task_from_store,
)
from tests.pipelines import WITH_VAE

COUNT = 22


def source_of(count: int = COUNT, name: str = "made", seed: int = 0, labels=True) -> ArraySource:
    rng = np.random.default_rng(seed)
    y = np.arange(count) % 2
    pixels = (rng.random((count, 16, 16, 3)) * 120 + 100 * y[:, None, None, None]).astype(np.uint8)
    ids = tuple(f"{name}-{k}" for k in range(count))
    return ArraySource(name, ids, y if labels else None, ("0", "1") if labels else (), pixels)


@pytest.fixture
def backbone(backbone_of):
    return backbone_of(NAME)


NAME = sorted(WITH_VAE)[0]


@pytest.fixture
def spec(backbone):
    blocks = tuple(block.name for block in backbone.blocks)[-3:]
    return diffeat.ExtractSpec((700, 30, 250), blocks, pool="1x1")


def stored(backbone, source, spec, path, batch_size=4):
    diffeat.extract_to_file(backbone, source, spec, path, batch_size=batch_size, progress=False)
    return diffeat.FeatureStore(path)


def live(backbone, source, spec, **options) -> LiveFeatures:
    options = {"batch_size": 4, "progress": False, **options}
    return LiveFeatures(backbone, [source], spec, **options)


def test_features_labels_and_parts_are_those_of_a_file(backbone, spec, tmp_path):
    source = source_of()
    task = live_task(live(backbone, source, spec), (0.5, 0.3, 0.2), 1)
    with stored(backbone, source, spec, tmp_path / "a.h5") as store:
        other = task_from_store(store, (0.5, 0.3, 0.2), 1)
        assert task.cells == other.cells
        np.testing.assert_array_equal(task.labels, other.labels)
        np.testing.assert_array_equal(task.part, other.part)
        assert task.ids == other.ids
        for cell in task.cells:
            found, expected = np.asarray(task.read(*cell)), store[cell][:]
            assert found.dtype == expected.dtype
            assert task.shape(cell) == expected.shape
            np.testing.assert_array_equal(found, expected)
        assert (
            search_surface(Classification(task, "knn")).cells
            == search_surface(Classification(other, "knn")).cells
        )


def test_groups_of_t_are_those_of_files_with_these_t(backbone, spec, tmp_path):
    source = source_of()
    whole = live(backbone, source, spec)
    assert whole.groups == [[30, 250, 700]]
    two = 2 * COUNT * 2 * sum(whole.widths.values())
    features = live(backbone, source, spec, memory=two)
    assert features.groups == [[30, 250], [700]]
    task = live_task(features)
    surface = search_surface(Classification(task, "knn"))
    assert features.computed == 2  # one pass for each group, test scores included
    assert {cell.t for cell in surface.cells if cell.test is not None} == {30, 250, 700}
    for group in features.groups:
        some = replace(spec, timesteps=tuple(group))
        with stored(backbone, source, some, tmp_path / f"{group[0]}.h5") as store:
            for block in store.blocks:
                for t in group:
                    np.testing.assert_array_equal(
                        np.asarray(task.read(block, t)), store[block, t][:]
                    )


def test_no_more_than_a_group_is_held(backbone, spec):
    one = COUNT * 2 * sum(live(backbone, source_of(), spec).widths.values())
    features = live(backbone, source_of(), spec, memory=one)
    for t in (30, 250, 30):
        for block in features.widths:
            features.read(block, t)
        assert sum(values.nbytes for values in features._held.values()) <= one
    assert features.computed == 3


def test_one_forward_per_batch_serves_all_blocks_and_t(backbone, spec, monkeypatch):
    rows, encoded = [], []
    denoiser, vae = backbone.denoiser, backbone.vae
    handle = denoiser.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(len((args or tuple(kwargs.values()))[0])),
        with_kwargs=True,
    )
    encode = type(vae).encode

    def counted(self, x, *args, **options):
        encoded.append(len(x))
        return encode(self, x, *args, **options)

    monkeypatch.setattr(type(vae), "encode", counted)
    try:
        search_surface(Classification(live_task(live(backbone, source_of(), spec)), "knn"))
    finally:
        handle.remove()
    assert sum(rows) == COUNT * 3
    assert sum(encoded) == COUNT


def test_a_test_source_of_its_own(backbone, spec):
    train, test = source_of(), source_of(8, "test", 1)
    features = LiveFeatures(backbone, [train, test], spec, batch_size=4, progress=False)
    task = live_task(features)
    assert task.counts[2] == 8
    alone = live(backbone, test, spec)
    cell = task.cells[0]
    np.testing.assert_array_equal(np.asarray(task.read(*cell))[COUNT:], alone.read(*cell))


def test_frequencies_are_those_of_stored_maps(backbone, spec, tmp_path):
    source, maps = source_of(), replace(spec, pool="none")
    guess = live_frequency(backbone, source, spec, batch_size=4)
    with stored(backbone, source, maps, tmp_path / "a.h5") as store:
        expected = frequency_guess(store, guess.ratios)
    assert guess.pictures == expected.pictures == COUNT
    assert guess.ratios == pytest.approx(expected.ratios, rel=1e-12)
    assert list(guess.ratios) == [(b, t) for b in store.spec.blocks for t in (30, 250, 700)]


def test_frequencies_of_some_rows(backbone, spec):
    source = source_of()
    guess = live_frequency(backbone, source, spec, batch_size=4, rows=np.array([1, 2, 5]))
    assert guess.pictures == 3
    alone = live_frequency(backbone, source.take([1, 2, 5]), spec, batch_size=4)
    assert guess.ratios == pytest.approx(alone.ratios, rel=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda b, s: live(b, source_of(), replace(s, pool="none")), r"must be pooled"),
        (lambda b, s: live(b, source_of(), replace(s, dtype="int8")), r"dtype=int8"),
        (lambda b, s: live(b, source_of(), s, memory=10), r"at one t take .*--memory"),
        (lambda b, s: live_task(live(b, source_of(labels=False), s)), r"made has no labels"),
        (
            lambda b, s: live_task(LiveFeatures(b, [source_of(), source_of(name="x")], s)),
            r"hold the same pictures",
        ),
    ],
)
def test_what_cannot_be_searched(backbone, spec, make, message):
    with pytest.raises(SpecError, match=message):
        make(backbone, spec)
