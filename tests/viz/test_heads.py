"""Heat maps of heads: few have their numbers, many fit a picture, what says nothing is told."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from diffeat.search.label_free import FreeTable
from diffeat.viz.heads import head_map


def table(tensors: int, heads: int, steps=(10, 50)) -> FreeTable:
    rng = np.random.default_rng(0)
    cells = {
        (f"block.{k}:self.q.h{head}", t): {"lds": float(rng.random()), "massive": 0.0}
        for k in range(tensors) for head in range(heads - k % 2) for t in steps
    }  # fmt: skip
    return FreeTable("made", ("lds", "massive"), cells, 5)


@pytest.mark.parametrize(("tensors", "heads"), [(3, 4), (90, 16), (1, 1)])
def test_any_number_of_heads_fits(tmp_path, tensors, heads):
    head_map(table(tensors, heads), tmp_path / "h.png", title="made")
    with Image.open(tmp_path / "h.png") as picture:
        assert max(picture.size) < 4000
        colours = len(np.unique(np.asarray(picture.convert("L"))))
    assert colours > 20


def test_what_is_the_same_everywhere_is_told(monkeypatch):
    figures = []
    monkeypatch.setattr("diffeat.viz.heads.save", lambda figure, path: figures.append(figure))
    head_map(table(3, 4), "h.png", title="made")
    [figure] = figures
    assert figure.get_suptitle() == "made\nmassive-channel share: 0.0 % everywhere"
    panels = [axis for axis in figure.axes if axis.images]
    assert [axis.get_title() for axis in panels] == ["t = 10", "t = 50"]
    assert [label.get_text() for label in panels[0].get_yticklabels()] == [
        f"block.{k}:self.q" for k in range(3)
    ]
    missing = np.asarray(panels[0].images[0].get_array())[1, 3]  # block.1 has three heads
    np.testing.assert_allclose(missing[:3], 0xC8 / 255, atol=0.01)
    shown = {text.get_text() for text in panels[0].texts}
    first = [one["lds"] for (_, t), one in table(3, 4).cells.items() if t == 10]
    assert shown == {f"{value:.2f}" for value in first}
