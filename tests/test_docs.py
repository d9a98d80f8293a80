"""What the documents show is what the code is."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import numpy as np

import diffeat
from diffeat.backbones import FAMILIES
from diffeat.recipes import recipe_names

ROOT = Path(__file__).parent.parent


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_example_of_a_new_family_is_the_real_change():
    shown = re.search(r"```diff\n(.*?)```", read("CONTRIBUTING.md"), re.S)[1].splitlines()
    added = [line[1:] for line in shown if line.startswith("+") and not line.startswith("+++")]
    assert len(added) < 80
    family = read("diffeat/backbones/auraflow.py").splitlines()
    loading = [line.strip() for line in read("diffeat/backbones/loading.py").splitlines()]
    assert added[-len(family) :] == family
    assert all(line.strip() in loading for line in added[: -len(family)])


def test_every_module_has_its_row():
    text = read("CONTRIBUTING.md")
    for path in (ROOT / "diffeat").iterdir():
        if path.suffix == ".py" and not path.name.startswith("_"):
            assert f"`{path.stem}`" in text, path.name
        elif path.is_dir() and (path / "__init__.py").exists():
            assert f"`{path.name}/`" in text or f"`{path.name}`" in text, path.name


def test_the_readme_names_every_family_and_recipe_count():
    text = read("README.md")
    for family in FAMILIES:
        assert family.family in text, family.family
    assert f"{len(recipe_names())} recipes" in text


def test_the_aliases_of_the_docs_are_those_of_the_code():
    systems = set(
        re.findall(r"`([a-z0-9-]+):[^`]*`", read("docs/tensors.md").split("names\n", 3)[-1])
    )
    found = set()
    for name in ("sd15", "adm-256", "flux1-dev", "edm-cifar10"):
        aliases = diffeat.load(name, device="meta").aliases
        found |= {alias.partition(":")[0] for alias in aliases}
    assert found <= systems


def test_the_example_of_a_judge_runs(capsys):
    """Maps whose mean is the light itself are told apart without a mistake."""
    [example] = re.findall(r"```python\n(.*?)```", read("docs/search.md"), re.S)
    rng = np.random.default_rng(0)
    light = rng.random(120) < 0.5
    noise = rng.normal(size=(120, 2, 3, 3))
    maps = {("a", 1): noise, ("b", 1): noise + 9 * light[:, None, None, None], ("b", 5): 2 * noise}
    given = {"maps": maps, "light": light, "ids": [f"p{k}" for k in range(120)]}
    exec(example, given)
    assert given["report"].best.key == ("b", 1)
    assert given["report"].best.test == 1
    assert "best on validation: b at t=1, 100.0 %" in capsys.readouterr().out


def test_every_option_of_a_search_is_told():
    told = read("docs/search.md")
    for option in ("cutoff", "agent", "bandit", "frequency", "selectors", "mixer", "halving",
                   "cell-pairs"):  # fmt: skip
        assert re.search(rf"^\|.*`--{option}\b", told, re.M), option


def test_the_version_is_in_the_changelog():
    assert f"## {diffeat.__version__} " in read("CHANGELOG.md")


def test_recipes_are_plain_data():
    for path in (ROOT / "diffeat" / "recipes").glob("*.toml"):
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        assert set(values) <= {"title", "source", "model", "notes", "made_for", "spec"}, path.name
