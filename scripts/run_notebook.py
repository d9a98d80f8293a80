"""Run a notebook's cells in order and keep what they print and show.

    python scripts/run_notebook.py docs/tutorial.ipynb          runs it and writes its outputs
    python scripts/run_notebook.py docs/tutorial.ipynb --check  runs it and compares, no more

Jupyter is not needed. A cell's last expression is its result, as there: its text, and its picture
where it has `_repr_png_`. The cells run in a folder of their own, which is deleted. Where a cell
fails, nothing is written. In a comparison numbers may differ, since other machines round otherwise.
"""

from __future__ import annotations

import argparse
import ast
import base64
import contextlib
import io
import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

Outputs = list[dict[str, Any]]


def run_cell(source: str, names: dict[str, Any], count: int) -> Outputs:
    """Run one cell in a namespace.

    Args:
        source: its text.
        names: the namespace, which the cell changes.
        count: which cell it is, for its result.

    Returns:
        Its outputs, as nbformat 4 has them: what was printed, then the value of the last
        expression unless that is None.
    """
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, f"<cell {count}>", "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), f"<cell {count}>", "eval"), names)
    outputs: Outputs = []
    if text := printed.getvalue():
        outputs.append({"name": "stdout", "output_type": "stream", "text": lines_of(text)})
    if value is not None:
        result = {"data": shown(value), "execution_count": count, "metadata": {}}
        outputs.append({**result, "output_type": "execute_result"})
    return outputs


def shown(value: Any) -> dict[str, Any]:
    """Mime type → what a value looks like; addresses in memory are left out."""
    data: dict[str, Any] = {}
    if hasattr(value, "_repr_png_"):
        data["image/png"] = base64.b64encode(value._repr_png_()).decode() + "\n"
    return {**data, "text/plain": lines_of(re.sub(r" at 0x[0-9A-Fa-f]+", "", repr(value)))}


def lines_of(text: str) -> list[str]:
    """A text as notebooks keep it: lines with their ends."""
    return text.splitlines(keepends=True)


def run_notebook(notebook: dict[str, Any]) -> dict[str, Any]:
    """The notebook with new outputs; it runs in the current folder.

    Raises:
        RuntimeError: a cell failed; its cause is the cell's own error.
    """
    names: dict[str, Any] = {"__name__": "__main__"}
    cells, count = [], 0
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            count += 1
            try:
                outputs = run_cell("".join(cell["source"]), names, count)
            except Exception as error:
                raise RuntimeError(f"cell {count} failed: {error}") from error
            cell = {**cell, "execution_count": count, "outputs": outputs}
        cells.append(cell)
    return {**notebook, "cells": cells}


def in_words(cell: dict[str, Any]) -> list[Any]:
    """What a cell showed, without its numbers and its pictures' pixels."""
    found = []
    for output in cell.get("outputs", ()):
        data = output.get("data", {"text": output.get("text")})
        for kind, text in sorted(data.items()):
            words = "" if kind == "image/png" else "".join(text)
            # widths of tables follow their numbers
            found.append((kind, re.sub(r"[\s-]+", " ", re.sub(r"\d+(\.\d+)?", "0", words))))
    return found


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Which cells say something else now."""
    pairs = zip(old["cells"], new["cells"], strict=True)
    return [f"cell {n}: {in_words(a)} → {in_words(b)}" for n, (a, b) in enumerate(pairs, 1)
            if in_words(a) != in_words(b)]  # fmt: skip


def main() -> int:
    """Run, then write or compare; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("notebook", type=Path)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    options = parser.parse_args()
    path = options.notebook.resolve()
    old = json.loads(path.read_text("utf-8"))
    with tempfile.TemporaryDirectory(prefix="notebook-") as folder:
        os.chdir(folder)
        new = run_notebook(old)
        os.chdir(path.parent)
    if options.check:
        found = differences(old, new)
        print("\n".join(found) or "the outputs say the same")
        return 1 if found else 0
    text = json.dumps(new, indent=1, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")
    print(f"{path}: {len(new['cells'])} cells, {len(text) // 1024} KiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
