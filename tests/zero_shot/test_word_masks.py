"""Masks of words from heat that is known."""

from __future__ import annotations

import numpy as np
import pytest

from diffeat.coords import Placement
from diffeat.errors import SpecError
from diffeat.search.applied import Piece
from diffeat.words.vocabulary import Vocabulary
from diffeat.zero_shot.word_masks import HEAT, Background, WordMasks, heat_on, otsu

SIZE = (32, 48)


def planted() -> np.ndarray:
    """(2, 8, 12): a cat on the left, a dog at the bottom right, little of anything elsewhere."""
    heat = np.full((2, 8, 12), 0.01, np.float32)
    heat[0, :, :4] = 0.05
    heat[1, 4:, 6:] = 0.9
    heat[0, 4:, 6:] = 0.03  # of its largest .5
    return heat


def masks(background: str = "0.4", words: str = "cat,dog", **how) -> WordMasks:
    return WordMasks(Vocabulary.of(words), Background.of(background), input_size=SIZE, **how)


def inside(labels: np.ndarray) -> np.ndarray:
    """The middle of each cell's 4×4 pixels, where nothing is interpolated away from it."""
    return labels[1::4, 1::4]


def expected(other: int) -> np.ndarray:
    labels = np.full((8, 12), other)
    labels[:, :4], labels[4:, 6:] = 1, 2
    return labels


def test_the_word_with_the_most_heat_or_background() -> None:
    found = masks().seen(3, planted(), SIZE)
    assert found.row == 3
    assert found.values.dtype == np.uint8
    assert found.shown.all()
    interior = np.ones((8, 12), bool)
    interior[:, 3:7], interior[3:5] = False, False  # beside an edge
    np.testing.assert_array_equal(inside(found.values)[interior], expected(0)[interior])
    assert masks().names == ("background", "cat", "dog")


def test_all_words_on_one_scale() -> None:
    """A word with little heat is nowhere, beside one with much."""
    found = masks(normalise="picture").seen(0, planted(), SIZE).values
    assert set(np.unique(found)) == {0, 2}


def test_no_background() -> None:
    found = masks("none", normalise="none").seen(0, planted(), SIZE).values
    assert inside(found)[0, 0] == 0
    assert inside(found)[7, 11] == 1
    assert masks("none").names == ("cat", "dog")


def test_words_of_the_background() -> None:
    heat = np.concatenate([planted(), np.zeros((1, 8, 12), np.float32)])
    heat[2, :3, 5:] = 0.2  # the sky
    one = masks("sky")
    assert [each.name for each in one.classes] == ["cat", "dog", "sky"]
    found = one.seen(0, heat, SIZE).values
    assert (inside(found)[:2, 6:] == 0).all()
    assert inside(found)[7, 11] == 2
    with pytest.raises(SpecError, match="'dog' is there twice"):
        _ = masks("sky,dog").classes


def test_otsu_parts_two_heaps() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(0.2, 0.03, 500), rng.normal(0.8, 0.03, 200)])
    at = np.linspace(values.min(), values.max(), 257)[1:-1]
    by_hand = [
        (values <= t).mean() * (values > t).mean()
        * (values[values <= t].mean() - values[values > t].mean()) ** 2
        for t in at
    ]  # fmt: skip
    share = (values > otsu(values)).mean()
    assert share == (values > at[int(np.argmax(by_hand))]).mean() == pytest.approx(200 / 700)
    found = masks("otsu").seen(0, planted(), SIZE).values
    assert (inside(found)[0, 7:] == 0).all()
    assert inside(found)[7, 11] == 2


def test_a_word_that_was_not_asked_for_is_nowhere() -> None:
    heat = planted()
    heat[1] = -np.inf
    found = masks().seen(0, heat, SIZE).values
    assert set(np.unique(found)) == {0, 1}
    heat[0] = -np.inf
    assert (masks().seen(0, heat, SIZE).values == 0).all()
    none = masks("none")  # in which a picture of no word is of no class
    assert (none.seen(0, heat, SIZE).values == none.ignore).all()
    many = WordMasks(Vocabulary.of([f"w{k}" for k in range(256)]), Background.of("none"))
    assert many.seen(0, np.full((256, 2, 2), -np.inf), SIZE).values.max() == many.ignore > 255


def test_padding_takes_no_part() -> None:
    """Heat of what is no picture neither sets the scale nor is shown."""
    size, into = (32, 16), (32, 32)
    where = Placement.of_fit(size, into, "pad")
    heat = np.zeros((1, 8, 8), np.float32)
    heat[0, :, :2] = 100  # left of the picture
    heat[0, :4, 2:6] = 1
    one = WordMasks(Vocabulary.of("cat"), input_size=into)
    found = one.seen(0, heat[:, :, :], size, where.numbers)
    assert found.values.shape == size
    inner = heat_on(heat, size, into, where.numbers)[0]
    assert inner.min() == 0
    assert inner.max() == 1
    heat[0, :, :2] = 0
    found = one.seen(0, heat, size, where.numbers).values
    assert (found[2:12, 4:12] == 1).all()
    assert (found[20:] == 0).all()


def test_pieces_are_predicted_row_by_row() -> None:
    sizes, whole = np.array([SIZE, (16, 24)]), np.array([[1, 0, 1, 0], [2, 0, 2, 0.0]])
    piece = Piece({HEAT: np.stack([planted()] * 2)}, np.array([4, 7]), {}, sizes, whole)
    first, second = masks().predict(piece)
    assert (first.row, second.row) == (4, 7)
    assert second.values.shape == (16, 24)
    np.testing.assert_array_equal(first.values, masks().seen(4, planted(), SIZE).values)


def test_what_cannot_be_meant() -> None:
    for text in ("0", "1.5", "nan"):
        with pytest.raises(SpecError, match="threshold between 0 and 1"):
            Background.of(text)
    with pytest.raises(SpecError, match="on no scale"):
        masks(normalise="none")
    with pytest.raises(SpecError, match="normalise='max'"):
        masks(normalise="max")
    with pytest.raises(SpecError, match="is one of the words"):
        masks(words="cat,Background")
    assert [str(Background.of(text)) for text in ("0.25", "otsu", "none", "sky,sea")] == [
        "0.25", "otsu", "none", "sky,sea",
    ]  # fmt: skip
