"""Learning curves: loss and validation score, epoch by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from diffeat.errors import SpecError
from diffeat.viz.figures import save, subplots

BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#007a5a", "#555555"
"""Told apart with every kind of sight (Okabe and Ito's, the green a little darker)."""
MANY = (BLUE, ORANGE, GREEN, "#cc79a7", "#56b4e9", "#e69f00", "#000000")
SHARES = ("accuracy", "mean_average_precision", "r2")
"""Validation scores that are shown in hundredths."""
LOSSES = {
    "loss": ("training", BLUE),
    "running_loss": ("training, running mean", ORANGE),
    "validation_loss": ("validation", ORANGE),
}
Rows = Sequence[Mapping[str, Any]]


def learning_curve(
    history: Rows,
    path: str | Path | IO[bytes],
    chosen: int | None = None,
    title: str = "",
    step: str = "epoch",
) -> None:
    """Write a picture of a training: the loss above, the validation score below it.

    The epoch whose weights were kept is marked in both. Losses have a logarithmic axis where they
    fall by more than ten.

    Args:
        history: per epoch a mapping with `epoch`, `loss` and, where there are any,
            `validation_loss` and `validation_METRIC`: the `history_` of a head, or rows of a
            training's log.
        path: the picture; its suffix says the format (PNG without one), or an open file.
        chosen: the epoch whose weights were kept, such as `best_epoch_`.
        title: headline.
        step: what the rows count: "epoch", or "step" of a log.

    Raises:
        SpecError: no rows, or rows without `step` or a loss.
    """
    losses = [name for name in LOSSES if history and name in history[0]]
    if not losses or step not in history[0]:
        seen = ", ".join(history[0]) if history else "nothing"
        raise SpecError(
            f"a learning curve needs rows with {step} and loss; there are {len(history)}, of {seen}"
        )
    at = _column(history, step)
    scores = _scores(history)
    figure, axes = subplots(1 + len(scores), 1, (6.5, 2.3 + 2.0 * len(scores)))
    for name in losses:
        label, colour = LOSSES[name]
        faint = 0.4 if "running_loss" in losses and name == "loss" else 1.0
        _line(axes[0, 0], at, _column(history, name), label, colour, faint)
    _loss_axis(axes[0, 0], np.concatenate([_column(history, name) for name in losses]))
    for axis, name in zip(axes[1:, 0], scores, strict=True):
        _score(axis, at, _column(history, name), name.removeprefix("validation_"), chosen)
    for axis in axes[:, 0]:
        if chosen is not None:
            kept = f"{step} {chosen}, kept"
            axis.axvline(chosen, color=GREY, linestyle="--", linewidth=1, label=kept)
        _plain_axis(axis)
    axes[0, 0].legend(fontsize=8, frameon=False)
    axes[-1, 0].set_xlabel(step, fontsize=9)
    figure.suptitle(title, fontsize=10, parse_math=False)
    save(figure, path)


def score_curves(
    runs: Mapping[str, tuple[Rows, int | None]], path: str | Path, title: str = ""
) -> bool:
    """Write a picture of the validation scores of several trainings, the kept epochs marked.

    Args:
        runs: name → history as for `learning_curve`, and the epoch that was kept. Those without a
            validation score, or of another one than the first's, are left out.
        path: the picture; its suffix says the format (PNG without one).
        title: headline.

    Returns:
        Whether there was anything to draw.
    """
    scores = {name: _scores(history) for name, (history, _) in runs.items()}
    found = next((names[0] for names in scores.values() if names), None)
    if found is None:
        return False
    figure, axes = subplots(1, 1, (7.5, 3.2 + 0.1 * len(runs)))
    axis, words = axes[0, 0], found.removeprefix("validation_")
    factor, unit = (100, ", %") if words in SHARES else (1, "")
    for k, (name, (history, chosen)) in enumerate(runs.items()):
        if found not in scores[name]:
            continue
        at, values = _column(history, "epoch"), factor * _column(history, found)
        style = ("-", "--", ":", "-.")[k // len(MANY) % 4]
        axis.plot(at, values, style, color=MANY[k % len(MANY)], label=name, linewidth=1.5)
        axis.plot(at[at == chosen], values[at == chosen], "o", color=MANY[k % len(MANY)],
                  markeredgecolor="black", markersize=6)  # fmt: skip
    axis.set_ylabel(f"validation {words.replace('_', ' ')}{unit}", fontsize=9)
    axis.set_xlabel("epoch; dots: the one that was kept", fontsize=9)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    _plain_axis(axis)
    figure.suptitle(title, fontsize=10, parse_math=False)
    save(figure, path)
    return True


def _scores(history: Rows) -> list[str]:
    """Keys of the validation scores of a training."""
    names = history[0] if history else ()
    return [name for name in names if name.startswith("validation_") and name not in LOSSES]


def _plain_axis(axis: Any) -> None:
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)
    axis.xaxis.get_major_locator().set_params(integer=True)


def _column(history: Rows, name: str) -> np.ndarray:
    """(rows,) float64; nan where a row has nothing."""
    found = [row.get(name) for row in history]
    return np.array([np.nan if value in (None, "") else float(value) for value in found])


def _line(axis: Any, at: np.ndarray, values: np.ndarray, label: str, colour: str, alpha=1.0):
    marker = "o" if len(at) <= 30 else ""
    axis.plot(at, values, label=label, color=colour, alpha=alpha, marker=marker, markersize=3,
              linewidth=1.5)  # fmt: skip


def _loss_axis(axis: Any, values: np.ndarray) -> None:
    axis.set_ylabel("loss", fontsize=9)
    values = values[np.isfinite(values)]
    if len(values) and values.min() > 0 and values.max() > 10 * values.min():
        axis.set_yscale("log")


def _score(axis: Any, at: np.ndarray, values: np.ndarray, name: str, chosen: int | None) -> None:
    """A validation score, with its number at the chosen epoch."""
    words = name.replace("_", " ")
    share = name in SHARES
    values = 100 * values if share else values
    _line(axis, at, values, words, GREEN)
    axis.set_ylabel(f"validation {words}{', %' if share else ''}", fontsize=9)
    place = np.flatnonzero(at == chosen) if chosen is not None else []
    if len(place):
        value = values[place[0]]
        text = f"epoch {chosen}: {value:.1f} %" if share else f"epoch {chosen}: {value:.4g}"
        axis.plot([chosen], [value], "o", color=GREEN, markersize=8, markeredgecolor="black")
        late = chosen > (at[0] + at[-1]) / 2
        axis.annotate(
            text, (chosen, value), (-8 if late else 8, -12), textcoords="offset points",
            fontsize=9, ha="right" if late else "left", va="top",
        )  # fmt: skip
        axis.margins(y=0.25)
