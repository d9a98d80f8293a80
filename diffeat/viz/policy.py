"""What a policy per picture learnt: its rewards, and which t it chooses for which class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np

from diffeat.noise import format_t
from diffeat.viz.curves import BLUE, GREY, MANY, Rows
from diffeat.viz.figures import save, shorten, subplots

MOST = 40
"""Classes that are drawn one by one; of more, all are one bar."""


def policy_picture(
    history: Rows,
    chosen_epoch: int,
    counts: Sequence[Sequence[int]],
    names: Sequence[str],
    timesteps: Sequence[float],
    path: str | Path | IO[bytes],
    fixed: float | None = None,
    reward: str = "reward",
    title: str = "",
) -> None:
    """Write a picture: the validation reward by epochs, and the chosen t by class.

    Args:
        history: per epoch a mapping with `epoch` and `validation_reward`.
        chosen_epoch: the epoch whose weights were kept, which is marked.
        counts: (K, A) pictures of each class for which each t was chosen.
        names: (K,) of the classes.
        timesteps: (A,) the t.
        path: the picture; its suffix says the format (PNG without one), or an open file.
        fixed: the best t for all pictures, named in the legend.
        reward: what a reward is.
        title: headline.
    """
    table = np.asarray(counts, np.float64)
    if len(table) > MOST:
        table, names = table.sum(0, keepdims=True), ["all classes"]
    shares = 100 * table / np.maximum(1, table.sum(1, keepdims=True))
    figure, axes = subplots(1, 2, (9.0, max(3.0, 1.3 + 0.24 * len(table))))
    left, right = axes[0]
    epochs = [one["epoch"] for one in history]
    left.plot(epochs, [one["validation_reward"] for one in history], color=BLUE, linewidth=1.5)
    left.axvline(chosen_epoch, color=GREY, linestyle="--", linewidth=1)
    left.set_xlabel("epoch; dashed: the one that was kept", fontsize=9)
    left.set_ylabel(f"validation {reward}", fontsize=9)
    before = np.zeros(len(shares))
    for arm, t in enumerate(timesteps):
        label = f"t={format_t(t)}" + (" (best fixed)" if t == fixed else "")
        colour = MANY[arm % len(MANY)]
        right.barh(np.arange(len(shares)), shares[:, arm], left=before, color=colour,
                   label=label, edgecolor="white", linewidth=0.5,
                   hatch=("", "//", "..", "xx")[arm // len(MANY) % 4])  # fmt: skip
        before += shares[:, arm]
    right.set_yticks(np.arange(len(shares)), [shorten(str(name), 18) for name in names])
    right.invert_yaxis()
    right.set_xlabel("chosen t, % of the test pictures of a class", fontsize=9)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    figure.legend(loc="outside lower center", ncols=6, fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=10, parse_math=False)
    save(figure, path)
