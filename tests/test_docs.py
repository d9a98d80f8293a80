"""What the documents show is what the code is."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import numpy as np

import diffeat
from diffeat.backbones import FAMILIES
from diffeat.coords import Placement
from diffeat.recipes import recipe_names
from probes import Cells, Pairs

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


def test_the_examples_of_fusion_run():
    """Two models that see the same, of which the second has other inputs and another grid."""
    rng = np.random.default_rng(0)
    sizes, finest = [(30, 40)] * 2, rng.normal(size=(1, 5, 12, 12))
    maps = np.repeat(finest, 2, 0)  # the second picture is the first
    whole = {"sizes": sizes, "input_size": (48, 48)}
    mirrored = [Placement.of_fit((30, 40), (48, 48), "squash", mirror=True).numbers] * 2
    given = {
        "sd": Cells({("s4", 100): maps[:, :, ::2, ::2], ("s3", 100): maps}, **whole),
        "sd_mirrored": Cells({("s4", 100): -maps[:, :, ::2, ::2], ("s3", 100): -maps},
                             placements=mirrored, **whole),
        "dino": Cells({("block.11", 0): maps[:, :3, ::3, ::2]}, sizes=sizes, input_size=(32, 36)),
        "pairs": Pairs([0], [1], [[[3, 4], [20, 20], [33, 9]]]),
    }  # fmt: skip
    examples = re.findall(r"```python\n(.*?)```", read("docs/mixing.md"), re.S)
    assert len(examples) == 2
    for example in examples:
        exec(example, given)
        far = np.abs(given["found"][0].points - given["pairs"].source_points[0]).max()
        assert far < 4  # a site is 3.3 pixels wide; windows give means of sites


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
