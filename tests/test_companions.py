"""Our own packages are found, whatever else is called like them."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import diffeat
from diffeat.companions import ROOT, take_ours
from diffeat.errors import NameTaken
from tests.test_layers import PACKAGES, files_of, graph_of, imports, packages_of

NAME = "companion_of_a_test"


@pytest.fixture
def ours(tmp_path, monkeypatch) -> Path:
    """The folder of a package of ours, which comes last on the path, and the user's first."""
    package = tmp_path / "site" / NAME
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("WHOSE = 'ours'")
    (package / "part.py").write_text("WHOSE = 'a part of ours'")
    (tmp_path / "work").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path / "work"), *sys.path, str(package.parent)])
    importlib.invalidate_caches()
    yield package.parent
    for name in [name for name in sys.modules if name.partition(".")[0] == NAME]:
        del sys.modules[name]


def users_file(folder: Path) -> Path:
    (folder / f"{NAME}.py").write_text("WHOSE = 'the user'")
    return folder / f"{NAME}.py"


def users_package(folder: Path) -> Path:
    (folder / NAME).mkdir()
    (folder / NAME / "__init__.py").write_text("WHOSE = 'the user'")
    return folder / NAME / "__init__.py"


@pytest.mark.parametrize("make", [users_file, users_package])
def test_ours_is_taken_before_the_users(ours, tmp_path, make):
    theirs = make(tmp_path / "work")
    with pytest.warns(UserWarning, match=f"{theirs} is called like .* rename yours to use both"):
        take_ours(NAME, ours)
    assert importlib.import_module(NAME).WHOSE == "ours"
    assert importlib.import_module(f"{NAME}.part").WHOSE == "a part of ours"
    take_ours(NAME, ours)  # and stays so, in silence


def test_a_folder_of_files_hides_nothing_where_ours_comes_from_a_finder(ours, tmp_path):
    """An editable installation is asked after the folders of the path."""
    sys.path.remove(str(ours))
    (tmp_path / "work" / NAME).mkdir()
    importlib.invalidate_caches()
    with pytest.warns(UserWarning, match=f"{NAME} is called like"):
        take_ours(NAME, ours)
    assert importlib.import_module(f"{NAME}.part").WHOSE == "a part of ours"


def test_where_nothing_else_is_called_so(ours):
    take_ours(NAME, ours)
    assert NAME not in sys.modules  # not before it is needed
    assert importlib.import_module(NAME).WHOSE == "ours"
    take_ours(NAME, ours)


def test_what_is_imported_already_cannot_be_replaced(ours, tmp_path):
    theirs = users_file(tmp_path / "work")
    assert importlib.import_module(NAME).WHOSE == "the user"
    with pytest.raises(NameTaken, match=f"imported from {theirs}.*rename yours"):
        take_ours(NAME, ours)
    assert sys.modules[NAME].WHOSE == "the user"


def test_ours_that_fails_is_not_left_half_imported(ours, tmp_path):
    users_file(tmp_path / "work")
    (ours / NAME / "__init__.py").write_text("1 / 0")
    with pytest.raises(ZeroDivisionError):
        take_ours(NAME, ours)
    assert NAME not in sys.modules


def test_without_one_of_ours_nothing_is_said(ours, tmp_path):
    users_file(tmp_path / "work")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        take_ours(NAME, tmp_path)
    assert importlib.import_module(NAME).WHOSE == "the user"


def test_whoever_imports_probes_takes_ours_first():
    texts = {name: path.read_text("utf-8") for name, path in files_of(*PACKAGES).items()}
    graph = graph_of(texts)
    for name, text in texts.items():
        tops = {other.partition(".")[0] for other in imports(text)}
        if "probes" in tops and name.partition(".")[0] != "probes":
            above = [name, *packages_of(name)]
            assert any("diffeat.companions" in graph[one] for one in above), name


def test_a_file_of_the_user_beside_the_command(tmp_path):
    (tmp_path / "probes.py").write_text("raise SystemExit('the file of the user')")
    (tmp_path / "benchmarks").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "diffeat", "probe", "none.h5"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: none.h5: no such file; check the path\n"
    assert Path(diffeat.__file__).parent.parent == ROOT
