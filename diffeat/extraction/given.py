"""What a notebook hands over as pictures, in any of its forms, seen as one list.

Floats are (3, H, W) in [0, 1] and stay as they are. All else is fitted to the model's size as
files are: 8-bit arrays (H, W, 3) or (H, W), PIL pictures, paths, pictures of a source.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from diffeat.coords import fit_numbers
from diffeat.errors import PictureError, SpecError, brief
from diffeat.extraction.noising import seeded_by_content
from diffeat.extraction.plan import Plan
from diffeat.images import Source, corruption_of, decode, fit_and_place, nfc, to_rgb
from diffeat.images.digests import digest_of_file, digest_of_nothing
from diffeat.images.sources import digest_of_array, regular
from diffeat.specs import ExtractSpec

EXPECTED = (
    "expected floats (N, 3, H, W) in [0, 1], 8-bit arrays (N, H, W, 3) or (N, H, W), PIL pictures, "
    "paths, a list of such pictures, or a source from diffeat.open_source(...)"
)
SLACK = 1e-4
"""By which floats may leave [0, 1], as resized ones do."""


class _Loaded(NamedTuple):
    """One picture of a source, decoded when its batch is made."""

    source: Source
    index: int


@dataclass(frozen=True, eq=False)
class Given:
    """The pictures of one call.

    Attributes:
        pictures: floats (N, 3, H, W); or N arrays, PIL pictures, paths or pictures of a source.
        ids: N picture ids.
        source: where they are those of a source.
        fitted: whether they are brought to the model's size.
    """

    pictures: torch.Tensor | list
    ids: list[str]
    source: Source | None
    fitted: bool

    @classmethod
    def of(cls, images: Any, ids: Sequence[str] | None = None) -> Given:
        """See `diffeat.extract`; SpecError for what are no pictures."""
        source = images if isinstance(images, Source) else None
        if source is not None:
            items = [_Loaded(source, index) for index in range(len(source))]
            ids = source.ids if ids is None else ids
        else:
            items = _items(images)
        if len(items) == 0:
            raise SpecError("no pictures given; expected at least one")
        floats = [_is_float(item) for item in items]
        if any(floats) and not all(floats):
            first, other = items[floats.index(True)], items[floats.index(False)]
            raise SpecError(
                f"pictures are {brief(first)} beside {brief(other)}: floats are taken at their own "
                "size, others are fitted to the model's; expected one kind"
            )
        fitted, names = not any(floats), _ids(items, ids)
        for item, name in zip(items, names, strict=True) if any(floats) else ():
            _check_range(item, name)
        if any(floats) and not isinstance(items, torch.Tensor):
            items = _joined(items)
        return cls(items, names, source, fitted)

    def __len__(self) -> int:
        return len(self.ids)

    def settled(self, spec: ExtractSpec) -> ExtractSpec:
        """The spec at the size of floats; SpecError where that is another than it says."""
        if self.fitted:
            return spec
        if not isinstance(self.pictures, torch.Tensor):
            if spec.fit == "native":
                return spec
            sizes = " and ".join(dict.fromkeys(f"{tuple(a.shape)}" for a in self.pictures))
            raise SpecError(
                f"float pictures are {sizes[:80]}, which do not fit one array; resize them, or "
                "take each at its own size with fit='native' and a pool such as 1x1"
            )
        size = (int(self.pictures.shape[2]), int(self.pictures.shape[3]))
        if spec.fit == "native":
            return replace(spec, size=size, fit="squash")
        if spec.size not in (None, size):
            raise SpecError(
                f"tensors are taken at their own size {size}, but the spec says {spec.size}; "
                "resize them, or leave the spec's size out"
            )
        return replace(spec, size=size)

    def seeds(self, span: slice, spec: ExtractSpec) -> list[str]:
        """What seeds the noise of some pictures (see docs/ids.md)."""
        names = self.ids[span]
        if not seeded_by_content(spec):
            return names
        found = zip(self.pictures[span], names, strict=True)
        return [content_digest(item, name).hex() for item, name in found]

    def pixels(self, span: slice, plan: Plan):
        """Pixels as the extractor takes them, and box, size and placement of each picture."""
        items, spec = self.pictures[span], plan.spec
        if not self.fitted:
            if spec.corrupt is not None:
                raise SpecError("corrupt is for 8-bit pictures, and these are floats; make them "
                                "worse yourself, or give 8-bit arrays, PIL pictures or "
                                "paths")  # fmt: skip
            where = []
            for item in items:
                size = int(item.shape[1]), int(item.shape[2])
                where.append(((0, 0, *size), size, fit_numbers(size, size, mirror=spec.mirror)))
            if isinstance(items, torch.Tensor):
                return items.flip(3) if spec.mirror else items, where
            return [np.flip(a, 2).copy() if spec.mirror else a for a in items], where
        how = (plan.size, spec.fit, spec.resample, spec.mirror, plan.backbone.step)
        pairs = zip(items, self.ids[span], strict=True)
        worse = corruption_of(spec.corrupt, spec.seed) or (lambda image, _: image)
        fitted = [fit_and_place(worse(_picture(item, name), name), *how) for item, name in pairs]
        arrays = [pixels for pixels, *_ in fitted]
        where = [tuple(known) for _, *known in fitted]
        return arrays if plan.size is None else np.stack(arrays), where


def content_digest(item: Any, name: str) -> bytes:
    """BLAKE2b-128 of what a picture holds.

    Of a path, and of a PIL picture that was opened from one, the file's bytes; of a source's
    picture what its source says; of 8-bit arrays and other PIL pictures the array, as an
    `ArraySource` of it has it; of floats that are k/255 exactly that of the 8-bit array
    (H, W, 3), of others that of the float32 array (3, H, W).
    """
    if isinstance(item, _Loaded):
        return item.source.digest(item.index)
    if isinstance(item, (str, Path)):
        try:
            return digest_of_file(Path(item))
        except (OSError, EOFError):  # decoding it will say why
            return digest_of_nothing(name)
    if isinstance(item, Image.Image):
        return _digest_of_image(item, name)
    if not _is_float(item):
        return digest_of_array(np.asarray(item))
    values = torch.as_tensor(item).detach().cpu()
    whole = (values.float() * 255).round()
    if torch.equal((whole / 255).to(values.dtype), values):
        return digest_of_array(whole.to(torch.uint8).permute(1, 2, 0).numpy())
    return digest_of_array(values.float().numpy())


def _digest_of_image(image: Image.Image, name: str) -> bytes:
    path = getattr(image, "filename", "")
    if path:
        try:
            return digest_of_file(Path(path))
        except (OSError, EOFError) as error:
            warnings.warn(
                f"picture {name!r}: its file {path!r} cannot be read any more ({error}), so its "
                "pixels seed its noise in place of the file's bytes",
                stacklevel=5,
            )
    return digest_of_array(np.asarray(image if image.mode == "L" else _picture(image, name)))


def _items(images: Any) -> torch.Tensor | list:
    """Pictures one by one, each of a kind that can be read."""
    if isinstance(images, (str, Path)):
        if not Path(images).is_file():
            raise SpecError(
                f"{str(images)!r} is no file; expected the path of a picture (a folder, glob, list "
                "or named data set goes through diffeat.open_source)"
            )
        return [images]
    if isinstance(images, Image.Image):
        return [images]
    if isinstance(images, (np.ndarray, torch.Tensor)):
        return _of_array(images)
    if isinstance(images, Mapping):
        raise SpecError(f"pictures of type {type(images).__name__}; {EXPECTED}")
    try:
        items = list(images)
    except TypeError:
        raise SpecError(f"pictures of type {type(images).__name__}; {EXPECTED}") from None
    return [_one(item, place) for place, item in enumerate(items)]


def _of_array(array: np.ndarray | torch.Tensor) -> torch.Tensor | list:
    """The pictures of one array; a single one where it has as many axes as a picture."""
    shape = tuple(array.shape)
    floats, bytes_ = _dtype(array)
    if 0 in shape[1:]:
        raise SpecError(f"pictures are {brief(array)}, without a pixel; {EXPECTED}")
    if floats and len(shape) in (3, 4) and shape[-3] == 3:
        array = torch.as_tensor(array)
        array = array if len(shape) == 4 else array[None]
    elif bytes_ and (len(shape) == 2 or (len(shape) == 3 and shape[2] == 3)):
        array = [_one(array, 0)]
    elif bytes_ and (len(shape) == 3 or (len(shape) == 4 and shape[3] == 3)):
        first = isinstance(array, torch.Tensor) and shape[0] == 3
        if len(shape) == 3 and (first or shape[2] == 4):  # one picture, and no stack of grey ones
            raise SpecError(_wrong("pictures are", array))
        array = [_one(item, k) for k, item in enumerate(array)]
    else:
        raise SpecError(_wrong("pictures are", array))
    return array


def _one(item: Any, place: int) -> Any:
    """One picture of a list, as it is; SpecError for what is none."""
    if isinstance(item, (Image.Image, str, Path)):
        return item
    if not isinstance(item, (np.ndarray, torch.Tensor)):
        raise SpecError(f"pictures of type {type(item).__name__}; {EXPECTED}")
    shape = tuple(item.shape)
    floats, bytes_ = _dtype(item)
    if 0 not in shape:
        if floats and len(shape) == 3 and shape[0] == 3:
            return item
        if bytes_ and (len(shape) == 2 or (len(shape) == 3 and shape[2] == 3)):
            return np.asarray(item)
    raise SpecError(_wrong(f"picture {place} is", item))


def _wrong(what: str, array: np.ndarray | torch.Tensor) -> str:
    """Why an array is no picture, and what to do."""
    shape, floats = tuple(array.shape), _dtype(array)[0]
    hint = ""
    if floats and len(shape) in (3, 4) and shape[-1] == 3:
        hint = "; floats have their channels first: np.moveaxis(…, -1, -3)"
    elif _dtype(array)[1] and len(shape) in (3, 4) and shape[-3] == 3:
        hint = "; 8-bit pictures have their channels last: np.moveaxis(…, -3, -1), or divide by 255"
    elif _dtype(array)[1] and len(shape) in (3, 4) and shape[-1] == 4:
        hint = "; of an alpha channel, Image.fromarray(…) makes a picture that is laid over white"
    elif str(array.dtype) == "object":
        hint = "; pictures of different sizes go into a list"
    return f"{what} {brief(array)}; {EXPECTED}{hint}"


def _dtype(array: Any) -> tuple[bool, bool]:
    """Whether an array holds floats, and whether 8-bit numbers."""
    if isinstance(array, torch.Tensor):
        return array.is_floating_point(), array.dtype == torch.uint8
    return array.dtype.kind == "f", array.dtype == np.uint8


def _is_float(item: Any) -> bool:
    return isinstance(item, (np.ndarray, torch.Tensor)) and _dtype(item)[0]


def _check_range(picture: Any, name: str) -> None:
    picture = picture.detach() if isinstance(picture, torch.Tensor) else picture
    low, high = float(picture.min()), float(picture.max())
    if not (low >= -SLACK and high <= 1 + SLACK):
        raise SpecError(f"picture {name!r} ranges from {low:.3g} to {high:.3g}; expected [0, 1]")


def _joined(items: list) -> torch.Tensor | list:
    """Floats of one size as one tensor; of several sizes as arrays in fp32."""
    tensors = [torch.as_tensor(item) for item in items]
    if len({tensor.shape for tensor in tensors}) > 1:
        return [tensor.detach().cpu().float().numpy() for tensor in tensors]
    if len({tensor.dtype for tensor in tensors}) > 1:
        tensors = [tensor.float() for tensor in tensors]
    return torch.stack(tensors)


def _ids(items: Any, ids: Sequence[str] | None) -> list[str]:
    if ids is None:
        if isinstance(items, list) and all(isinstance(item, (str, Path)) for item in items):
            return [nfc(Path(item).as_posix()) for item in items]
        return [str(index) for index in range(len(items))]
    ids = [ids] if isinstance(ids, str) and len(items) == 1 else ids
    if len(ids) != len(items):
        raise SpecError(f"{len(ids)} ids for {len(items)} pictures; expected one each")
    ids = ids.tolist() if hasattr(ids, "tolist") else ids
    return [nfc(str(name)) for name in ids]


def _picture(item: Any, name: str) -> Image.Image:
    """8-bit RGB, upright."""
    if isinstance(item, _Loaded):
        return item.source.load(item.index)
    if isinstance(item, np.ndarray):
        return Image.fromarray(np.ascontiguousarray(item)).convert("RGB")
    if not isinstance(item, Image.Image):
        return decode(lambda: regular(item), name)
    try:
        return to_rgb(item, picture=name)
    except ValueError as error:
        raise PictureError(name, str(error)) from error
