"""A head knows the pictures that it was fitted on by what they hold."""

from __future__ import annotations

import base64

import numpy as np
import pytest

from diffeat.search import fitted_on
from diffeat.search.fitted_on import Known, known_among, noted, read_note


def digests(start: int, stop: int) -> np.ndarray:
    rng = np.random.default_rng(7)
    return rng.integers(0, 256, (1000, 16), np.uint8)[start:stop]


def test_few_are_counted_one_by_one():
    note = read_note(noted(digests(0, 100)))
    assert known_among(note, digests(60, 150)) == Known(40, 90, False)
    assert known_among(note, digests(500, 600)) == Known(0, 100, False)
    assert known_among(note, digests(0, 0)) == Known(0, 0, False)
    plain = sorted(int.from_bytes(row[:8].tobytes(), "little") for row in digests(0, 100))
    assert note.tolist() == plain


def test_of_many_a_sample_is_compared(monkeypatch):
    monkeypatch.setattr(fitted_on, "MOST", 200)
    text = noted(digests(0, 800))
    assert len(base64.b64decode(text)) == 200 * 8
    count, compared, sampled = known_among(read_note(text), digests(400, 1000))
    assert sampled
    assert 100 < compared < 200  # a quarter of 600
    assert count / compared == pytest.approx(400 / 600, abs=0.15)


@pytest.mark.parametrize("text", ["a", "%%", 3, None, "AAAA"])
def test_what_is_no_note(text):
    with pytest.raises((ValueError, TypeError)):
        read_note(text)
