"""The mixer of Diffusion Hyperfeatures: what it learns, gives, goes on from, and refuses."""

from __future__ import annotations

import os
import signal

import h5py
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.metrics import accuracy_score, average_precision_score, r2_score

import probes
from probes import Cells, Pairs
from probes.aggregate import HyperfeatureMixer
from probes.aggregate.correspondence import matching
from probes.batches import Batches, ShortEpochs
from probes.lazy import Rows
from probes.objectives import CROSS_ENTROPY, huber, pixel_cross_entropy
from tests.probes.interrupted import Stop, same

KEYS = [("a", 1), ("b", 1), ("a", 5), ("b", 5)]
SHAPES = {"a": (8, 6, 6), "b": (12, 3, 3)}
PLANTED = "b", 5
GRID, CELL = 6, 8  # sites along a side, and pixels of one

# planted cells


def mixer(**options) -> HyperfeatureMixer:
    given = {"width": 24, "size": 6, "sharpness": 10, "learning_rate": 2e-3, "random_state": 0,
             "progress": False, "steps": 120, "epochs": 4}  # fmt: skip
    return HyperfeatureMixer(**{**given, **options})


SHORT = {"steps": 12, "epochs": 3, "width": 12}


def noise(count: int) -> dict:
    rng = np.random.default_rng(1)
    return {key: rng.normal(size=(count, *SHAPES[key[0]])).astype(np.float32) for key in KEYS}


def labelled(strength: float, count: int = 120):
    """Maps of which one cell may tell the class."""
    rng, X = np.random.default_rng(0), noise(count)
    y = rng.integers(0, 3, count)
    X[PLANTED] += strength * rng.normal(size=(3, 12, 1, 1))[y]
    return Cells(X), np.array(["cat", "dog", "owl"])[y]


def paired(strength: float, count: int = 30, pairs: int = 40, parts: int = 5):
    """Pictures with parts at random sites, which one cell may show."""
    rng, X = np.random.default_rng(0), noise(count)
    X[PLANTED] = rng.normal(size=(count, 12, GRID, GRID)).astype(np.float32)
    looks = rng.normal(size=(parts, 12))
    where = np.stack([rng.permutation(GRID**2)[:parts] for _ in range(count)])
    for picture, sites in zip(X[PLANTED], where, strict=True):
        picture[:, sites // GRID, sites % GRID] += strength * looks.T
    X["b", 1] = rng.normal(size=X[PLANTED].shape).astype(np.float32)
    points = [np.stack([s % GRID, s // GRID], 1) * CELL + (CELL - 1) / 2 for s in where]
    a, b = rng.integers(0, count, (2, pairs))
    some = [points[i] for i in a], [points[j] for j in b]
    groups = [(f"p{i // 2}", f"p{j // 2}") for i, j in zip(a, b, strict=True)]
    return Cells(X, sizes=[(GRID * CELL,) * 2] * count), Pairs(a, b, *some, groups=groups)


@pytest.fixture(scope="module")
def faces():
    return paired(2.0)


@pytest.fixture(scope="module")
def matched(faces):
    cells, pairs = faces
    return mixer().fit(cells, pairs)


LABELLED = {"steps": None, "epochs": 8, "batch_size": 8}


@pytest.fixture(scope="module")
def classified():
    cells, y = labelled(2.0)
    return mixer(**LABELLED).fit(cells[:80], y[:80], objective="classification")


def test_matching_finds_the_planted_cell(matched, faces):
    assert list(matched.weights_) == KEYS
    assert sum(matched.weights_.values()) == pytest.approx(1)
    assert matched.weights_[PLANTED] > 0.6
    assert matched.score(*faces) > 0.9


def test_classification_finds_it_too(classified):
    cells, y = labelled(2.0)
    assert classified.weights_[PLANTED] > 0.6
    unseen = cells[80:]
    assert classified.score(unseen, y[80:]) == accuracy_score(y[80:], classified.predict(unseen))
    assert classified.score(unseen, y[80:]) > 0.9
    np.testing.assert_allclose(classified.predict_proba(unseen).sum(1), 1, rtol=1e-5)


def test_a_twin_without_signal_does_not_choose_it():
    assert mixer().fit(*paired(0.0)).weights_[PLANTED] < 0.5
    cells, y = labelled(0.0)
    twin = mixer(**LABELLED, patience=8)
    twin.fit(cells[:80], y[:80], objective="classification", validation=(cells[80:], y[80:]))
    assert twin.weights_[PLANTED] < 0.5
    scores = [seen["validation_accuracy"] for seen in twin.history_]
    assert twin.best_epoch_ == 1 + np.argmax(scores)
    assert twin.score(cells[80:], y[80:]) == max(scores)


def test_numbers_and_several_labels():
    cells, names = labelled(3.0, 60)
    options = {"steps": 40, "epochs": 2, "batch_size": 8}
    y = (names == "cat") * 3.0 + 10
    found = mixer(**options).fit(cells, y, objective="regression")
    assert found.predict(cells).shape == y.shape
    assert found.score(cells, y) == pytest.approx(r2_score(y, found.predict(cells)), abs=1e-5)
    assert found.score(cells, y) > 0.5
    few = {"steps": 4, "epochs": 1, "batch_size": 8, "width": 8}
    robust = mixer(**few).fit(cells, np.stack([y, -y], 1), objective=huber(0.5))
    assert robust.objective_ == "regression"
    assert robust.predict(cells).shape == (60, 2)
    several = np.stack([names == "cat", names == "dog"], 1).astype(int)
    found = mixer(**few).fit(cells, several, objective="multilabel")
    scores = found.predict_proba(cells)
    np.testing.assert_array_equal(found.predict(cells), scores > 0.5)
    expected = np.mean(
        [average_precision_score(t, s) for t, s in zip(several.T, scores.T, strict=True)]
    )
    assert found.score(cells, several) == pytest.approx(expected, abs=1e-6)
    np.testing.assert_allclose(
        mixer(**few).fit(cells, names, objective=CROSS_ENTROPY).predict_proba(cells),
        mixer(**few).fit(cells, names, objective="classification").predict_proba(cells),
    )  # fmt: skip


# what comes out


def test_transform_makes_rows_when_they_are_read(matched, faces):
    cells, _ = faces
    mixed = matched.transform(cells)
    assert mixed.keys == (("hyperfeatures", 0.0),)
    np.testing.assert_array_equal(mixed.sizes, cells.sizes)
    arrays = [torch.from_numpy(cells.rows(key)[[7, 2]]) for key in KEYS]
    with torch.no_grad():
        expected = matched.module_.net(*arrays).numpy()
    rows = mixed.rows(mixed.keys[0])
    assert rows.shape == (30, 24, 6, 6)
    np.testing.assert_allclose(rows[[7, 2]], expected, atol=1e-5)
    maps = matched.transform_maps(cells.maps(7))
    np.testing.assert_allclose(maps["hyperfeatures", 0.0], expected[0], atol=1e-5)


def test_maps_of_all_t_count_in_what_is_made_at_a_time(matched, faces, monkeypatch):
    """24 channels of 6² for both t of a block, thrice, beside what goes in and comes out."""
    seen, whole, cells = [], HyperfeatureMixer._apply, faces[0]
    each = 4 * (sum(cells[key][0].size for key in KEYS) + 24 * 36 * (1 + 3 * 2))
    monkeypatch.setattr("probes.aggregate.base.CHUNK_BYTES", 7 * each + 1)
    monkeypatch.setattr(
        HyperfeatureMixer,
        "_apply",
        lambda self, arrays: seen.append(len(arrays[0])) or whole(self, arrays),
    )
    matched.transform(cells)[matched.key][:]
    assert seen == [7, 7, 7, 7, 2]


def test_a_second_fit_forgets_the_first(faces, tmp_path):
    cells, y = labelled(1.0)
    again = mixer(**SHORT).fit(cells, y, objective="classification").fit(*faces)
    probes.save(again, tmp_path / "m.safetensors")
    assert probes.load(tmp_path / "m.safetensors").objective_ == "matching"
    assert not hasattr(again, "classes_")


def test_other_cells_are_refused(matched, faces):
    X = {key: faces[0][key] for key in KEYS}
    with pytest.raises(ValueError, match=r"\('b', 5\)\] are missing; expected"):
        matched.transform({key: X[key] for key in KEYS[:3]})
    with pytest.raises(ValueError, match="expected maps of 12 channels, as in fit"):
        matched.transform({**X, PLANTED: X["a", 1]})
    with pytest.raises(ValueError, match="predicts nothing"):
        matched.predict(X)


@pytest.mark.parametrize("which", ["matched", "classified"])
def test_it_is_kept_and_comes_back(which, faces, request, tmp_path):
    before = request.getfixturevalue(which)
    probes.save(before, tmp_path / "m.safetensors", {"spec": {"seed": 1}})
    after = probes.load(tmp_path / "m.safetensors")
    assert (after.about_, after.weights_) == ({"spec": {"seed": 1}}, before.weights_)
    one, other = (m.transform(faces[0])[m.key][:4] for m in (before, after))
    np.testing.assert_array_equal(one, other)
    assert after.objective_ == before.objective_
    assert after.history_ == before.history_


def test_the_same_every_time(faces):
    one, again = mixer(**SHORT).fit(*faces), clone(mixer(**SHORT)).fit(*faces)
    same(again, one)
    assert mixer(**SHORT, random_state=1).fit(*faces).weights_ != one.weights_
    assert mixer(**SHORT).fit(*faces, objective=matching(0.5)).weights_ != one.weights_


# validation, going on


def test_validation_pairs_share_no_group_with_training(faces):
    cells, pairs = faces
    fitted = mixer(**SHORT).fit(cells, pairs, validation=0.4)
    assert 0 < fitted.left_out_ < len(pairs)
    assert {"validation_loss", "validation_pck"} <= fitted.history_[0].keys()
    given = mixer(**SHORT, patience=1).fit(cells, pairs, validation=(cells, pairs))
    assert given.left_out_ == 0
    best = max(seen["validation_pck"] for seen in given.history_)
    assert given.score(cells, pairs) == pytest.approx(best)


def test_groups_of_pictures():
    cells, y = labelled(0.0)
    groups = np.arange(120) // 6
    options = {"steps": 4, "epochs": 1, "batch_size": 4}
    seen = []

    class Noted(Batches):
        def __init__(self, parts, targets, rows, *rest):
            seen.append(set(groups[rows].tolist()))
            super().__init__(parts, targets, rows, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("probes.aggregate.hyperfeatures.Batches", Noted)
        how = {"objective": "classification", "validation": 0.25, "groups": groups}
        mixer(**options).fit(cells, y, **how)
    held, trained = seen
    assert held | trained == set(range(20))
    assert not held & trained
    assert len(held) == 5


def test_it_goes_on_to_the_same_bits(faces, tmp_path):
    cells, pairs = faces
    whole = mixer(**SHORT).fit(cells, pairs, validation=0.4)
    stopped = mixer(**SHORT, checkpoint=tmp_path, progress=Stop(6))
    with pytest.raises(KeyboardInterrupt):
        stopped.fit(cells, pairs, validation=0.4)
    rest = Stop(1000)
    found = mixer(**SHORT, checkpoint=tmp_path, progress=rest).fit(cells, pairs, validation=0.4)
    assert rest.total == 12
    assert rest.rows == 1000 - 8  # the first four were kept
    same(found, whole)
    with pytest.raises(ValueError, match=r"size was \[6, 6\], is \[5, 5\]"):
        mixer(**SHORT, size=5, checkpoint=tmp_path).fit(cells, pairs, validation=0.4)
    with pytest.raises(ValueError, match="targets was"):
        mixer(**SHORT, checkpoint=tmp_path).fit(cells, pairs.take(slice(1, None)), validation=0.4)


def die(path):
    torch.set_num_threads(1)
    deadly = Stop(6, lambda: os.kill(os.getpid(), signal.SIGKILL))
    mixer(**SHORT, checkpoint=path, progress=deadly).fit(*paired(2.0))


@pytest.mark.slow  # an error in the same place leaves the same, and starts no process
def test_a_real_kill(faces, tmp_path, server):
    process = server.Process(target=die, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    rest = Stop(1000)
    found = mixer(**SHORT, checkpoint=tmp_path, progress=rest).fit(*faces)
    assert rest.rows == 1000 - 8
    same(found, mixer(**SHORT).fit(*faces))


def test_steps_cut_passes_short_or_join_several():
    def data(count):
        rows = Rows(np.arange(count, dtype=np.float32)[:, None])
        return Batches([rows], np.arange(count), np.arange(count), 2, 1 << 20, torch.device("cpu"))

    for count, steps, rows in ((9, 3, 6), (9, 5, 9), (9, 7, 13), (4, 5, 10)):
        short = ShortEpochs(data(count), steps)
        batches = [y.tolist() for _, y in short.shuffled(np.random.default_rng(0))]
        assert (len(batches), len(short)) == (steps, rows)
        seen = np.bincount(np.concatenate(batches), minlength=count)
        assert seen.sum() == rows
        assert np.ptp(seen) <= 1  # passes are whole before a row comes again


def test_a_file_is_as_good_as_memory(faces, tmp_path):
    cells, pairs = faces
    with h5py.File(tmp_path / "f.h5", "w") as file:
        for key in KEYS:
            file[str(key)] = cells[key]
        lazy = Cells({key: file[str(key)] for key in KEYS}, sizes=cells.sizes)
        found = mixer(**SHORT, memory_mb=0.01).fit(lazy, pairs)
    same(found, mixer(**SHORT).fit(cells, pairs))


# what it refuses


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 2}, "width=2; expected a number >= 4"),
        ({"size": 0}, "size=0"),
        ({"steps": 0}, "steps=0"),
        ({"sharpness": 0}, "sharpness=0"),
        ({"patience": 2}, "without validation rows"),
        ({"augment": probes.training.mirror}, "not the key points"),
        ({"learning_rate": 1e30}, "the loss became"),
    ],
)
def test_parameters(options, message, faces):
    with pytest.raises(ValueError, match=message):
        mixer(**options).fit(*faces)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"objective": "panoptic"}, "expected one of matching, classification"),
        ({"objective": pixel_cross_entropy(3)}, r"expected \(H, W\) whole numbers"),
        ({"objective": "matching"}, "expected probes.Pairs for matching"),
        ({"validation": 1.5}, r"expected a number in \[0, 1\)"),
        ({"validation": (1,)}, "1 members"),
        ({"targets": None}, "requires y"),
        ({"targets": np.zeros(120)}, "one class only"),
        ({"targets": np.arange(70) % 3}, "inconsistent numbers"),
        ({"groups": np.arange(7), "validation": 0.2}, "inconsistent numbers"),
    ],
)
def test_targets(how, message):
    cells, y = labelled(1.0)
    how = {"targets": y, "objective": "classification", **how}
    with pytest.raises(ValueError, match=message):
        mixer().fit(cells, **how)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda X: X["a", 1], "expected probes.Cells"),
        (lambda X: {**X, ("c", 1): np.zeros((120, 3))}, "expected maps"),
        (lambda X: {**X, ("a", 9): np.zeros((120, 5, 2, 2))}, r"block a has \[5, 8\] channels"),
    ],
)
def test_cells(change, message):
    cells, y = labelled(1.0)
    with pytest.raises(ValueError, match=message):
        mixer().fit(change({key: cells[key] for key in KEYS}), y, objective="classification")
