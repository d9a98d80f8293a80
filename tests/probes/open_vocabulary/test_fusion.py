"""Two opinions as one, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from probes.open_vocabulary.fusion import (
    class_weights,
    geometric_mean,
    seen_classes,
    with_nothing,
)


class TestGeometricMean:
    def test_by_hand(self):
        """Weights ½ and 0: √(.04·.49) = .14 and .96; of 1.1 they are .1273 and .8727."""
        a, b, w = [[0.04, 0.96]], [[0.49, 0.51]], [0.5, 0.0]
        np.testing.assert_allclose(geometric_mean(a, b, w, renormalise=False), [[0.14, 0.96]])
        np.testing.assert_allclose(geometric_mean(a, b, w), [[0.14 / 1.1, 0.96 / 1.1]])

    def test_a_weight_of_zero_or_one_is_one_opinion(self):
        a, b = [[0.2, 0.8], [1.0, 0.0]], [[0.0, 1.0], [0.5, 0.5]]
        np.testing.assert_allclose(geometric_mean(a, b, 0.0), a)
        np.testing.assert_allclose(geometric_mean(a, b, 1.0), b)

    def test_tiny_numbers_do_not_vanish_where_rows_are_normalised(self):
        found = geometric_mean([[1e-300, 2e-300]], [[1e-300, 2e-300]], [0.5, 0.5])
        np.testing.assert_allclose(found, [[1 / 3, 2 / 3]])

    def test_what_both_call_impossible_stays_zero(self):
        assert geometric_mean([[1.0, 0.0]], [[0.0, 1.0]], 0.5).tolist() == [[0.0, 0.0]]

    def test_none(self):
        assert geometric_mean(np.zeros((0, 3)), np.zeros((0, 3)), 0.5).shape == (0, 3)

    @pytest.mark.parametrize(
        ("a", "b", "weights", "message"),
        [
            ([[0.5]], [[0.5, 0.5]], 0.5, "have shapes"),
            ([[0.5, 0.5]], [[0.5, 0.5]], [0.5], "one weight or K"),
            ([[0.5, 1.5]], [[0.5, 0.5]], 0.5, "a go from"),
            ([[0.5, 0.5]], [[0.5, 0.5]], 2.0, "weights go from"),
            ([[0.5, np.nan]], [[0.5, 0.5]], 0.5, "a go from"),
        ],
    )
    def test_refusals(self, a, b, weights, message):
        with pytest.raises(ValueError, match=message):
            geometric_mean(a, b, weights)


def test_weights_of_classes():
    words = [("sofa", "Couch"), ("cat",), ("zebra",)]
    seen = seen_classes(words, ["couch", "CAT", "dog"])
    assert seen.tolist() == [True, True, False]
    assert class_weights(seen).tolist() == [0.3, 0.3, 0.7]  # as ODISE has them
    assert class_weights(seen, 0.1, 0.9).tolist() == [0.1, 0.1, 0.9]


def test_no_object_takes_its_share_of_all():
    found = with_nothing([[0.25, 0.75], [1.0, 0.0]], [0.2, 0.0])
    np.testing.assert_allclose(found, [[0.2, 0.6, 0.2], [1.0, 0.0, 0.0]])
    with pytest.raises(ValueError, match="no object"):
        with_nothing([[0.5, 0.5]], [0.1, 0.2])
