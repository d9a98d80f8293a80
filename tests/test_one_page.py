"""The example that needs nothing of diffeat prints what it says."""

from __future__ import annotations

import ast
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import diffeat

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "one_page.py"


def test_it_runs_on_few_pictures(tmp_path, monkeypatch, capsys):
    """Its map is ours, of the same noise."""
    text = PAGE.read_text()
    fewer = tmp_path / "few.py"
    fewer.write_text(text.replace("20, 600, 300", "20, 30, 10"))
    monkeypatch.chdir(ROOT)
    page = runpy.run_path(str(fewer))
    assert re.fullmatch(
        r"up\.1 at t=20: [\d.]+% of 10 test digits right\ntheir pixels: [\d.]+%\n",
        capsys.readouterr().out,
    )
    spec = diffeat.ExtractSpec(20, "up.1", pool="2x2", dtype="float32")
    pixels = ((page["x0"] + 1) / 2).clamp(0, 1)
    ours = diffeat.extract(
        diffeat.load("unet-cifar10", device="cpu"), pixels, spec, noise=page["eps"]
    )
    torch.testing.assert_close(
        torch.cat(page["kept"]), ours["up.1", 20].flatten(1), rtol=1e-4, atol=1e-4
    )
    assert len(text.splitlines()) < 40
    assert "diffeat" not in "".join(line for line in text.splitlines() if "import" in line)


@pytest.mark.slow
def test_it_prints_what_it_says():
    text = PAGE.read_text()
    promised = ast.get_docstring(ast.parse(text)).partition("it prints:")[2]
    run = [sys.executable, "-W", "ignore", str(PAGE)]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == promised.split()
