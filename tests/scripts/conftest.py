"""Running scripts/convert.py."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner

import diffeat

SCRIPTS = Path(diffeat.__file__).parent.parent / "scripts"


@pytest.fixture(scope="module")
def program():
    """The module scripts/convert.py."""
    sys.path.insert(0, str(SCRIPTS))
    import convert

    yield convert
    sys.path.remove(str(SCRIPTS))


@pytest.fixture
def convert(program, tmp_path):
    """Saves a checkpoint, converts it, and returns the result with the output folder."""

    def run(layout: str, checkpoint, *options: object) -> SimpleNamespace:
        path, output = checkpoint, tmp_path / "out"
        if not isinstance(checkpoint, Path):
            path = tmp_path / "checkpoint.pt"
            torch.save(checkpoint, path)
        arguments = [layout, str(path), str(output), *map(str, options)]
        result = CliRunner().invoke(program.main, arguments)
        assert result.exception is None or isinstance(result.exception, SystemExit), repr(
            result.exception
        )
        return SimpleNamespace(folder=output, output=result.output, code=result.exit_code)

    return run


@pytest.fixture
def converted(convert):
    """The same where it must succeed; returns the folder."""

    def run(layout: str, checkpoint, *options: object) -> Path:
        result = convert(layout, checkpoint, *options)
        assert result.code == 0, result.output
        assert [path.name for path in result.folder.parent.glob(".*")] == []
        return result.folder

    return run
