"""The frozen description of an extraction."""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffeat.errors import SpecError, brief, nearest, reason_of
from diffeat.hashing import fingerprint
from diffeat.ranges import expand_ranges

if TYPE_CHECKING:
    from diffeat.noise import Level

DTYPES = ("float16", "float32", "bfloat16", "int8")
LATENTS = ("mean", "sample")
TILE_NOISES = ("picture", "tile")
TILE_LAYOUTS = ("even", "shifted")
CLASS_LABEL = "class"
"""A label that stands for each picture's own class."""
PLACEHOLDERS = ("{class}", "{category}")
"""What a prompt has in place of the name of a picture's class."""
LATER = ("mirror", "label_map", "tile_noise", "tile_layout", "corrupt", "low_pass")
"""Fields that came after 0.6. At its default such a field is not written down, so that specs,
fingerprints and journals stay those of 0.6, and 0.6 reads files that do without it."""


HELP = {
    "timesteps": "Noise levels: 20,60 or 0:1000:100 (start:stop:step, without the stop) or "
    "sigma=0.3 or snr=10; flow models also 0.25; vision models (timm:…, transformers:…) need none; "
    "weights that were trained for one t: learned.",
    "blocks": "Names (up.1, up.1.attn.0:cross.q), wildcards (up.*, up.*.res.*, up.**), groups "
    "(all, encoder, decoder, stages) or a paper's names (dift:1).",
    "pool": "{default} (maps, the default), 1x1, 2x2, …",
    "ensemble": "Noise samples averaged per picture (default {default}).",
    "seed": "Seed of the noise (default {default}).",
    "noise": "{default} (default: seeded by the picture's id), per-content (by its bytes, "
    "whatever it is called), shared, uniform, none, inversion or generation.",
    "steps": "Steps of an inversion or generation (default {default}).",
    "prompt": "For text-conditional models (default empty); {class} is the picture's class.",
    "captions": "CSV, TSV or JSONL file with a prompt per picture, or 'pictures' for those that "
    "came with them.",
    "embeddings": ".safetensors file with text embeddings, or with learned prompts.",
    "label": "For class-conditional models: an index, or 'class' for each picture's own (default "
    "the null class).",
    "label_map": "With --label class: a CSV, TSV or JSON file, picture class → model's class "
    "(name or number).",
    "latent": "VAE posterior: {default} (default) or sample.",
    "scale_latent": "With the VAE's shift and scale (default), or without.",
    "size": "Picture size, 512 or 480x640 (default: the model's).",
    "fit": "{default} (default), crop, box-crop (guided-diffusion's), pad or native (own size; "
    "needs --pool).",
    "resample": "nearest, bilinear, {default} (default) or lanczos.",
    "tile": "Run in tiles of this size, averaged where they overlap; none undoes a recipe's.",
    "tile_noise": "{default} (default): a tile has its part of the picture's; tile: every tile "
    "has the same.",
    "tile_layout": "{default} (default), or shifted: side by side, the last shifted back.",
    "flip": "Average with the mirrored picture.",
    "mirror": "The mirrored picture alone.",
    "corrupt": "NAME:SEVERITY (1 to 5): make pictures worse first, as ImageNet-C does, to test on "
    "them: gaussian_noise, shot_noise, impulse_noise, speckle_noise, gaussian_blur, defocus_blur, "
    "brightness, contrast, saturate, jpeg_compression or pixelate; cifar:NAME:SEVERITY: as "
    "strongly as CIFAR-10-C.",
    "heads": "Heads of attention to keep: of q, k, v and z their channels (default all), of maps "
    "each apart (default their mean). One head by name: up.1.attn.0:self.q.h3.",
    "tokens": "Keys of attention maps to keep (of t2i.map: text tokens).",
    "low_pass": "Keep of every map its frequencies up to this radius, in Nyquist frequencies "
    "(0 to 1.41; 0.5 is a half), before it is pooled.",
    "discard": "Channels set to 0 before …:adaln (see `diffeat channels`).",
    "dtype": "Stored precision: {default} (default), float32, or int8 with scales.",
}
"""Field → what every command says of it, in this order; "{default}" stands for its default."""


@dataclass(frozen=True)
class ExtractSpec:
    """What is extracted, from which noise levels and blocks, and how.

    Two extractions with equal specs from the same model and pictures give equal features.

    Attributes:
        timesteps: noise levels: native t, "sigma=…", "snr=…", flow times (see Schedule.resolve),
            or "learned", the t that weights of the denoiser were trained for (see
            `diffeat.adapt.CleanDIFT`);
            a range "0:1000:100" is spelled out (see `expand_ranges`).
        blocks: names, wildcards or groups (see resolve_blocks).
        pool: "none" keeps maps (N, C, H, W); "KxK" averages to a K×K grid and flattens it to
            (N, C·K·K), channel-major; "1x1" is global average pooling.
        ensemble: noise samples per picture whose features are averaged, in fp32.
        seed: seeds the noise, together with the picture's id and the ensemble member.
        noise: "per-image", seeded by the picture's id; "per-content", by the digest of its bytes
            in place of the id (see docs/ids.md); "shared", the same noise for every picture;
            "uniform", per picture but uniform on [0, 1) in place of Gaussian; "none", the clean
            latent with only the label t (which may then lie between a schedule's steps);
            "inversion", the latents of a DDIM inversion (for flow and EDM models, of the same ODE
            by Euler's method); "generation", the latents of a picture painted from the seeded
            noise, whatever the picture shows.
        steps: number of steps of an inversion or generation; its levels are the t's to choose
            from.
        prompt: text for text-conditional models; "{class}" or "{category}" in it becomes the
            name of the picture's class.
        captions: a CSV, TSV or JSONL file with one prompt per picture, or "pictures" for those
            that come with the source; takes the place of `prompt`.
        embeddings: a .safetensors file with the denoiser's text tensors, one row for all
            pictures or one each, or with prompts that were learned for the model (see
            `diffeat.adapt.PromptTuning`), for all or by class; takes the place of `prompt`.
        label: class index for class-conditional models; "class" is each picture's own; None
            is the null class.
        label_map: with label "class", a CSV, TSV or JSON file that says which class of the model
            (name or number) each class of the pictures is; those that it does not name are
            looked for by their names (see `map_classes`).
        latent: for models with a VAE, the posterior's "mean" (or "mode", the same) or a seeded
            "sample".
        scale_latent: whether the latent is shifted and scaled as the denoiser was trained.
        size: (H, W) in pixels, or one number for both; None is the model's own size.
        fit: how a picture is brought to that size: "squash", "crop", "box-crop" (that of
            guided-diffusion, see `fit_picture`) or "pad"; "native" keeps each picture's own,
            rounded to what the model divides (needs pooled features).
        resample: filter: "nearest", "bilinear", "bicubic" or "lanczos".
        tile: (H, W) of tiles that are run one by one, their maps averaged where they overlap;
            None runs the whole picture.
        tile_noise: "picture": a tile has its part of the picture's noise; "tile": every tile has
            the same noise, drawn at the size of a tile.
        tile_layout: "even": as few tiles as cover the picture, evenly spread; "shifted": side by
            side from the start, the last shifted back to end with the picture.
        flip: also run the mirrored picture and average its maps, mirrored back.
        mirror: run the mirrored picture alone; its features stay in its own frame, as those of
            a mirrored file would.
        corrupt: "NAME:SEVERITY" makes every picture worse before anything else, as decoded and
            upright (see `diffeat.images.corrupt`); what is random is seeded by `seed` and the
            picture's id.
        heads: heads of attention that are kept, in this order: of q, k, v and z their channels
            side by side, of maps each apart; None keeps all channels, and of maps the mean over
            heads. A block that is one head (…:self.q.h3) keeps that one.
        tokens: channels of attention maps that are kept: text tokens, or cells in row-major
            order; None keeps all.
        low_pass: maps lose their spatial frequencies above this radius, in Nyquist frequencies
            (see `low_passed`), before they are pooled; None keeps all.
        discard: channels set to 0 before the adaptive norm of "…:adaln" (see
            `massive_channels`).
        dtype: of the stored features: "float16", "float32", "bfloat16" (not in files) or
            "int8" (only in files; 8 bits and a scale per channel, token or 32 of a vector).

    Raises:
        SpecError: a field has a value that cannot be meant.
    """

    timesteps: tuple[Level, ...]
    blocks: tuple[str, ...]
    pool: str = "none"
    ensemble: int = 1
    seed: int = 0
    noise: str = "per-image"
    steps: int = 50
    prompt: str = ""
    captions: str | None = None
    embeddings: str | None = None
    label: int | str | None = None
    label_map: str | None = None
    latent: str = "mean"
    scale_latent: bool = True
    size: tuple[int, int] | int | None = None
    fit: str = "squash"
    resample: str = "bicubic"
    tile: tuple[int, int] | int | None = None
    flip: bool = False
    mirror: bool = False
    tile_noise: str = "picture"
    tile_layout: str = "even"
    corrupt: str | None = None
    heads: tuple[int, ...] | None = None
    tokens: tuple[int, ...] | None = None
    low_pass: float | None = None
    discard: tuple[int, ...] = ()
    dtype: str = "float16"

    def __post_init__(self) -> None:
        set_field = partial(object.__setattr__, self)  # the dataclass is frozen
        levels = _tuple_of("timesteps", self.timesteps, (int, float, str))
        set_field("timesteps", expand_ranges(levels))
        set_field("blocks", _tuple_of("blocks", self.blocks, (str,)))
        for name in ("ensemble", "steps"):
            set_field(name, _whole(name, getattr(self, name), least=1))
        for name in ("seed", "label"):
            set_field(name, _whole(name, getattr(self, name)))
        for name in ("prompt", "captions", "embeddings", "label_map", "corrupt"):
            set_field(name, _text(name, getattr(self, name)))
        for name in ("heads", "tokens", "discard"):
            if getattr(self, name) is not None:
                set_field(name, _indices(name, getattr(self, name)))
        set_field("low_pass", _cutoff("low_pass", self.low_pass))
        if self.discard is None:
            set_field("discard", ())
        for name in ("size", "tile"):
            set_field(name, _size(name, getattr(self, name)))
        for name in ("scale_latent", "flip", "mirror"):
            if not isinstance(getattr(self, name), bool):
                raise SpecError(f"{name}={brief(getattr(self, name))}; expected true or false")
        if self.latent == "mode":  # of a Gaussian: its mean
            set_field("latent", "mean")
        pool = "none" if self.pool in (None, "") else self.pool
        set_field("pool", pool.lower() if isinstance(pool, str) else pool)
        pool_size(self.pool)
        for name, allowed in _choices().items():
            _one_of(name, getattr(self, name), allowed)
        if self.corrupt is not None:
            from diffeat.images.corrupt import Corruption  # not above: it would slow every help

            set_field("corrupt", str(Corruption.read(self.corrupt)))
        self._check_together()

    def _check_together(self) -> None:
        """SpecError for fields that contradict each other."""
        given = [n for n in ("prompt", "captions", "embeddings") if getattr(self, n)]
        if len(given) > 1:
            raise SpecError(f"{' and '.join(given)} are given; expected one of them")
        if self.label_map is not None and self.label != CLASS_LABEL:
            raise SpecError(
                f"label_map={self.label_map!r} with label={self.label!r}; it says which class of "
                f"the model a picture's class is, so it needs label={CLASS_LABEL!r}"
            )
        if self.flip and self.mirror:
            raise SpecError(
                "flip and mirror are given; expected one of them: flip averages the picture and "
                "its mirror image in the picture's frame, mirror is the mirror image alone"
            )
        for name in ("tile_noise", "tile_layout") if self.tile is None else ():
            if getattr(self, name) != getattr(type(self), name):
                raise SpecError(f"{name}={getattr(self, name)!r} is for tiles; give tile too")

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values; those of LATER only where they are not the default."""
        values = json.loads(json.dumps(asdict(self)))
        return {n: v for n, v in values.items() if n not in LATER or v != DEFAULTS[n]}

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), sort_keys=True)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ExtractSpec:
        """Build a spec from plain values; SpecError names unknown and missing fields."""
        if not isinstance(values, Mapping):
            raise SpecError(f"a spec is a table of fields, not {values!r}")
        known = {each.name for each in fields(cls)}
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
        """Hash of all fields that `to_dict` writes down."""
        return fingerprint(self.to_dict())


DEFAULTS = json.loads(json.dumps({f.name: f.default for f in fields(ExtractSpec)}, default=str))
"""Field of a spec → its default, as plain JSON."""


def read_spec_file(path: str | Path) -> dict[str, Any]:
    """The fields in a .toml or .json file, not yet checked; SpecError if it holds no table."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise SpecError(f"spec file {path}: {reason_of(error)}; expected TOML or JSON") from error
    if not isinstance(values, dict):
        raise SpecError(f"spec file {path}: expected a table of fields, not {values!r}")
    return values


def pool_size(pool: str) -> tuple[int, int] | None:
    """Grid of a pooling: "2x2" → (2, 2), "none" → None; SpecError for anything else."""
    if pool == "none":
        return None
    match = re.fullmatch(r"([1-9][0-9]*)[xX]([1-9][0-9]*)", pool) if isinstance(pool, str) else None
    if match is None:
        raise SpecError(
            f"pool={brief(pool)}; expected 'none' or rows×columns such as '1x1' or '2x2'"
        )
    return int(match[1]), int(match[2])


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """The fields in which two plain descriptions differ, as "name: found → wanted"."""
    names = [*wanted, *(name for name in found if name not in wanted)]
    later = {name: DEFAULTS[name] for name in LATER if name in names}  # absent: the default
    found, wanted = {**later, **found}, {**later, **wanted}
    return [
        f"{name}: {found.get(name)!r} → {wanted.get(name)!r}"
        for name in names
        if found.get(name) != wanted.get(name)
    ]


def without_cells(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The plain fields of a spec that say how a cell is made: all but the lists of blocks and t."""
    return {name: value for name, value in spec.items() if name not in ("blocks", "timesteps")}


def _choices() -> dict[str, Any]:
    """Field → the words that it may hold."""
    # not above: numpy and Pillow would come with every help text
    from diffeat.coords import FITS
    from diffeat.images.decode import RESAMPLING
    from diffeat.noise import NOISES

    return {
        "noise": NOISES,
        "latent": LATENTS,
        "fit": FITS,
        "resample": RESAMPLING,
        "dtype": DTYPES,
        "tile_noise": TILE_NOISES,
        "tile_layout": TILE_LAYOUTS,
    }


def _plain(value: Any) -> Any:
    """A Python number for a numpy one, so that a spec is always plain JSON."""
    return value.item() if getattr(value, "shape", None) == () else value


def _whole(name: str, value: Any, least: int | None = None) -> int | str | None:
    """A whole number; a label may also be "class" or None."""
    value = _plain(value)
    if name == "label" and value in (None, CLASS_LABEL):
        return value
    if not isinstance(value, int) or isinstance(value, bool):
        raise SpecError(
            f"{name}={brief(value)}; expected a whole number"
            + (f", or {CLASS_LABEL!r}" if name == "label" else "")
        )
    if least is not None and value < least:
        raise SpecError(f"{name}={value}; expected at least {least}")
    return value


def _text(name: str, value: Any) -> str | None:
    """A text; of a file's name also a path, or None."""
    if isinstance(value, Path) and name != "prompt":
        value = str(value)
    if not isinstance(value, str) and (name == "prompt" or value is not None):
        raise SpecError(f"{name}={brief(value)}; expected a text")
    return value


def _tuple_of(name: str, value: Any, kinds: tuple[type, ...]) -> tuple:
    """A tuple of plain values; one value counts as a tuple of one."""
    single = isinstance(_plain(value), kinds)
    try:
        items = (_plain(value),) if single else tuple(_plain(item) for item in value)
    except TypeError:
        raise SpecError(f"{name}={brief(value)}; expected a list") from None
    for item in items:
        if not isinstance(item, kinds) or isinstance(item, bool):
            words = " or ".join(kind.__name__ for kind in kinds)
            raise SpecError(f"{name}: {brief(item)} is no {words}")
    return items


def _indices(name: str, value: Any) -> tuple[int, ...]:
    """Distinct indices from 0."""
    items = _tuple_of(name, value, (int,))
    if any(item < 0 for item in items) or len(set(items)) < len(items):
        raise SpecError(f"{name}={brief(value)}; expected different indices from 0")
    if not items and name != "discard":
        raise SpecError(f"{name} is empty; expected at least one index, or null for all")
    return items


def _cutoff(name: str, value: Any) -> float | None:
    """A radius in Nyquist frequencies, below √2, the highest that a picture has; or None."""
    value = _plain(value)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if value is not None and not (number and 0 < value < math.sqrt(2)):
        raise SpecError(f"{name}={brief(value)}; expected Nyquist frequencies above 0, below √2")
    return None if value is None else float(value)


def _size(name: str, value: Any) -> tuple[int, int] | None:
    """(H, W) from one number or two; SpecError for anything else."""
    if value is None:
        return None
    value = _plain(value)
    several = isinstance(value, (tuple, list)) or hasattr(value, "shape")
    pair = value if several else (value, value)
    pair = tuple(_plain(side) for side in pair)
    whole = all(isinstance(side, int) and not isinstance(side, bool) for side in pair)
    if len(pair) != 2 or not whole or min(pair) < 1:
        raise SpecError(f"{name}={brief(value)}; expected height and width in whole pixels")
    return pair


def _one_of(name: str, value: Any, allowed) -> None:
    if not isinstance(value, str) or value not in allowed:
        raise SpecError(
            f"{name}={brief(value)} is unknown; expected {' or '.join(map(repr, allowed))}"
            f"{nearest(brief(value), allowed)}"
        )
