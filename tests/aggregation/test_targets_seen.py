"""Pictures whose targets an aggregator saw are known again, whatever is made of its maps."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest

import diffeat
from diffeat.aggregation import open_sources, trained
from diffeat.errors import SpecError, StoreError
from diffeat.search.matching import Matching, bind
from diffeat.search.splits import LEFT_OUT, TEST
from diffeat.search.stored import targets_seen, task_from_store, warn_of_targets_seen
from diffeat.search.targeted import TargetChoice, targets_of
from diffeat.store import FeatureStore, merge_files
from tests.search.matching.common import pairs_of, write_file

SPLIT = (0.5, 0.25, 0.25)


@pytest.fixture(scope="module")
def kept(folder, path, tmp_path_factory):
    """A mixer of the training and validation pairs, and the ids of their pictures."""
    found = tmp_path_factory.mktemp("mixer") / "m.safetensors"
    with FeatureStore(path) as store:
        sources = open_sources([store])
        learned = trained.from_pairs(sources, f"{folder}:trn", SPLIT)
        made = trained.train("hyperfeatures", learned, width=4, size=2, steps=1, epochs=1,
                             random_state=0)  # fmt: skip
        trained.keep(made, sources, found, learned)
        return found, {sources.ids[row] for row in learned.rows}


def ids_seen(path) -> set[str]:
    with FeatureStore(path) as store:
        return {store.ids[row] for row in np.flatnonzero(targets_seen(store))}


def test_they_are_carried_through_files_that_are_made_of_its_maps(kept, path, other, tmp_path):
    mixer, seen = kept
    made = diffeat.aggregate(path, mixer, tmp_path / "o.h5")
    assert ids_seen(made) == seen
    assert ids_seen(path) == set()
    for name, files in (("first", [made, other]), ("second", [other, made])):
        fused = diffeat.aggregate(files, "fuse", tmp_path / f"{name}.h5")
        assert ids_seen(diffeat.aggregate(fused, "pca:2", tmp_path / f"{name}2.h5")) == seen


def test_they_are_known_in_files_that_are_merged(kept, folder, tmp_path):
    mixer, seen = kept
    for name, rows in (("a", range(10)), ("b", range(10, 24))):
        write_file(tmp_path / f"{name}.h5", folder, rows=rows).close()
        diffeat.aggregate(tmp_path / f"{name}.h5", mixer, tmp_path / f"{name}o.h5")
    merge_files([tmp_path / "ao.h5", tmp_path / "bo.h5"], tmp_path / "both.h5")
    assert ids_seen(tmp_path / "both.h5") == seen


def test_it_is_said_how_many_the_test_has(kept, folder, path, tmp_path):
    mixer, seen = kept
    made = diffeat.aggregate(path, mixer, tmp_path / "o.h5")
    with FeatureStore(made) as store:
        bound = bind(pairs_of(folder), [store])
        same = f"{len(seen)} of these pictures, 0 of which are among the"
        with pytest.warns(UserWarning, match=same) as said:
            Matching(bound, fractions=SPLIT)
        assert "no test" not in str(said[0].message)
        with pytest.warns(UserWarning, match="the score is no test; take") as said:
            judge = Matching(bound, fractions=(0.0, 0.5, 0.5))
        pairs = bound.pairs.take(judge.part == TEST)
        tested = {store.ids[row] for row in {*pairs.source.tolist(), *pairs.target.tolist()}}
        text = f", {len(tested & seen)} of which are among the {len(tested)} of the test"
        assert text in str(said[0].message)
        with pytest.warns(UserWarning, match=f"{len(seen)} of which are among the 24"):
            warn_of_targets_seen([store], np.full(24, TEST))


def test_a_damaged_note(kept, path, tmp_path):
    made = diffeat.aggregate(path, kept[0], tmp_path / "o.h5")
    for note in ("&", 5, "AAAA"):
        with h5py.File(made, "r+") as file:
            how = json.loads(file.attrs["how"])
            how["fitted_on"]["note"] = note
            file.attrs["how"] = json.dumps(how)
        with FeatureStore(made) as store, pytest.raises(StoreError, match="trained on is damaged"):
            targets_seen(store)


def test_pairs_are_parted_as_in_the_file_that_is_made(folder, path, fewer, tmp_path):
    """A small set's parts depend on all of it, so those left out may play no role."""
    with FeatureStore(path) as one, FeatureStore(fewer) as two:
        sources = open_sources([one, two], missing="leave-out")
        learned = trained.from_pairs(sources, f"{folder}:trn", SPLIT, missing="leave-out")
        assert learned.left_out["pictures that not all files have"] > 0
        seen = {sources.ids[row] for row in learned.rows}
        with pytest.raises(SpecError, match=r"pairs of .* name pictures that not all files have"):
            trained.from_pairs(sources, f"{folder}:trn", SPLIT)
    out = diffeat.aggregate([path, fewer], "fuse", tmp_path / "o.h5", missing="leave-out")
    with FeatureStore(out) as store:
        bound = bind(pairs_of(folder), [store], missing="leave-out")
        pairs = bound.pairs.take(Matching(bound, fractions=SPLIT).part == TEST)
        rows = {*pairs.source.tolist(), *pairs.target.tolist()}
    assert rows
    assert not seen & {store_id for row, store_id in enumerate(sources.ids) if row in rows}


@pytest.mark.filterwarnings("ignore:.*rows are of no picture here")
def test_pictures_are_parted_as_in_the_file_that_is_made(path, fewer, tmp_path):
    table = tmp_path / "t.csv"
    rows = [f"thing/{row:02}.jpg,{'ab'[row % 2]},p{row // 2}" for row in range(24)]
    table.write_text("\n".join(["id,label,person", *rows]))
    choice = TargetChoice(table, columns=("label",), groups="person")
    with FeatureStore(path) as one, FeatureStore(fewer) as two:
        sources = open_sources([one, two], missing="leave-out")
        learned = trained.from_labels(sources, "classification", choice, SPLIT)
        out = diffeat.aggregate([one, two], "fuse", tmp_path / "o.h5", missing="leave-out")
    with FeatureStore(out) as store:
        task = task_from_store(store, SPLIT, labels=targets_of([store], "class", choice))
    parts = np.flatnonzero((np.asarray(task.part) != TEST) & (np.asarray(task.part) != LEFT_OUT))
    assert learned.rows.tolist() == parts.tolist()
    assert 0 < learned.counts[2] == 20 - len(parts)


def test_a_second_file_that_was_told_its_targets_is_refused(folder, path, tmp_path):
    spec = {"prompt": "a photo of a {class}"}
    write_file(tmp_path / "g.h5", folder, noise={("c", 0): 2.0}, model="m1", spec=spec).close()
    table = tmp_path / "t.csv"
    table.write_text(
        "\n".join(["id,label", *(f"thing/{r:02}.jpg,{'ab'[r % 2]}" for r in range(24))])
    )
    with FeatureStore(path) as one, FeatureStore(tmp_path / "g.h5") as two:
        sources = open_sources([one, two])
        with pytest.raises(SpecError, match=r"g\.h5: features conditioned on their own targets"):
            trained.from_labels(sources, "classification", TargetChoice(table))
