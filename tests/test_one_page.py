"""The example that needs nothing of diffeat prints what it says."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "one_page.py"


def test_it_prints_what_it_says():
    text = PAGE.read_text()
    promised = ast.get_docstring(ast.parse(text)).partition("it prints:")[2]
    run = [sys.executable, "-W", "ignore", str(PAGE)]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == promised.split()
    assert len(text.splitlines()) < 40
    assert "diffeat" not in "".join(line for line in text.splitlines() if "import" in line)
