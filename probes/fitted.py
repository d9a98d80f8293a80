"""What a fit leaves in an estimator, as tensors and plain values, and back again, checked.

A form describes one fitted attribute. Letters stand for sizes that must agree over all of an
estimator: K classes, D features, N rows, G probes, S cells, P penalties, M outputs.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from probes.checks import check_counts
from probes.lazy import Rows, as_numpy
from probes.network import NetworkHead
from probes.regression import NumberScale
from probes.tensor_files import Tensors

MOST_ROW = 1 << 40
"""Numbers in one row of features that can be meant."""


class HeadError(ValueError):
    """A head that cannot be kept, or a file that holds none."""


@dataclass
class Sizes:
    """What the letters stand for in one estimator."""

    known: dict[str, int] = field(default_factory=dict)

    def bind(self, letter: str, size: int, name: str) -> None:
        """HeadError if the letter stands for another size already."""
        if self.known.setdefault(letter, size) != size:
            raise HeadError(f"{name}: {letter}={size}, but {letter}={self.known[letter]} elsewhere")


class Form(Protocol):
    """How one attribute is written and read."""

    optional: bool

    def write(self, value: Any, name: str, tensors: Tensors) -> Any:
        """JSON of a value; its arrays go to `tensors`, under `name` or `name`/…"""

    def read(self, plain: Any, name: str, tensors: Tensors, sizes: Sizes) -> Any:
        """The value; arrays that are used are taken out of `tensors`."""


@dataclass(frozen=True)
class Array:
    """Numbers; `letters` are its sizes, such as "KD"."""

    letters: str
    kinds: str = "f"
    gaps: bool = False  # whether nan stands for what there is not
    optional: bool = False

    def write(self, value: Any, name: str, tensors: Tensors) -> None:
        value = np.asarray(value)
        tensors[name] = torch.from_numpy(np.array(value, value.dtype.newbyteorder("=")))

    def read(self, plain: Any, name: str, tensors: Tensors, sizes: Sizes) -> np.ndarray:
        value = take(tensors, name).numpy()
        if value.dtype.kind not in self.kinds or value.ndim != len(self.letters):
            raise HeadError(
                f"{name} is {value.dtype} {value.shape}; expected ({', '.join(self.letters)}) "
                f"of kind {self.kinds!r}"
            )
        for letter, size in zip(self.letters, value.shape, strict=True):
            sizes.bind(letter, size, name)
        bad = np.isinf(value) if self.gaps else ~np.isfinite(value)
        if bad.any():
            raise HeadError(f"{name} holds nan or inf; expected finite numbers")
        return value


@dataclass(frozen=True)
class Labels:
    """(K,) labels: numbers as an array, strings as JSON."""

    letter: str = "K"
    optional: bool = False

    def write(self, value: Any, name: str, tensors: Tensors) -> Any:
        if value.dtype.kind in "biuf":
            return Array(self.letter).write(value, name, tensors)
        if all(isinstance(one, str) for one in value):
            return {"strings": [str(one) for one in value], "object": value.dtype.kind == "O"}
        raise HeadError(f"{name} has labels of type {value.dtype}; expected numbers or strings")

    def read(self, plain: Any, name: str, tensors: Tensors, sizes: Sizes) -> np.ndarray:
        if plain is None:
            return Array(self.letter, "biuf").read(None, name, tensors, sizes)
        words = plain.get("strings") if isinstance(plain, dict) else None
        if not isinstance(words, list) or not all(isinstance(one, str) for one in words):
            raise HeadError(f"{name}: expected strings")
        sizes.bind(self.letter, len(words), name)
        return np.array(words, object if plain.get("object") else str)


@dataclass(frozen=True)
class Whole:
    """A whole number >= `least` and < `most`, where `letter` is given a size; or None, where that
    may be."""

    letter: str = ""
    maybe: bool = False
    optional: bool = False
    least: int = 0
    most: int = MOST_ROW

    def write(self, value: Any, name: str, tensors: Tensors) -> int | None:
        return None if value is None else int(value)

    def read(self, plain: Any, name: str, tensors: Tensors, sizes: Sizes) -> int | None:
        if plain is None and self.maybe:
            return None
        if type(plain) is not int or not self.least <= plain < self.most:
            raise HeadError(f"{name}={plain!r:.60}; expected a whole number")
        if self.letter:
            sizes.bind(self.letter, plain, name)
        return plain


@dataclass(frozen=True)
class Number:
    """A finite number."""

    optional: bool = False

    def write(self, value: Any, name: str, tensors: Tensors) -> float:
        return float(value)

    def read(self, plain: Any, name: str, tensors: Tensors, sizes: Sizes) -> float:
        if type(plain) not in (int, float) or not math.isfinite(plain):
            raise HeadError(f"{name}={plain!r:.60}; expected a finite number")
        return float(plain)


@dataclass(frozen=True)
class Flag:
    """True or False."""

    optional: bool = False

    def write(self, value: Any, name: str, tensors: Tensors) -> bool:
        return bool(value)

    def read(self, plain: Any, name: str, tensors: Tensors, sizes: Sizes) -> bool:
        if not isinstance(plain, bool):
            raise HeadError(f"{name}={plain!r:.60}; expected true or false")
        return plain


@dataclass(frozen=True)
class Choice:
    """One of some words."""

    known: tuple[str, ...]
    optional: bool = False

    def write(self, value: Any, name: str, tensors: Tensors) -> str:
        return value

    def read(self, plain: Any, name: str, tensors: Tensors, sizes: Sizes) -> str:
        if plain not in self.known:
            raise HeadError(f"{name}={plain!r:.60}; expected one of {', '.join(self.known)}")
        return plain


@dataclass(frozen=True)
class History:
    """A learning curve: a dict per epoch, of numbers; nan and inf as words."""

    optional: bool = False

    def write(self, value: Any, name: str, tensors: Tensors) -> list[dict[str, Any]]:
        return [
            {key: v if math.isfinite(v) else str(float(v)) for key, v in epoch.items()}
            for epoch in value
        ]

    def read(self, plain: Any, name: str, tensors: Tensors, sizes: Sizes) -> list[dict[str, Any]]:
        try:
            return [
                {key: float(v) if isinstance(v, str) else v + 0 for key, v in epoch.items()}
                for epoch in plain
            ]
        except (TypeError, ValueError, AttributeError) as error:
            raise HeadError(f"{name}: expected numbers by epoch") from error


@dataclass(frozen=True)
class RowShapes:
    """Shapes of a row, per array; S arrays."""

    optional: bool = False

    def write(self, value: Any, name: str, tensors: Tensors) -> list[list[int]]:
        return [[int(side) for side in shape] for shape in value]

    def read(self, plain: Any, name: str, tensors: Tensors, sizes: Sizes) -> list[tuple[int, ...]]:
        good = isinstance(plain, list) and plain and all(map(_is_shape, plain))
        if not good:
            raise HeadError(f"{name}={plain!r:.60}; expected shapes of rows")
        sizes.bind("S", len(plain), name)
        return [tuple(shape) for shape in plain]


def _is_shape(shape: Any) -> bool:
    if not isinstance(shape, list) or not 1 <= len(shape) <= 4:
        return False
    return all(type(n) is int and n > 0 for n in shape) and math.prod(shape) < MOST_ROW


@dataclass(frozen=True)
class Size:
    """(H, W), whole numbers above 0."""

    optional: bool = False

    def write(self, value: Any, name: str, tensors: Tensors) -> list[int]:
        return [int(side) for side in value]

    def read(self, plain: Any, name: str, tensors: Tensors, sizes: Sizes) -> tuple[int, int]:
        if not _is_shape(plain) or len(plain) != 2:
            raise HeadError(f"{name}={plain!r:.60}; expected a height and a width")
        return tuple(plain)


@dataclass(frozen=True)
class CellKeys:
    """The (block, t) of several cells."""

    optional: bool = False

    def write(self, value: Any, name: str, tensors: Tensors) -> list[list[Any]]:
        return [[str(block), t.item() if hasattr(t, "item") else t] for block, t in value]

    def read(self, plain: Any, name: str, tensors: Tensors, sizes: Sizes) -> tuple:
        good = isinstance(plain, list) and all(
            isinstance(key, list) and len(key) == 2 and isinstance(key[0], str)
            and type(key[1]) in (int, float) for key in plain
        )  # fmt: skip
        if not good:
            raise HeadError(f"{name}: expected pairs of a block and its t")
        sizes.bind("S", len(plain), name)
        return tuple((block, t) for block, t in plain)


@dataclass(frozen=True)
class Scale:
    """A `NumberScale`."""

    optional: bool = False

    def write(self, value: NumberScale, name: str, tensors: Tensors) -> dict[str, bool]:
        for part in ("mean", "deviation"):
            Array("M").write(getattr(value, part), f"{name}/{part}", tensors)
        return {"flat": value.flat}

    def read(self, plain: Any, name: str, tensors: Tensors, sizes: Sizes) -> NumberScale:
        arrays = [Array("M").read(None, f"{name}/{part}", tensors, sizes)
                  for part in ("mean", "deviation")]  # fmt: skip
        flat = plain.get("flat") if isinstance(plain, dict) else None
        flat = Flag().read(flat, f"{name}.flat", tensors, sizes)
        return NumberScale(*arrays, flat)


@dataclass(frozen=True)
class Table:
    """(N, D) features that are kept as they are; what lies in a file is read."""

    optional: bool = False

    def write(self, value: Rows, name: str, tensors: Tensors) -> None:
        Array("ND").write(as_numpy(value[:]), name, tensors)

    def read(self, plain: Any, name: str, tensors: Tensors, sizes: Sizes) -> Rows:
        values = Array("ND").read(None, name, tensors, sizes)
        return Rows(values, dtype=values.dtype)


@dataclass(frozen=True)
class Module:
    """A torch module: its weights. It is built again by the head, once all else is read."""

    optional: bool = False

    def write(self, value: nn.Module, name: str, tensors: Tensors) -> None:
        for key, weight in value.state_dict().items():
            tensors[f"{name}/{key}"] = weight

    def read(self, plain: Any, name: str, tensors: Tensors, sizes: Sizes) -> Tensors:
        keys = [key for key in tensors if key.startswith(f"{name}/")]
        return {key.removeprefix(f"{name}/"): tensors.pop(key) for key in keys}


def take(tensors: Tensors, name: str) -> torch.Tensor:
    """A tensor out of those of a file."""
    if name not in tensors:
        raise HeadError(f"{name} is missing")
    return tensors.pop(name)


class ShapesOnly:
    """Stands for training rows where a module is built for weights that are there already."""

    def __init__(self, shapes: list[tuple[int, ...]]):
        self.shapes = shapes

    def ordered(self) -> Iterator[tuple[list[torch.Tensor], None]]:
        """One row that has shapes and no values."""
        yield [torch.empty(1, *shape, device="meta") for shape in self.shapes], None


def rebuild(head: NetworkHead, weights: Tensors) -> nn.Module:
    """The module of a fitted head from its weights; built without values, so of any size at once.

    Args:
        head: with parameters, `shapes_` and `n_outputs_`.
        weights: all of the module's, by name.

    Raises:
        HeadError: parameters that build none, weights of another module, nan or inf.
    """
    _check_extent(head, len(weights))
    shapes = head.shapes_
    features = len(shapes) if hasattr(head, "cells_") else shapes[0][0]
    if head.n_features_in_ != features:
        raise HeadError(f"n_features_in_={head.n_features_in_}; expected {features}")
    try:
        check_counts(head, "batch_size")
        head._training()
        with warnings.catch_warnings(), torch.device("meta"):
            warnings.simplefilter("ignore")  # those of the fit were shown then
            module = head._build(shapes, head.n_outputs_, ShapesOnly(shapes))
    except Exception as error:  # whatever wrong parameters lead to
        raise HeadError(f"the parameters build no module ({error})") from error
    expected = module.state_dict()
    if lacking := sorted(expected.keys() ^ weights.keys()):
        raise HeadError(f"weights of another module: {lacking[0]!r} and {len(lacking) - 1} others")
    for name, weight in weights.items():
        wanted = expected[name]
        if (weight.shape, weight.dtype) != (wanted.shape, wanted.dtype):
            raise HeadError(
                f"{name} is {weight.dtype} {tuple(weight.shape)}; expected {wanted.dtype} "
                f"{tuple(wanted.shape)}"
            )
        if weight.is_floating_point() and not torch.isfinite(weight).all():
            raise HeadError(f"{name} holds nan or inf; expected finite weights")
    module.load_state_dict(weights, strict=True, assign=True)
    return module.eval()


def _check_extent(head: NetworkHead, tensors: int) -> None:
    """HeadError where parameters say more layers than there are weights: no time for those."""
    for name, value in head.get_params(deep=False).items():
        layers = len(value) if isinstance(value, tuple) else value if name == "depth" else 0
        if not isinstance(layers, int) or layers > tensors:
            raise HeadError(f"{name}={value!r:.60} with {tensors} weights; expected fewer layers")
