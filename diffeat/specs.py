"""The frozen description of an extraction."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from diffeat.errors import SpecError, nearest
from diffeat.hashing import fingerprint
from diffeat.images.decode import FITS, RESAMPLING
from diffeat.noise import NOISES, Level

DTYPES = ("float16", "float32", "bfloat16")
LATENTS = ("mean", "sample")


@dataclass(frozen=True)
class ExtractSpec:
    """What is extracted, from which noise levels and blocks, and how.

    Two extractions with equal specs from the same model and pictures give equal features.

    Attributes:
        timesteps: noise levels: native t, "sigma=…", "snr=…", flow times (see Schedule.resolve).
        blocks: names, wildcards or groups (see resolve_blocks).
        pool: "none" keeps maps (N, C, H, W); "KxK" averages to a K×K grid and flattens it to
            (N, C·K·K), channel-major; "1x1" is global average pooling.
        ensemble: noise samples per picture whose features are averaged, in fp32.
        seed: seeds the noise, together with the picture's id and the ensemble member.
        noise: "per-image"; "shared", the same noise for every picture; "none", the clean
            latent with only the label t.
        prompt: text for text-conditional models.
        label: class index for class-conditional models; None is the null class.
        latent: for models with a VAE, the posterior's "mean" or a seeded "sample".
        size: (H, W) in pixels, or one number for both; None is the model's own size.
        fit: how a picture is brought to that size: "squash", "crop" or "pad".
        resample: filter: "nearest", "bilinear", "bicubic" or "lanczos".
        dtype: of the stored features: "float16", "float32" or "bfloat16" (not in files).

    Raises:
        SpecError: a field has a value that cannot be meant.
    """

    timesteps: tuple[Level, ...]
    blocks: tuple[str, ...]
    pool: str = "none"
    ensemble: int = 1
    seed: int = 0
    noise: str = "per-image"
    prompt: str = ""
    label: int | None = None
    latent: str = "mean"
    size: tuple[int, int] | int | None = None
    fit: str = "squash"
    resample: str = "bicubic"
    dtype: str = "float16"

    def __post_init__(self) -> None:
        set_field = partial(object.__setattr__, self)  # the dataclass is frozen
        set_field("timesteps", _tuple_of("timesteps", self.timesteps, (int, float, str)))
        set_field("blocks", _tuple_of("blocks", self.blocks, (str,)))
        for name in ("ensemble", "seed", "label"):
            value = _plain(getattr(self, name))
            optional = name == "label" and value is None
            if not optional and (not isinstance(value, int) or isinstance(value, bool)):
                raise SpecError(f"{name}={value!r}; expected a whole number")
            set_field(name, value)
        if self.ensemble < 1:
            raise SpecError(f"ensemble={self.ensemble}; expected at least 1")
        if not isinstance(self.prompt, str):
            raise SpecError(f"prompt={self.prompt!r}; expected a text")
        set_field("size", _size(self.size))
        pool = "none" if self.pool in (None, "") else self.pool
        set_field("pool", pool.lower() if isinstance(pool, str) else pool)
        pool_size(self.pool)
        _one_of("noise", self.noise, NOISES)
        _one_of("latent", self.latent, LATENTS)
        _one_of("fit", self.fit, FITS)
        _one_of("resample", self.resample, RESAMPLING)
        _one_of("dtype", self.dtype, DTYPES)

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return json.loads(json.dumps(asdict(self)))

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), sort_keys=True)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ExtractSpec:
        """Build a spec from plain values; SpecError names unknown and missing fields."""
        if not isinstance(values, Mapping):
            raise SpecError(f"a spec is a table of fields, not {values!r}")
        known = {field.name for field in fields(cls)}
        for name in values:
            if name not in known:
                raise SpecError(f"a spec has no field {name!r}{nearest(name, known)}")
        for name in ("timesteps", "blocks"):
            if name not in values:
                raise SpecError(f"the spec has no {name}; expected a list")
        return cls(**values)

    @classmethod
    def from_json(cls, text: str) -> ExtractSpec:
        try:
            return cls.from_dict(json.loads(text))
        except json.JSONDecodeError as error:
            raise SpecError(f"spec: {error}; expected a JSON object") from error

    @classmethod
    def from_file(cls, path: str | Path) -> ExtractSpec:
        """Read a .toml or .json file of the fields."""
        return cls.from_dict(read_spec_file(path))

    @property
    def fingerprint(self) -> str:
        """Hash of all fields."""
        return fingerprint(self.to_dict())


def read_spec_file(path: str | Path) -> dict[str, Any]:
    """The fields in a .toml or .json file, not yet checked; SpecError if it holds no table."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise SpecError(f"spec file {path}: {error}; expected TOML or JSON") from error
    if not isinstance(values, dict):
        raise SpecError(f"spec file {path}: expected a table of fields, not {values!r}")
    return values


def pool_size(pool: str) -> tuple[int, int] | None:
    """Grid of a pooling: "2x2" → (2, 2), "none" → None; SpecError for anything else."""
    if pool == "none":
        return None
    match = re.fullmatch(r"([1-9][0-9]*)[xX]([1-9][0-9]*)", pool) if isinstance(pool, str) else None
    if match is None:
        raise SpecError(f"pool={pool!r}; expected 'none' or rows×columns such as '1x1' or '2x2'")
    return int(match[1]), int(match[2])


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """The fields in which two plain descriptions differ, as "name: found → wanted"."""
    names = [*wanted, *(name for name in found if name not in wanted)]
    return [
        f"{name}: {found.get(name)!r} → {wanted.get(name)!r}"
        for name in names
        if found.get(name) != wanted.get(name)
    ]


def _plain(value: Any) -> Any:
    """A Python number for a numpy one, so that a spec is always plain JSON."""
    return value.item() if isinstance(value, np.generic) else value


def _tuple_of(name: str, value: Any, kinds: tuple[type, ...]) -> tuple:
    """A tuple of plain values; one value counts as a tuple of one."""
    single = isinstance(_plain(value), kinds)
    try:
        items = (_plain(value),) if single else tuple(_plain(item) for item in value)
    except TypeError:
        raise SpecError(f"{name}={value!r}; expected a list") from None
    for item in items:
        if not isinstance(item, kinds) or isinstance(item, bool):
            words = " or ".join(kind.__name__ for kind in kinds)
            raise SpecError(f"{name}: {item!r} is no {words}")
    return items


def _size(value: Any) -> tuple[int, int] | None:
    """(H, W) from one number or two; SpecError for anything else."""
    if value is None:
        return None
    pair = value if isinstance(value, (tuple, list, np.ndarray)) else (value, value)
    pair = tuple(_plain(side) for side in pair)
    whole = all(isinstance(side, int) and not isinstance(side, bool) for side in pair)
    if len(pair) != 2 or not whole or min(pair) < 1:
        raise SpecError(f"size={value!r}; expected height and width in whole pixels")
    return pair


def _one_of(name: str, value: Any, allowed) -> None:
    if not isinstance(value, str) or value not in allowed:
        raise SpecError(
            f"{name}={value!r} is unknown; expected {' or '.join(map(repr, allowed))}"
            f"{nearest(str(value), allowed)}"
        )
