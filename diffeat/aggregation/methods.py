"""Which aggregator a name stands for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffeat.errors import SpecError, StoreError, nearest
from probes.aggregate import (
    ConcatCells,
    CoPCA,
    Fusion,
    PCACells,
    SumCells,
)
from probes.aggregate.base import Aggregator


@dataclass(frozen=True)
class Method:
    """A way to make one map of several that is fitted without targets.

    Attributes:
        make: (number, weights, device) → the unfitted aggregator.
        number: what a number after its name says, "" where there is none.
        weighted: whether it takes weights.
    """

    make: Callable[[int | None, Sequence[float] | None, str], Aggregator]
    number: str = ""
    weighted: bool = False


def _components(number: int | None) -> dict[str, int]:
    return {} if number is None else {"components": number}


METHODS = {
    "concat": Method(lambda number, weights, device: ConcatCells(device=device)),
    "sum": Method(
        lambda number, weights, device: SumCells(weights=weights, device=device), weighted=True
    ),
    "pca": Method(
        lambda number, weights, device: PCACells(device=device, **_components(number)),
        "components",
    ),
    "co-pca": Method(
        lambda number, weights, device: CoPCA(scope="set", device=device, **_components(number)),
        "components",
    ),
    "fuse": Method(
        lambda number, weights, device: Fusion(weights=weights, device=device), weighted=True
    ),
}  # fmt: skip
"""Name → what it stands for; "pca:64" and "fuse:1,0.5" give the number or the weights."""


@dataclass(frozen=True)
class Asked:
    """What was asked for: a name with its number or weights, or a fitted aggregator.

    Attributes:
        aggregator: fitted or not.
        text: how it was asked for, where a name says all: "pca:64".
        fitted: whether it is.
        about: what the file of a fitted one says of its features.
    """

    aggregator: Aggregator
    text: str = ""
    fitted: bool = False
    about: dict[str, Any] | None = None

    @property
    def request(self) -> str:
        """What must be equal for two runs to give one file, known before anything is fitted."""
        from probes.saved import digest

        return self.text or f"{type(self.aggregator).__name__} {digest(self.aggregator)}"


def method_of(how: Any, device: str = "auto") -> Asked:
    """What `how` stands for.

    Args:
        how: a name of `METHODS`, with a number or weights behind a colon; a .safetensors file of
            a kept aggregator; or an aggregator.
        device: where it runs.

    Raises:
        SpecError: nothing of that kind.
        StoreError: a file that holds no aggregator.
    """
    if isinstance(how, Aggregator):
        fitted = hasattr(how, "cells_")
        text = "" if fitted else f"{how!r}"
        return Asked(how, text, fitted, getattr(how, "about_", None))
    if Path(str(how)).suffix == ".safetensors":
        return load_aggregator(how, device)
    if not isinstance(how, str):
        raise SpecError(f"how={how!r:.60}; expected {_expected()}")
    name, _, rest = how.partition(":")
    if name not in METHODS:
        raise SpecError(f"how={how!r}{nearest(name, METHODS)}; expected {_expected()}")
    return named(name, rest, device)


def named(name: str, rest: str = "", device: str = "auto") -> Asked:
    """Of one of `METHODS`, with its number or weights as text."""
    method, number, weights = METHODS[name], None, None
    try:
        if rest and method.number:
            number = int(rest)
            if number < 1:
                raise ValueError
        elif rest and method.weighted:
            weights = tuple(float(part) for part in rest.split(","))
        elif rest:
            raise ValueError
    except ValueError:
        takes = f"a whole number of {method.number}" if method.number else "weights such as 1,0.5"
        raise SpecError(
            f"{name}:{rest}; expected "
            + (takes if method.number or method.weighted else f"{name} alone")
        ) from None
    text = f"{name}:{rest}" if rest else name
    return Asked(method.make(number, weights, device), text)


def load_aggregator(path: str | Path, device: str = "auto") -> Asked:
    """A kept aggregator.

    Raises:
        StoreError: no such file, or it holds a head of another kind.
    """
    from probes import HeadError, load

    try:
        found = load(path, device)
    except HeadError as error:
        raise StoreError(str(error)) from error
    if not isinstance(found, Aggregator):
        raise StoreError(
            f"{path} holds a {type(found).__name__}, which predicts; expected what makes maps of "
            "maps, kept by diffeat aggregate --save (diffeat predict applies heads)"
        )
    return Asked(found, "", True, found.about_)


def _expected() -> str:
    return (
        f"{', '.join(METHODS)}, with a number or weights behind it (pca:64, fuse:1,0.5), a "
        ".safetensors file, or an aggregator of probes.aggregate"
    )
