"""The rooms of the store: data flow from format to read, and from there to write and join."""

import ast
from pathlib import Path

import pytest

import diffeat

PACKAGE = Path(diffeat.__file__).parent
STORE = PACKAGE / "store"
MAY_IMPORT = {
    "format": set(),
    "read": {"format"},
    "write": {"format", "read"},  # what is finished is read again when it grows
    "join": {"format", "read"},
}


def name_of(path: Path) -> str:
    dotted = ".".join(path.with_suffix("").relative_to(PACKAGE.parent).parts)
    return dotted.removesuffix(".__init__")


MODULES = {name_of(path): path for path in sorted(STORE.rglob("*.py"))}


def run_time(tree: ast.AST) -> list[ast.AST]:
    """All nodes, in functions too, but those below `if TYPE_CHECKING:`."""
    found, waiting = [], [tree]
    while waiting:
        node = waiting.pop()
        found.append(node)
        checking = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        waiting += node.orelse if checking else ast.iter_child_nodes(node)
    return found


def imported(nodes) -> set[str]:
    """The modules of the store that are named: a.b of `import a.b` and of `from a import b`."""
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return {name for name in names if name in MODULES}


def imports(path: Path) -> set[str]:
    return imported(run_time(ast.parse(path.read_text("utf-8"))))


def room(module: str) -> str:
    parts = module.split(".")
    return parts[2] if len(parts) > 2 else ""


@pytest.fixture(scope="module")
def needs() -> dict[str, set[str]]:
    """Each module of the rooms, and which others of the store it imports."""
    return {name: imports(path) for name, path in MODULES.items() if room(name)}


def test_rooms_are_those_that_are_named():
    assert {room(name) for name in MODULES} - {""} == set(MAY_IMPORT)
    assert [name for name in MODULES if not room(name)] == ["diffeat.store"]


def test_imports_are_seen_wherever_they_stand():
    tree = ast.parse(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import diffeat.store.join.files\n"
        "def f():\n    from diffeat.store.read import reader\n"
    )
    assert imported(run_time(tree)) == {"diffeat.store.read", "diffeat.store.read.reader"}


@pytest.mark.parametrize("name", MAY_IMPORT)
def test_a_room_knows_those_before_it_alone(needs, name):
    here = {module: wanted for module, wanted in needs.items() if room(module) == name}
    assert here
    for module, wanted in here.items():
        assert {room(other) for other in wanted} <= MAY_IMPORT[name] | {name}, module


def test_no_circle_even_through_functions(needs):
    left = {module: wanted & set(needs) for module, wanted in needs.items()}
    while ready := {module for module, wanted in left.items() if not wanted}:
        left = {module: wanted - ready for module, wanted in left.items() if module not in ready}
    assert not left, f"circle among {sorted(left)}"


def test_only_what_needs_torch_is_imported_late():
    late = set()
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.Lambda):
                late |= {(module, name) for name in imported(ast.walk(node))}
    assert {name for _, name in late} == {"diffeat.store.read.torch_data"}


def test_nobody_outside_reaches_into_the_rooms_but_format():
    roots = [PACKAGE, PACKAGE.parent / "benchmarks", PACKAGE.parent / "scripts"]
    for path in (path for root in roots for path in root.rglob("*.py")):
        if STORE not in path.parents:
            assert {room(name) for name in imports(path)} <= {"", "format"}, path


def test_modules_stay_short():
    long = {name: len(path.read_text("utf-8").splitlines()) for name, path in MODULES.items()}
    assert max(long.values()) < 400
