"""What all figures share: made without a display, written by their suffix."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

DPI = 120
"""Pixels of a figure's inch. Figures are up to 9 inches wide, so that letters of 8 pt are still
10 pixels high or so where a page shows them at 900."""
RED = "#ff0000"


def new_figure(size: tuple[float, float]) -> Any:
    """An empty figure of (width, height) inches, whose parts make room for one another."""
    # not pyplot: it keeps global state, and may look for a display
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def subplots(rows: int, columns: int, size: tuple[float, float], width_ratios=None):
    """A figure and its (rows, columns) axes."""
    figure = new_figure(size)
    axes = figure.subplots(rows, columns, squeeze=False, width_ratios=width_ratios)
    return figure, axes


def save(figure: Any, path: str | Path | IO[bytes], dpi: int = DPI) -> None:
    """Write a figure; the suffix says the format, PNG without one."""
    kind = Path(path).suffix[1:].lower() or "png" if isinstance(path, (str, Path)) else "png"
    metadata = {"Software": "diffeat"} if kind == "png" else None
    figure.savefig(path, dpi=dpi, format=kind, metadata=metadata)


def shorten(name: str, most: int = 24) -> str:
    """A long name by its end, which tells files apart; "…" stands for the rest."""
    return name if len(name) <= most else "…" + name[len(name) + 1 - most :]
