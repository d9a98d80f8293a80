"""Ranges of noise levels, against Python's own and numpy's."""

import numpy as np
import pytest

from diffeat.errors import SpecError
from diffeat.ranges import MOST, expand_ranges
from diffeat.specs import ExtractSpec


def spec(*timesteps):
    return ExtractSpec(timesteps, ("mid",))


def test_whole_numbers_are_those_of_python():
    rng = np.random.default_rng(0)
    kinds = set()
    for start, stop, step in rng.integers(-2000, 2001, (500, 3)) // [1, 1, 40]:
        wanted, text = range(start, stop, step or 7), f"{start}:{stop}:{step or 7}"
        kinds.add(0 if not wanted else 2 if len(wanted) > MOST else 1)
        if 0 < len(wanted) <= MOST:
            assert expand_ranges([text]) == tuple(wanted)
        else:
            with pytest.raises(SpecError, match=f"{len(wanted):,} noise" if wanted else "empty"):
                expand_ranges([text])
    assert kinds == {0, 1, 2}


@pytest.mark.parametrize("step", ["0.1", "0.05", ".125", "1e-2", "0.3"])
def test_fractions_are_those_that_are_typed(step):
    found = expand_ranges([f"0:1:{step}"])
    assert found == tuple(round(k * float(step), 10) for k in range(len(found)))
    np.testing.assert_allclose(found, np.arange(0, 1, float(step)), atol=1e-12)
    assert all(type(value) is float for value in found)


def test_a_range_stands_among_other_levels():
    levels = ("20", "100:500:100", "sigma=0.3", 7, 0.25)
    assert spec(*levels).timesteps == ("20", 100, 200, 300, 400, "sigma=0.3", 7, 0.25)


def test_without_a_step_it_is_one():
    assert expand_ranges(["3:6"]) == (3, 4, 5)
    assert len(expand_ranges(["0:1000"])) == 1000


def test_the_fingerprint_is_that_of_the_plain_numbers():
    asked = ExtractSpec("0:1000:100", ("mid",))
    assert asked == spec(*range(0, 1000, 100))
    assert asked.fingerprint == spec(*range(0, 1000, 100)).fingerprint
    assert ExtractSpec.from_json(asked.to_json()) == asked
    assert ":" not in asked.to_json().partition('"timesteps"')[2].partition("]")[0][2:]


def test_a_file_may_hold_one(tmp_path):
    (tmp_path / "s.toml").write_text('timesteps = ["0:40:20", 100]\nblocks = ["mid"]\n')
    assert ExtractSpec.from_file(tmp_path / "s.toml").timesteps == (0, 20, 100)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("0:1000000", "1,000,000 noise levels"),
        ("0:10:0", "step of 0"),
        ("10:0", "empty range"),
        ("0:1:0.0001", "10,000 noise levels"),
        ("0:0.5", "no step"),
        ("a:b", "is no range"),
        ("0:10:1:2", "is no range"),
        (":10", "is no range"),
        ("sigma=0.1:1:0.1", "is no range"),
        ("0:1e9999:1", "noise levels"),
        ("0:1e999999999:1", "beyond all numbers"),
    ],
)
def test_what_cannot_be_meant(text, why):
    with pytest.raises(SpecError, match=why):
        spec(text)
