"""The project as a whole: public names, packaging, layers, version."""

from __future__ import annotations

import ast
import configparser
import importlib
import re
from pathlib import Path, PurePosixPath

import pytest

import diffeat

ROOT = Path(diffeat.__file__).parent.parent
PACKAGES = ("diffeat", "probes", "benchmarks")
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


def imports(path: Path) -> set[str]:
    """Full names of the modules that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module)
    return names


def tops(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imports(path)}


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

    @pytest.mark.parametrize("package", ["diffeat.backbones", "diffeat.recipes", "benchmarks"])
    def test_data_files_are_matched(self, setup, package):
        folder = ROOT.joinpath(*package.split("."))
        patterns = setup["options.package_data"][package].split()
        kinds = (".safetensors", ".json", ".md", ".png", ".csv", ".toml")
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


class TestLayers:
    def test_probes_know_nothing_of_the_project(self):
        for path in sources("probes"):
            assert not tops(path) & {"diffeat", "benchmarks"}, path

    def test_diffeat_imports_probes_where_heads_are_used(self):
        found = {inside(path) for path in sources("diffeat") if "probes" in tops(path)}
        allowed = ("diffeat/cli/", "diffeat/search/", "diffeat/adapt/")
        assert {name for name in found if not name.startswith(allowed)} == set()

    def test_diffeat_does_not_import_benchmarks(self):
        assert not [path for path in sources("diffeat") if "benchmarks" in tops(path)]

    def test_nothing_imports_tests_or_scripts(self):
        scripts = {path.stem for path in (ROOT / "scripts").glob("*.py")}
        for path in sources(*PACKAGES):
            assert not tops(path) & {"tests", "scripts", *scripts}, path
        for path in sources("scripts"):
            assert "tests" not in tops(path), path

    @pytest.mark.parametrize(
        ("below", "above"),
        [
            ("diffeat/backbones", ("diffeat.extraction", "diffeat.images", "diffeat.store")),
            ("diffeat/images", ("diffeat.backbones", "diffeat.extraction", "diffeat.store")),
            ("diffeat/store", ("diffeat.backbones", "diffeat.extraction")),
            ("diffeat/extraction", ("diffeat.store", "diffeat.jobs", "diffeat.recipes")),
        ],
    )
    def test_no_layer_knows_those_above(self, below, above):
        for path in sources(below):
            assert not [name for name in imports(path) if name.startswith(above)], path

    @pytest.mark.parametrize(
        "module", ["attention", "blocks", "hooks", "noise", "schedules", "specs"]
    )
    def test_words_that_all_share_know_no_model(self, module):
        found = imports(ROOT / "diffeat" / f"{module}.py")
        above = ("diffeat.backbones", "diffeat.extraction", "diffeat.store", "transformers")
        assert not [name for name in found if name.startswith(above)]

    def test_the_command_line_is_on_top(self):
        for path in sources("diffeat"):
            if not inside(path).startswith(("diffeat/cli/", "diffeat/__main__")):
                assert not [name for name in imports(path) if name.startswith("diffeat.cli")], path

    def test_modules_import_without_cycles(self):
        modules = {
            ".".join(path.with_suffix("").relative_to(ROOT).parts).removesuffix(".__init__"): path
            for path in sources("diffeat", "probes")
        }
        needs = {name: at_the_top(path) & set(modules) - {name} for name, path in modules.items()}
        while ready := [name for name, wanted in needs.items() if not wanted]:
            for name in ready:
                del needs[name]
            needs = {name: wanted - set(ready) for name, wanted in needs.items()}
        assert not needs, f"cycle among {sorted(needs)}"


def at_the_top(path: Path) -> set[str]:
    """Modules that a file imports when it is imported itself."""
    names = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
    return names


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
