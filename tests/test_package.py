"""The project as a whole: public names, packaging, version."""

from __future__ import annotations

import configparser
import importlib
import re
from pathlib import Path, PurePosixPath

import pytest

import diffeat

ROOT = Path(diffeat.__file__).parent.parent
PACKAGES = ("diffeat", "probes", "benchmarks")
DATA = ("diffeat.backbones", "diffeat.recipes", "diffeat.viz", "benchmarks")
"""Packages that hold more than modules."""
FOLDERS = (*PACKAGES, "scripts", "tests")


@pytest.fixture(scope="module")
def setup() -> configparser.ConfigParser:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    return config


def sources(*folders: str) -> list[Path]:
    found = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    assert found
    return found


def inside(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


class TestNames:
    @pytest.mark.parametrize("name", diffeat.__all__)
    def test_every_public_name_resolves(self, name):
        assert getattr(diffeat, name) is not None
        assert name in dir(diffeat)

    def test_names_are_those_of_the_contract(self):
        wanted = {
            "load", "extract", "extract_to_file", "ExtractSpec", "Features", "FeatureStore",
            "HookManager", "Tap", "load_recipe", "massive_channels", "open_source", "__version__",
        }  # fmt: skip
        assert wanted <= set(diffeat.__all__)
        assert len(set(diffeat.__all__)) == len(diffeat.__all__)

    def test_an_unknown_name(self):
        with pytest.raises(AttributeError, match="no attribute 'extrakt'"):
            _ = diffeat.extrakt

    def test_every_public_name_is_documented(self):
        names = set(diffeat.__all__) - {"__version__"}
        assert not [name for name in names if not getattr(diffeat, name).__doc__]


class TestPackaging:
    def test_packages_are_those_that_exist(self, setup):
        listed = setup["options"]["packages"].split()
        exist = {
            ".".join(path.parent.relative_to(ROOT).parts)
            for path in sources(*PACKAGES)
            if path.name == "__init__.py"
        }
        assert sorted(listed) == sorted(exist)

    def test_every_module_lies_in_a_package(self):
        homeless = [
            path for path in sources(*PACKAGES) if not (path.parent / "__init__.py").exists()
        ]
        assert not homeless

    @pytest.mark.parametrize("package", DATA)
    def test_data_files_are_matched(self, setup, package):
        folder = ROOT.joinpath(*package.split("."))
        patterns = setup["options.package_data"][package].split()
        kinds = (".safetensors", ".json", ".md", ".png", ".csv", ".toml", ".css", ".js")
        data = [
            PurePosixPath(path.relative_to(folder).as_posix())
            for path in folder.rglob("*")
            if path.suffix in kinds and "results" not in path.parts
        ]
        depth_matches = [
            path
            for path in data
            if any(
                len(path.parts) == len(PurePosixPath(p).parts) and path.match(p) for p in patterns
            )
        ]
        assert data
        assert depth_matches == data

    @pytest.mark.parametrize("model", sorted((ROOT / "diffeat/backbones/zoo").iterdir()), ids=str)
    def test_every_bundled_model_has_weights_and_a_card(self, model):
        assert list(model.glob("*/*.safetensors"))
        assert (model / "model_index.json").is_file()
        assert (model / "README.md").is_file()

    def test_console_script(self, setup):
        script = setup["options.entry_points"]["console_scripts"].strip()
        assert script == "diffeat = diffeat.cli:main"
        module, _, function = script.partition(" = ")[2].partition(":")
        assert callable(getattr(importlib.import_module(module), function))

    def test_version_is_the_newest_in_the_changelog(self):
        text = (ROOT / "CHANGELOG.md").read_text("utf-8")
        newest = re.search(r"^## \[?v?(\d+\.\d+\S*?)\]?(\s|$)", text, re.MULTILINE)
        assert newest
        assert newest[1] == diffeat.__version__


def test_no_paths_of_one_machine():
    roots = ("home", "root", "work", "Users", "mnt", "tmp")
    pattern = re.compile(rf"[\"'\s=(]/({'|'.join(roots)})/\w")
    found = [
        f"{inside(path)}:{number}"
        for path in sources(*FOLDERS)
        for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1)
        if pattern.search(line)
    ]
    assert not found
