"""The high-frequency ratio against whole spectra and waves whose place is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from diffeat.errors import NumericsError, SpecError
from diffeat.search import FrequencyGuess, frequency_guess, high_frequency_ratio
from diffeat.search.frequency import spread
from tests.search.common import arrays_of, labels_of, write_store


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (6, 11), (1, 8), (5, 1), (2, 2)])
@pytest.mark.parametrize("cutoff", [0.0, 0.3, 0.5, 1.1])
def test_it_is_the_share_of_the_whole_spectrum(size, cutoff):
    maps = np.random.default_rng(0).normal(size=(3, 4, *size))
    energy = np.abs(np.fft.fft2(maps)) ** 2
    y, x = np.meshgrid(np.fft.fftfreq(size[0]), np.fft.fftfreq(size[1]), indexing="ij")
    high = np.sqrt(y**2 + x**2) / 0.5 > cutoff
    expected = (energy[..., high].sum(-1) / energy.sum((2, 3))).mean(1)
    np.testing.assert_allclose(high_frequency_ratio(maps, cutoff), expected, rtol=1e-12)


@pytest.mark.parametrize(("waves", "expected"), [(1, 0.0), (3, 0.0), (5, 1.0), (8, 1.0)])
def test_a_wave_lies_on_one_side(waves, expected):
    # k waves over 16 cells have the frequency k/8 Nyquist
    wave = np.cos(2 * np.pi * waves * np.arange(16) / 16) + np.zeros((1, 1, 16, 1))
    for maps in (wave, wave.swapaxes(2, 3)):
        assert high_frequency_ratio(maps, 0.5) == pytest.approx(expected, abs=1e-12)


def test_white_noise_has_the_share_of_the_area():
    maps = np.random.default_rng(0).normal(size=(20, 8, 32, 32)).astype("float16")
    y, x = np.meshgrid(np.fft.fftfreq(32), np.fft.fftfreq(32))
    area = (2 * np.hypot(y, x) > 0.5).mean()
    assert high_frequency_ratio(maps).mean() == pytest.approx(area, abs=0.01)


def test_constants_and_zeros_have_none():
    np.testing.assert_array_equal(high_frequency_ratio(np.full((2, 3, 4, 4), 7.0)), 0)
    np.testing.assert_array_equal(high_frequency_ratio(np.zeros((2, 3, 4, 4))), 0)
    np.testing.assert_array_equal(high_frequency_ratio(np.ones((2, 3, 1, 1))), 0)


@pytest.mark.parametrize("cutoff", [-0.1, 1.5])
def test_cutoffs_that_mean_nothing(cutoff):
    with pytest.raises(SpecError, match="at least 0 and less than"):
        high_frequency_ratio(np.ones((1, 1, 4, 4)), cutoff)


@pytest.mark.parametrize(("total", "count"), [(100, 100), (100, 500), (1000, 64), (50, 3), (9, 8)])
def test_pictures_are_spread(total, count):
    rows = [row for run in spread(total, count) for row in range(*run)]
    assert len(set(rows)) == len(rows) == min(total, count)
    assert 0 <= min(rows) <= max(rows) < total
    if 8 < count < total:
        assert max(rows) == total - 1


def noise_maps(count: int = 40):
    """Fine detail grows with t in block a, and falls in block b."""
    rng = np.random.default_rng(3)
    smooth = rng.normal(size=(count, 2, 1, 1)) + np.zeros((count, 2, 8, 8))
    fine = rng.normal(size=(count, 2, 8, 8))
    share = {
        ("a", 1): 0.1,
        ("a", 2): 0.4,
        ("a", 3): 0.9,
        ("b", 1): 0.8,
        ("b", 2): 0.5,
        ("b", 3): 0.2,
    }
    return {cell: smooth + value * fine for cell, value in share.items()}


class TestGuess:
    def test_of_stored_maps(self, tmp_path):
        arrays = noise_maps()
        with write_store(tmp_path / "a.h5", arrays, labels_of(40)) as store:
            guess = frequency_guess(store, arrays)
        assert guess.best == ("a", 3)
        assert guess.pictures == 40
        stored = arrays["b", 2].astype("float16")
        assert guess.ratios["b", 2] == pytest.approx(high_frequency_ratio(stored).mean())

    def test_only_the_rows_that_may_be_seen(self):
        arrays = noise_maps()
        seen = np.array([0, 3, 4, 21, 38])
        guess = frequency_guess(arrays, arrays, rows=seen)
        assert guess.pictures == 5
        for cell, maps in arrays.items():
            assert guess.ratios[cell] == pytest.approx(high_frequency_ratio(maps[seen]).mean())
        others = {cell: np.where(np.isin(np.arange(40), seen)[:, None, None, None], maps, np.nan)
                  for cell, maps in arrays.items()}  # fmt: skip
        assert frequency_guess(others, others, rows=seen).ratios == guess.ratios

    def test_rank_correlation(self):
        ratios = {("a", 1): 0.1, ("a", 2): 0.3, ("a", 3): 0.2, ("b", 1): 0.9}
        scores = {("a", 1): 0.5, ("a", 2): 0.6, ("a", 3): 0.7, ("b", 1): 0.4}
        guess = FrequencyGuess(ratios, 0.5, 10).compare(scores)
        expected = stats.spearmanr(list(ratios.values()), list(scores.values())).statistic
        assert guess.rank_correlation == pytest.approx(expected)
        assert guess.by_block == {"a": pytest.approx(0.5), "b": None}

    def test_where_nothing_varies_there_is_no_rank(self):
        ratios = dict.fromkeys([("a", 1), ("a", 2), ("a", 3)], 0.5)
        assert FrequencyGuess(ratios, 0.5, 1).compare(ratios).rank_correlation is None

    def test_vectors_have_no_frequencies(self, tmp_path):
        arrays = arrays_of(labels_of(40))
        with (
            write_store(tmp_path / "a.h5", arrays, labels_of(40)) as store,
            pytest.raises(SpecError, match=r"'a' at t=10 holds vectors.*--pool none"),
        ):
            frequency_guess(store, arrays)

    def test_maps_that_are_not_finite(self):
        arrays = noise_maps()
        arrays["a", 2][5, 0, 0, 0] = np.nan
        with pytest.raises(NumericsError, match="'a' at t=2 contain nan or inf"):
            frequency_guess(arrays, arrays)
