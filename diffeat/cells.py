"""Cells, (block, t), as features in memory and in files give them and show themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from diffeat.noise import NoiseLevel, NoLevel, format_t
from diffeat.specs import DEFAULTS

ALWAYS = ("pool", "size", "fit", "resample", "noise", "ensemble", "seed", "latent", "dtype")
"""Fields of a spec that are shown; others only where they are not the default."""
MOST = 12
"""Lines, names or levels that are shown of many."""


class Levels(Mapping[float, Any]):
    """All t of one block: native t → its features, in the order of the t's.

    `features["up.1"][20]` and `features["up.1"]["sigma=0.3"]` are what
    `features["up.1", 20]` and `features["up.1", "sigma=0.3"]` are; nothing is copied or read
    before. `torch.stack(list(features["up.1"].values()))` is (T, N, …).

    Args:
        block: its name.
        timesteps: T native t.
        get: t, in any form → features (N, …).
    """

    def __init__(self, block: str, timesteps: Sequence[float], get: Callable[[Any], Any]):
        self.block, self._timesteps, self._get = block, tuple(timesteps), get

    def __getitem__(self, t: Any) -> Any:
        return self._get(t)

    def __contains__(self, t: Any) -> bool:
        return isinstance(t, (int, float)) and t in self._timesteps

    def __iter__(self) -> Iterator[float]:
        return iter(self._timesteps)

    def __len__(self) -> int:
        return len(self._timesteps)

    def __repr__(self) -> str:
        shown = ", ".join(f"{format_t(t)}: {tuple(self[t].shape)}" for t in self._timesteps[:MOST])
        more = f", … {len(self)} t" if len(self) > MOST else ""
        return f"Levels({self.block!r}, {{{shown}{more}}})"


def pictures_text(count: int, class_names: Sequence[str] = ()) -> str:
    """ "36 pictures, 3 classes (cat, dog, owl)"."""
    text = f"{count:,} picture" + "s" * (count != 1)
    return f"{text}, {len(class_names)} classes ({_some(class_names)})" if class_names else text


def level_text(level: NoiseLevel) -> str:
    """A level as people compare it: "sigma/alpha 0.2991, log-SNR 2.41"."""
    if not level.alpha:
        return "pure noise"
    return f"sigma/alpha {level.sigma / level.alpha:.4g}, log-SNR {level.log_snr:.2f}"


def asked_text(asked: str, level: NoiseLevel) -> str:
    """What was asked for beside what it became: "sigma=0.3 → t 37, sigma/alpha 0.2991, …"."""
    return f"{asked} → t {format_t(level.t)}, {level_text(level)}"


def cell_lines(
    blocks: Sequence[tuple[str, Sequence[int], int]],
    levels: Sequence[NoiseLevel],
    asked: Mapping[float, str],
) -> list[str]:
    """A line for each block and each t, with headings; of very many the first.

    Args:
        blocks: (name, shape of its features, stride).
        levels: the noise levels.
        asked: native t → what was written for it, where it was something else.
    """
    width = max(5, *(len(name) for name, *_ in blocks[:MOST]))
    lines = [f"  {'block':<{width}}  stride  shape"]
    lines += [f"  {n:<{width}}  {stride:>6}  {tuple(shape)}" for n, shape, stride in blocks[:MOST]]
    lines += [f"  … {len(blocks)} blocks"] if len(blocks) > MOST else []
    if isinstance(levels[0].t, NoLevel):
        return lines
    lines.append(f"  {'t':<{width}}  level")
    for level in levels[:MOST]:
        was = f" (asked: {asked[level.t]})" if level.t in asked else ""
        lines.append(f"  {format_t(level.t):<{width}}  {level_text(level)}{was}")
    return lines + ([f"  … {len(levels)} t"] if len(levels) > MOST else [])


def spec_text(spec: Mapping[str, Any]) -> str:
    """The plain fields of a spec that say how a cell was made."""
    apart = ("blocks", "timesteps", *ALWAYS)
    further = [name for name in spec if name not in apart and spec[name] != DEFAULTS[name]]
    native = {"size": "native"} if spec["fit"] == "native" else {}
    return ", ".join(f"{name}={native.get(name, spec[name])}" for name in (*ALWAYS, *further))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:MOST]) + (", …" if len(names) > MOST else "")
