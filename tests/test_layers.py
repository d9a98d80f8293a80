"""The order of the modules: who imports whom, without circles; and how long all of it is.

An import counts wherever it stands, inside functions too; what is imported for type checking
alone does not. Importing `a.b.c` runs `a/b/__init__` and `a/__init__`, so it counts as an import
of those packages as well, except from inside of them: a package's `__init__` may import its
modules, and its modules never import the package.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

import diffeat

ROOT = Path(diffeat.__file__).parent.parent
PACKAGES = ("diffeat", "probes", "benchmarks")
ORDER = (
    "errors", "progress", "companions", "attention", "hooks", "blocks", "noise", "schedules",
    "coords", "images", "targets", "ranges", "specs", "cells", "store", "backbones", "words",
    "vision", "loading", "extraction", "growing", "work", "planning", "engines", "jobs", "search",
    "aggregation", "zero_shot", "viz", "viewer", "cli", "__main__",
)  # fmt: skip
"""Modules of diffeat on the way of the data: none needs one that stands behind it, nor does
anything that it needs."""
MAY_KNOW_PROBES = ("search", "adapt", "aggregation", "zero_shot", "viz", "cli")
LONGEST_FILE, LONG_FUNCTION = 425, 35


def files_of(*folders: str) -> dict[str, Path]:
    """Name of a module → its file."""
    found = {}
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    assert found
    return found


@cache
def statements(text: str) -> tuple[ast.Import | ast.ImportFrom, ...]:
    """Every import anywhere in a module, but those for type checking alone."""
    found, left = [], [ast.parse(text)]
    while left:
        node = left.pop()
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            found.append(node)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            left += node.orelse
        elif not isinstance(node, ast.expr):  # no expression holds a statement
            left += ast.iter_child_nodes(node)
    return tuple(found)


def imports(text: str, modules: set[str] = frozenset()) -> set[str]:
    """Full names of what is imported: `from a import b` is a.b if that is a module, else a."""
    found = set()
    for node in statements(text):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        else:
            assert node.level == 0, "a relative import"
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= full & modules
            found |= {node.module} if full - modules else set()
    return found


def packages_of(name: str) -> set[str]:
    """ "a.b.c" → "a", "a.b"."""
    words = name.split(".")
    return {".".join(words[:k]) for k in range(1, len(words))}


def graph_of(texts: dict[str, str]) -> dict[str, set[str]]:
    """Module → the modules of ours that it imports, by the rule above."""
    graph = {}
    for module, text in texts.items():
        named = {name for name in imports(text, set(texts)) if name in texts}
        brought = set().union(*map(packages_of, named)) - packages_of(module)
        graph[module] = (named | brought) - {module}
    return graph


def reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    """All that a module needs, and what that needs."""
    found, left = set(), [start]
    while left:
        for name in graph[left.pop()] - found:
            found.add(name)
            left.append(name)
    return found


def in_circles(graph: dict[str, set[str]]) -> dict[str, list[str]]:
    """Modules that need themselves → which of their imports lead back."""
    reach = {name: reachable(graph, name) for name in graph}
    return {
        name: sorted(other for other in graph[name] if name in reach[other] | {other})
        for name in graph
        if name in reach[name]
    }


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    return {name: path.read_text("utf-8") for name, path in files_of(*PACKAGES).items()}


@pytest.fixture(scope="module")
def graph(texts) -> dict[str, set[str]]:
    return graph_of(texts)


def top(name: str) -> str:
    """ "diffeat.store.reader" → "store": what a layer is called."""
    return ".".join(name.split(".")[1:2])


class TestImports:
    def test_no_module_needs_itself(self, graph):
        assert in_circles(graph) == {}

    def test_no_package_needs_itself(self, graph):
        layers: dict[str, set[str]] = {}
        for name in [name for name in graph if name.startswith("diffeat.")]:
            needed = {top(other) for other in graph[name] if other.startswith("diffeat.")}
            layers.setdefault(top(name), set()).update(needed - {top(name)})
        assert in_circles(layers) == {}

    def test_a_module_does_not_import_its_own_package(self, graph):
        assert not [(name, n) for name, found in graph.items() for n in found & packages_of(name)]

    def test_nothing_needs_what_comes_later(self, graph):
        for place, layer in enumerate(ORDER):
            modules = [name for name in graph if name.startswith("diffeat.") and top(name) == layer]
            assert modules, layer
            for name in modules:
                found = {top(other) for other in reachable(graph, name)} - {layer}
                assert not found & set(ORDER[place + 1 :]), name

    def test_probes_know_nothing_of_the_project(self, texts):
        for name in [name for name in texts if name.split(".")[0] == "probes"]:
            tops = {other.partition(".")[0] for other in imports(texts[name])}
            assert not tops & {"diffeat", "benchmarks"}, name

    def test_who_may_know_probes(self, texts):
        knowing = {
            top(name)
            for name, text in texts.items()
            if name.split(".")[0] == "diffeat"
            and "probes" in {other.partition(".")[0] for other in imports(text)}
        }
        assert knowing <= set(MAY_KNOW_PROBES)

    def test_diffeat_does_not_import_benchmarks(self, graph):
        for name in [name for name in graph if name.split(".")[0] != "benchmarks"]:
            assert not [n for n in graph[name] if n.split(".")[0] == "benchmarks"], name

    def test_nothing_imports_tests_or_scripts(self, texts):
        scripts = {path.stem for path in (ROOT / "scripts").glob("*.py")}
        for name, text in texts.items():
            tops = {other.partition(".")[0] for other in imports(text)}
            assert not tops & {"tests", "scripts", *scripts}, name
        for path in files_of("scripts").values():
            tops = {other.partition(".")[0] for other in imports(path.read_text("utf-8"))}
            assert "tests" not in tops, path

    @pytest.mark.parametrize(
        ("below", "above"),
        [
            ("backbones", {"extraction", "store"}),
            ("images", {"backbones", "extraction", "store"}),
            ("store", {"backbones", "extraction"}),
            ("extraction", {"store", "jobs", "recipes"}),
        ],
    )
    def test_no_layer_knows_those_above(self, graph, below, above):
        for name in [name for name in graph if name.startswith(f"diffeat.{below}.")]:
            assert not {top(other) for other in graph[name]} & above, name

    @pytest.mark.parametrize(
        "module", ["attention", "blocks", "hooks", "noise", "schedules", "specs"]
    )
    def test_words_that_all_share_know_no_model(self, texts, module):
        tops = {name.partition(".")[0] for name in imports(texts[f"diffeat.{module}"])}
        assert not tops & {"transformers", "timm"}

    def test_the_command_line_is_on_top(self, graph):
        for name, needed in graph.items():
            if name.split(".")[0] == "diffeat" and top(name) not in ("cli", "__main__"):
                assert "cli" not in {top(other) for other in needed}, name


class TestTheGraphItself:
    """The tool finds what it is there for, on modules of a few lines."""

    def test_a_circle_through_a_function(self):
        graph = graph_of({"p": "", "p.a": "import p.b", "p.b": "def f():\n    from p.a import x"})
        assert in_circles(graph) == {"p.a": ["p.b"], "p.b": ["p.a"]}

    def test_type_checking_makes_no_circle(self):
        text = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p.a import x"
        assert in_circles(graph_of({"p": "", "p.a": "from p.b import y", "p.b": text})) == {}

    def test_what_stands_beside_type_checking_counts(self):
        text = "if TYPE_CHECKING:\n    pass\nelse:\n    import p.a"
        assert in_circles(graph_of({"p": "", "p.a": "import p.b", "p.b": text}))

    def test_a_package_may_import_its_modules_and_not_the_other_way_round(self):
        assert graph_of({"p": "from p.a import x", "p.a": ""}) == {"p": {"p.a"}, "p.a": set()}
        assert in_circles(graph_of({"p": "from p.a import x", "p.a": "from p import y"}))
        assert in_circles(graph_of({"p": "from p.a import x", "p.a": "import p"}))

    def test_a_module_of_another_package_brings_that_package(self):
        texts = {"p": "import p.a", "p.a": "import q.b", "q": "import q.c", "q.b": "", "q.c": ""}
        assert graph_of(texts)["p.a"] == {"q", "q.b"}
        texts["q.c"] = "from p.a import x"
        assert set(in_circles(graph_of(texts))) == {"p.a", "q", "q.c", "p"}

    def test_a_module_by_its_package(self):
        texts = {"p": "", "p.a": "from p import b", "p.b": ""}
        assert graph_of(texts)["p.a"] == {"p.b"}


def functions(path: Path) -> list[int]:
    """Lines of every function of a file."""
    return [
        node.end_lineno - node.lineno + 1
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]


class TestLengths:
    def test_files_are_short(self):
        lengths = {
            name: len(path.read_text("utf-8").splitlines())
            for name, path in files_of(*PACKAGES).items()
        }
        assert {name: n for name, n in lengths.items() if n > LONGEST_FILE} == {}

    @pytest.mark.parametrize("package", PACKAGES)
    def test_nineteen_of_twenty_functions_fit_on_a_screen(self, package):
        lengths = sorted(n for path in files_of(package).values() for n in functions(path))
        assert lengths[int(0.95 * len(lengths))] <= LONG_FUNCTION
