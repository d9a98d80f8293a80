"""A mixer of all cells among the selectors of a search for matching."""

from __future__ import annotations

import json

import numpy as np
import pytest

from diffeat.errors import SpecError
from diffeat.search import TEST, TRAIN, VALIDATION, SearchOptions, run_search, train_mixer
from diffeat.search.journal import Journal
from diffeat.search.kept import keep_mixer
from diffeat.search.matching import Matching, bind
from diffeat.search.matching.task import parts_of
from diffeat.store import FeatureStore
from probes import load
from probes.aggregate import Fusion, HyperfeatureMixer
from probes.matching import NearestMatcher, Paired
from probes.metrics import pck
from tests.search.matching.common import BEST, pairs_of

SPLIT = (0.5, 0.25, 0.25)


@pytest.fixture
def small():
    return HyperfeatureMixer(width=16, size=None, sharpness=10.0, steps=60, epochs=3, patience=3,
                             learning_rate=0.01)  # fmt: skip


@pytest.fixture
def tiny():
    """Where it does not matter what is learned."""
    return HyperfeatureMixer(width=8, size=4, steps=2, epochs=1)


@pytest.fixture
def judge(bound, tiny):
    return Matching(bound, fractions=SPLIT, mixer=tiny)


def test_it_finds_the_cell_that_shows_the_points(bound, small):
    judge = Matching(bound, fractions=SPLIT, mixer=small)
    found = train_mixer(judge)
    assert (found.how, found.best) == ("trained", BEST)
    assert sum(found.weights.values()) == pytest.approx(1)
    same = judge.validate([("a", 50)], judge.part)[0].validation  # which shows nothing
    assert found.validation > same
    assert found.test > judge.floor[0]


def test_its_test_score_is_that_of_its_maps(judge, bound):
    """Counted here point by point, of the mixer as it can be kept."""
    found = train_mixer(judge)
    mixer = judge.fitted_mixer(found.setting, 1 << 30)
    cells, rows = mixer.transform(bound.cells()), np.flatnonzero(judge.part == TEST)
    right = []
    for row in rows:
        pairs = bound.pairs.take([row])
        [matches] = NearestMatcher().match_pairs(cells, pairs)
        box = bound.box(int(row))
        side = max(box[2] - box[0], box[3] - box[1])
        right += pck(matches.points, pairs.target_points[0], side, 0.1).tolist()
    assert found.test == pytest.approx(np.mean(right))


def test_training_pairs_alone_are_learned_from(judge, monkeypatch):
    seen, whole = [], HyperfeatureMixer.fit

    def fit(self, cells, targets, **options):
        held = options["validation"]
        seen.append((set(targets.groups), None if held is None else set(held[1].groups)))
        return whole(self, cells, targets, **options)

    monkeypatch.setattr(HyperfeatureMixer, "fit", fit)
    train_mixer(judge)
    people = {
        number: {name for row in np.flatnonzero(judge.part == number) for name in judge.groups[row]}
        for number in (TRAIN, VALIDATION, TEST)
    }
    named = [{name for pair in pairs for name in pair} for pairs, _ in seen]
    held = {name for pair in seen[0][1] for name in pair}
    assert (named[0], held) == (people[TRAIN], people[VALIDATION])
    assert named[1] == people[TRAIN] | people[VALIDATION]
    assert not people[TEST] & named[1]


def test_selectors_in_one_table(judge):
    report = run_search(judge, SearchOptions(selectors=True, sets=2))
    rows = {one.selector: one for one in report.selections.values()}
    assert set(rows) == {"grid search", "greedy sets", "learned agent", "trained mixer"}
    points = [len(one) for one in judge.bound.pairs.source_points]
    held = sum(points[row] for row in np.flatnonzero(judge.part == VALIDATION))
    known = held + sum(points[row] for row in np.flatnonzero(judge.part == TRAIN))
    assert rows["grid search"].labels == rows["learned agent"].labels == held
    assert rows["trained mixer"].labels == known
    assert (rows["grid search"].forwards, rows["trained mixer"].forwards) == (1, 2)
    text = report.table() if hasattr(report, "table") else "\n".join(report.lines())
    head = next(line for line in text.splitlines() if line.startswith("selector "))
    assert head.split()[-6:] == ["forwards", "labels", "cost", "seconds", "of", "chosen"]
    assert f"{known:,}" in text
    assert report.to_dict()["selectors"][-1]["labels"] == known


def test_without_a_training_part_it_is_said(targets, store, small):
    bound = bind(targets, [store], timesteps=[10], blocks=["b"])
    report = run_search(Matching(bound, mixer=small), SearchOptions(mixer=True))
    assert report.findings["mixer"].how == "searched without a gradient"
    said = "no pairs are in a training part; --split 0.6,0.2,0.2 gives one"
    assert said in "\n".join(report.lines())
    assert said in report.to_dict()["left_out"]
    with pytest.raises(SpecError, match="no trained mixer to keep: no pairs"):
        keep_mixer(Matching(bound, mixer=small), report.findings["mixer"], "m.safetensors", 1 << 30)


def test_finished_work_is_found_again(judge, bound, tiny, tmp_path):
    first = train_mixer(judge, Journal(tmp_path))
    journal = Journal(tmp_path)
    again = train_mixer(Matching(bound, fractions=SPLIT, mixer=tiny), journal)
    assert (journal.found, journal.computed) == (1, 0)
    assert again.to_dict() == first.to_dict()
    journal = Journal(tmp_path)  # another mixer is other work
    other = HyperfeatureMixer(**{**tiny.get_params(), "width": 4})
    train_mixer(Matching(bound, fractions=SPLIT, mixer=other), journal)
    assert journal.computed == 1


def test_a_list_of_test_pairs(bound):
    """The first list is shared between training and validation where that was asked for."""
    names = sorted({name for pair in bound.groups for name in pair})
    late = np.array([a in names[8:] and b in names[8:] for a, b in bound.groups])
    both = [bound.take(~late), bound.take(late)]
    part = parts_of(both, SPLIT)
    assert set(part[: int((~late).sum())]) == {-1, TRAIN, VALIDATION}
    assert (part[-int(late.sum()) :] == TEST).all()
    assert TRAIN not in parts_of(both)


@pytest.mark.filterwarnings("always:.*were trained on targets")
def test_kept_by_the_command_and_applied(diffeat, path, folder, tmp_path, monkeypatch, tiny):
    monkeypatch.setattr("diffeat.search.matching.judge.default_mixer", lambda: tiny)
    kept, pairs = tmp_path / "m.safetensors", ("--pairs", f"{folder}:trn", "--task", "matching")
    split = ("--split", "0.5,0.25,0.25")
    bare = diffeat("search", path, *pairs, "--mixer", "--save", kept)
    assert (bare.code, "no pairs are in a training part" in bare.err) == (2, True)
    answer = diffeat("search", path, *pairs, *split, "--mixer", "--save", kept, "--json")
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)["mixer"]
    mixer = load(kept)
    assert mixer.about_["scores"]["test"] == found["test"]
    applied = diffeat("aggregate", path, "--mixer", kept, "-o", tmp_path / "o.h5")
    assert applied.code == 0, applied.err
    with FeatureStore(path) as store:
        count = len(Matching(bind(pairs_of(folder), [store]), fractions=SPLIT).seen)
    seen = pytest.warns(UserWarning, match=f"were trained on targets of {count} of these pictures")
    with FeatureStore(tmp_path / "o.h5") as store, seen:
        bound = bind(pairs_of(folder), [store])
        part = Matching(bound, fractions=SPLIT).part
        tested = Matching(bound, part).test(("hyperfeatures", 0), None)
        assert Matching(bound, part).settle(tested)[0] == pytest.approx(found["test"], abs=0.02)


def test_a_matcher_of_pairs_gets_no_mixer(bound, small):
    matcher = Paired(NearestMatcher(), Fusion().fit(bound.cells()))
    judge = Matching(bound, fractions=SPLIT, mixer=small, matcher=matcher)
    assert judge.train_mixer(1 << 30) is None
    assert "transforms pairs of cells" in judge.not_trained
