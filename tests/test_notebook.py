"""docs/tutorial.ipynb and the program that runs it."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from tests.scripts.conftest import SCRIPTS

ROOT = Path(__file__).parent.parent
TUTORIAL = ROOT / "docs" / "tutorial.ipynb"


@pytest.fixture(scope="module")
def runner():
    sys.path.insert(0, str(SCRIPTS))
    import run_notebook

    yield run_notebook
    sys.path.remove(str(SCRIPTS))


@pytest.fixture(scope="module")
def tutorial() -> dict:
    return json.loads(TUTORIAL.read_text("utf-8"))


def code(notebook: dict) -> list[dict]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def notebook_of(*sources: str) -> dict:
    cells = [
        {"cell_type": "code", "source": source.splitlines(keepends=True)} for source in sources
    ]
    return {"cells": [{"cell_type": "markdown", "source": ["# title"]}, *cells]}


class TestTheTutorial:
    def test_it_is_a_notebook_that_was_run_from_top_to_bottom(self, tutorial):
        assert (tutorial["nbformat"], tutorial["nbformat_minor"]) == (4, 5)
        ids = [cell["id"] for cell in tutorial["cells"]]
        assert len(set(ids)) == len(ids)
        counts = [cell["execution_count"] for cell in code(tutorial)]
        assert counts == list(range(1, len(counts) + 1))
        for cell in code(tutorial):
            compile("".join(cell["source"]), cell["id"], "exec")
            assert {one["output_type"] for one in cell["outputs"]} <= {"stream", "execute_result"}

    def test_its_pictures_are_pictures(self, tutorial):
        shown = [one["data"]["image/png"] for cell in code(tutorial) for one in cell["outputs"]
                 if "image/png" in one.get("data", {})]  # fmt: skip
        assert len(shown) >= 3
        for text in shown:
            with Image.open(BytesIO(base64.b64decode(text))) as picture:
                picture.load()
                assert picture.format == "PNG"
                assert min(picture.size) > 100

    def test_it_tells_nothing_of_the_machine(self):
        text = TUTORIAL.read_text("utf-8")
        assert str(ROOT) not in text
        assert " at 0x" not in text
        assert TUTORIAL.stat().st_size < 400_000

    @pytest.mark.slow
    @pytest.mark.timeout(600)
    def test_it_runs_and_says_what_it_shows(self):
        run = [sys.executable, str(SCRIPTS / "run_notebook.py"), str(TUTORIAL), "--check"]
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        done = subprocess.run(run, env={**os.environ, "PYTHONPATH": path}, capture_output=True,
                              text=True)  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert "the outputs say the same" in done.stdout


class TestTheRunner:
    def test_what_is_printed_and_what_is_last(self, runner):
        done = runner.run_notebook(notebook_of("x = 2\nprint('a')\nprint('b')", "x + 3", "None"))
        first, second, third = code(done)
        assert first["outputs"] == [
            {"name": "stdout", "output_type": "stream", "text": ["a\n", "b\n"]}
        ]
        assert second["outputs"] == [
            {"output_type": "execute_result", "data": {"text/plain": ["5"]},
             "execution_count": 2, "metadata": {}}
        ]  # fmt: skip
        assert third["outputs"] == []

    def test_a_picture_is_kept_as_png(self, runner):
        source = "from PIL import Image\nImage.new('RGB', (3, 2), (255, 0, 0))"
        [cell] = code(runner.run_notebook(notebook_of(source)))
        data = cell["outputs"][0]["data"]
        with Image.open(BytesIO(base64.b64decode(data["image/png"]))) as picture:
            assert picture.size == (3, 2)
            assert picture.convert("RGB").getpixel((2, 1)) == (255, 0, 0)
        assert " at 0x" not in "".join(data["text/plain"])

    def test_a_cell_that_fails_is_named(self, runner):
        with pytest.raises(RuntimeError, match="cell 2 failed: division by zero"):
            runner.run_notebook(notebook_of("x = 0", "1 / x"))

    def test_only_words_are_compared(self, runner):
        old = runner.run_notebook(notebook_of("print('93.7 %  of 300')"))
        same = runner.run_notebook(notebook_of("print('100.0 % of 7')"))
        other = runner.run_notebook(notebook_of("print('93.7 px of 300')"))
        assert runner.differences(old, same) == []
        [line] = runner.differences(old, other)
        assert line.startswith("cell 2: ")

    def test_nothing_is_written_where_a_cell_fails(self, runner, tmp_path, monkeypatch, capsys):
        path = tmp_path / "n.ipynb"
        path.write_text(json.dumps(notebook_of("open('here', 'w').close()\n6 * 7")))
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["run_notebook.py", "n.ipynb"])
        assert runner.main() == 0
        assert code(json.loads(path.read_text()))[0]["outputs"][0]["data"]["text/plain"] == ["42"]
        assert sorted(one.name for one in tmp_path.iterdir()) == ["n.ipynb"]
        path.write_text(json.dumps(notebook_of("1 / 0")))
        before = path.read_bytes()
        with pytest.raises(RuntimeError):
            runner.main()
        assert path.read_bytes() == before
