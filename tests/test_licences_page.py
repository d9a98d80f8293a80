"""docs/licences.md: models, recipes and data sets are all there, with source and what was read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from diffeat.backbones import bundled_models
from diffeat.backbones.locate import known_models
from diffeat.images.datasets import DATASETS
from diffeat.recipes import load_recipe, recipe_names

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "licences.md").read_text("utf-8")


def rows(heading: str) -> list[list[str]]:
    """Cells of the table below a heading."""
    part = TEXT.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in part.splitlines() if line.startswith("|")]
    assert len(lines) > 2, heading
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_every_model_and_data_set_has_a_row():
    models = " ".join(cells[0] for cells in rows("Models"))
    for name in [*bundled_models(), *known_models()]:
        assert f"`{name}`" in models, name
    data = " ".join(cells[0] for cells in rows("Data"))
    for name in DATASETS:
        assert f"`{name}`" in data, name


def test_every_recipe_is_told_with_its_model():
    told = {name: cells for cells in rows("What recipes need") for name in cells[0].split(", ")}
    assert sorted(told) == recipe_names()
    models = " ".join(cells[0] for cells in rows("Models"))
    for name, cells in told.items():
        model = load_recipe(name).model
        assert f"`{model}`" in models, name
        assert model in cells[1] or name == "ddpm-seg", name  # its models are not the recipe's


@pytest.mark.parametrize("heading", ["Models", "Vision models beside them", "Data"])
def test_every_row_has_a_source_and_says_what_was_looked_up(heading):
    for cells in rows(heading):
        assert len(cells) == 5, cells
        assert all(cells), cells
        assert re.match(r"read\b|not verified$", cells[3]), cells
        links = re.findall(r"\]\(([^)#]+)", cells[4])
        assert links or cells[4].startswith("http") or cells[4] == "the pipeline's card", cells
        assert all((ROOT / "docs" / link).is_file() for link in links), cells


def test_it_is_no_legal_advice():
    assert "no legal advice; read the licence" in TEXT
