"""Label-free numbers against pairs and matrices written out, SciPy, and planted structure."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage, stats
from scipy.spatial import distance as apart
from sklearn.metrics.pairwise import cosine_similarity

from probes.metrics.label_free import (
    EffectiveRank,
    MassiveEnergy,
    NoiseAgreement,
    default_radii,
    effective_rank,
    local_distant_similarity,
    massive_share,
    noise_agreement,
)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


class TestLocalDistantSimilarity:
    @pytest.mark.parametrize("size", [(5, 7), (8, 8), (1, 6)])
    @pytest.mark.parametrize(("near", "far"), [(1, 3), (2, 4)])
    @pytest.mark.parametrize("name", ["manhattan", "chebyshev"])
    def test_it_is_a_mean_over_pairs(self, size, near, far, name):
        maps = noise(2, 3, *size) + 0.5
        sites = np.stack(np.mgrid[: size[0], : size[1]], -1).reshape(-1, 2)
        d = apart.cdist(sites, sites, {"manhattan": "cityblock"}.get(name, name))
        found = local_distant_similarity(maps, near, far, name)
        for one, value in zip(maps, found, strict=True):
            alike = cosine_similarity(one.reshape(3, -1).T)
            expected = alike[(d >= 1) & (d <= near)].mean() - alike[d >= far].mean()
            assert value == pytest.approx(expected, abs=1e-12)

    def test_noise_has_none_and_smooth_maps_have_more_than_rough_ones(self):
        white = noise(16, 24, 16, 16)
        assert local_distant_similarity(white).mean() == pytest.approx(0, abs=0.01)
        rough, smooth = (ndimage.gaussian_filter(white, (0, 0, s, s)) for s in (1, 3))
        means = [local_distant_similarity(one).mean() for one in (white, rough, smooth)]
        assert means == sorted(means)
        assert means[2] > means[1] + 0.03

    def test_constants_and_zeros_have_none(self):
        np.testing.assert_allclose(local_distant_similarity(np.ones((2, 3, 8, 8))), 0, atol=1e-12)
        np.testing.assert_array_equal(local_distant_similarity(np.zeros((1, 3, 8, 8))), 0)

    def test_radii_are_shares_of_the_side(self):
        assert default_radii(16, 16) == (1, 6)
        assert default_radii(48, 32) == (3, 18)
        assert default_radii(4, 4) == (1, 2)

    def test_half_precision_is_counted_in_double(self):
        maps = noise(2, 4, 8, 8).astype(np.float16)
        np.testing.assert_array_equal(
            local_distant_similarity(maps), local_distant_similarity(maps.astype(np.float64))
        )

    @pytest.mark.parametrize(
        ("maps", "how", "message"),
        [
            (np.ones((3, 4)), {}, r"shape \(3, 4\)"),
            (np.full((1, 2, 4, 4), np.nan), {}, "nan or inf"),
            (np.ones((1, 2, 4, 4)), {"near": 3, "far": 2}, "near=3, far=2"),
            (np.ones((1, 2, 4, 4)), {"far": 9}, "no two that far apart"),
            (np.ones((1, 2, 1, 1)), {}, "1×1 sites"),
            (np.ones((1, 2, 4, 4)), {"distance": "euclid"}, "distance"),
        ],
    )
    def test_what_cannot_be_meant(self, maps, how, message):
        with pytest.raises(ValueError, match=message):
            local_distant_similarity(maps, **how)


class TestEffectiveRank:
    def test_it_is_the_entropy_of_singular_values(self):
        X = noise(60, 7) * np.arange(1, 8) + 3
        s = np.linalg.svd(X - X.mean(0), compute_uv=False)
        assert effective_rank(X) == pytest.approx(np.exp(stats.entropy(s / s.sum())), rel=1e-9)
        s = np.linalg.svd(X, compute_uv=False)
        expected = np.exp(stats.entropy(s / s.sum()))
        assert effective_rank(X, centred=False) == pytest.approx(expected, rel=1e-9)

    @pytest.mark.parametrize("rank", [1, 3, 9])
    def test_planted_directions_are_counted(self, rank):
        axes = np.linalg.qr(noise(20, rank))[0]
        maps = np.einsum("nrhw,cr->nchw", noise(30, rank, 6, 6, seed=1), axes) + 5
        assert effective_rank(maps) == pytest.approx(rank, rel=0.02)
        assert effective_rank(1e3 * maps) == pytest.approx(effective_rank(maps))

    def test_sites_or_pictures(self):
        maps = noise(40, 5, 3, 3) * np.arange(1, 6)[:, None, None]
        rows = maps.transpose(0, 2, 3, 1).reshape(-1, 5)
        assert effective_rank(maps) == pytest.approx(effective_rank(rows))
        means = maps.mean((2, 3))
        assert effective_rank(maps, "pictures") == pytest.approx(effective_rank(means))

    def test_streamed_it_is_the_same(self):
        maps = noise(10, 6, 4, 4).astype(np.float32) + 100
        streamed = EffectiveRank()
        for start, stop in ((0, 1), (1, 4), (4, 4), (4, 10)):
            streamed.update(maps[start:stop])
        assert streamed.compute() == pytest.approx(effective_rank(maps), rel=1e-9)
        assert streamed.count == 160

    def test_what_does_not_vary_has_none(self):
        assert effective_rank(np.full((5, 3), 7.0)) == 0
        assert effective_rank(np.full((5, 3, 2, 2), 1 / 3, np.float32)) == 0

    def test_what_cannot_be_meant(self):
        with pytest.raises(ValueError, match="nothing was counted"):
            EffectiveRank().compute()
        with pytest.raises(ValueError, match="over"):
            effective_rank(noise(3, 2), "rows")
        with pytest.raises(ValueError, match="3 channels, those before 2"):
            EffectiveRank().update(noise(3, 2)).update(noise(3, 3))
        with pytest.raises(ValueError, match=r"expected \(N, C, H, W\) or \(N, C\)"):
            effective_rank(noise(3, 2, 2))


class TestMassiveShare:
    def test_a_planted_channel_is_found(self):
        maps = noise(6, 20, 5, 5)
        maps[:, 7] = 300 * np.sign(maps[:, 7])
        found = massive_share(maps)
        assert found.places == (7,)
        assert found.channels == pytest.approx(1 / 20)
        energy = (maps**2).sum((0, 2, 3))
        assert found.energy == pytest.approx(energy[7] / energy.sum())
        assert found.largest == found.energy > 0.99

    def test_without_one_there_is_no_share(self):
        found = massive_share(noise(50, 20))
        assert (found.energy, found.channels, found.places) == (0, 0, ())
        assert found.largest == pytest.approx(1 / 20, rel=0.6)
        assert massive_share(np.zeros((2, 3))).energy == 0

    def test_the_rule_is_that_of_the_median(self):
        X = np.array([[1.0, 1.0, 1.0, 3.0, -5.0]])
        assert massive_share(X, 2).places == (4, 3)
        assert massive_share(X, 2).energy == pytest.approx(34 / 37)
        assert massive_share(X, 4).places == (4,)
        assert massive_share(X, 5).places == ()

    def test_streamed_it_is_the_same(self):
        maps = noise(9, 8, 3, 3)
        maps[:, 2] *= 40
        streamed = MassiveEnergy().update(maps[:2]).update(maps[2:])
        whole = massive_share(maps)
        assert streamed.compute().energy == pytest.approx(whole.energy)
        assert streamed.compute().places == whole.places == (2,)

    def test_what_cannot_be_meant(self):
        with pytest.raises(ValueError, match="ratio=1"):
            massive_share(noise(3, 2), 1)
        with pytest.raises(ValueError, match="nothing was counted"):
            MassiveEnergy().compute()


class TestNoiseAgreement:
    def test_it_is_a_mean_over_pairs(self):
        first, second = noise(5, 4, 3, 2) + 0.3, noise(5, 4, 3, 2, seed=1) + 0.3
        found = noise_agreement(first, second)
        same, other = [], []
        for y in range(3):
            for x in range(2):
                alike = cosine_similarity(first[:, :, y, x], second[:, :, y, x])
                same += np.diag(alike).tolist()
                other += alike[~np.eye(5, dtype=bool)].tolist()
        assert found.same == pytest.approx(np.mean(same))
        assert found.other == pytest.approx(np.mean(other))
        assert found.above == pytest.approx(np.mean(same) - np.mean(other))

    def test_without_noise_it_is_one(self):
        maps = noise(40, 30, 4, 4)
        found = noise_agreement(maps, maps)
        assert found.same == pytest.approx(1)
        assert found.other == pytest.approx(0, abs=0.02)

    def test_constants_do_not_look_good(self):
        where = noise(1, 6, 4, 4).repeat(8, 0)  # a place, whatever the picture
        found = noise_agreement(where, where)
        assert found.same == pytest.approx(1)
        assert found.above == pytest.approx(0, abs=1e-12)
        assert noise_agreement(np.zeros((3, 2)), np.zeros((3, 2))).above == 0

    def test_more_noise_agrees_less(self):
        maps = noise(20, 16, 4, 4)
        found = [noise_agreement(maps + s * noise(*maps.shape, seed=1),
                                 maps + s * noise(*maps.shape, seed=2)).above
                 for s in (0.1, 1.0, 5.0)]  # fmt: skip
        assert found == sorted(found, reverse=True)
        assert found[1] == pytest.approx(0.5, abs=0.05)  # signal/(signal + noise)

    def test_streamed_it_is_the_same(self):
        first, second = noise(7, 4, 3, 3), noise(7, 4, 3, 3, seed=1)
        streamed = NoiseAgreement()
        for part in (slice(0, 1), slice(1, 5), slice(5, 7)):
            streamed.update(first[part], second[part])
        whole = noise_agreement(first, second)
        assert streamed.compute().same == pytest.approx(whole.same)
        assert streamed.compute().other == pytest.approx(whole.other)

    def test_what_cannot_be_meant(self):
        with pytest.raises(ValueError, match="1 pictures"):
            noise_agreement(noise(1, 2), noise(1, 2))
        with pytest.raises(ValueError, match="expected the same"):
            noise_agreement(noise(3, 2), noise(4, 2))
        with pytest.raises(ValueError, match="second has nan"):
            noise_agreement(noise(3, 2), np.full((3, 2), np.inf))
