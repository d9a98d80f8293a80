"""Pages whose commands are run show what was printed."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from scripts.record_session import KEEP, commands, recorded

ROOT = Path(__file__).parents[2]
PAGE = """# Counting

```console
$ echo one; echo two >&2
old
$ printf '%s\\n' \\
    three > made.txt
```

Between.

```console
$ cat made.txt
```

```python
$ not a command
```
"""


def test_output_takes_the_place_of_what_stood_there(tmp_path):
    found = recorded(PAGE, tmp_path)
    assert "$ echo one; echo two >&2\none\ntwo\n$ printf" in found
    assert "$ cat made.txt\nthree\n```" in found
    assert "old" not in found
    assert found.count("$ not a command") == 1
    assert recorded(found, tmp_path) == found


def test_a_command_that_fails_is_named(tmp_path):
    with pytest.raises(SystemExit, match="false: exit code 1"):
        recorded("```console\n$ false\n```\n", tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_first_steps(tmp_path):
    """Every command of the page, from pictures to a page of predictions, within ten minutes."""
    text = (ROOT / "docs/first-steps.md").read_text(encoding="utf-8")
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    begun = time.monotonic()
    recorded(text, tmp_path)
    assert time.monotonic() - begun < 600
    assert all((tmp_path / name).stat().st_size for name, _ in KEEP.findall(text))
    assert any("diffeat predict" in command for command in commands(text))


def test_the_pictures_to_try_with(tmp_path):
    made = subprocess.run(
        [sys.executable, ROOT / "scripts/example_pictures.py", tmp_path, "--labelled", "30",
         "--new", "5"], capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "30 pictures in labels.csv, 5 in new/" in made.stdout
    rows = (tmp_path / "labels.csv").read_text().splitlines()
    assert rows[:2] == ["path,label", "pictures/0000.png,zero"]
    assert len(rows) == 31
    assert len(list((tmp_path / "new").iterdir())) == 5
