"""TSS (Taniai et al. 2016): 400 pairs with a dense flow of the object, both ways.

    {FG3DCar,JODS,PASCAL}/<pair>/image1.png, image2.png     ids start at the part
    …/flow1.flo, flow2.flo      Middlebury's form, from 1 to 2 on 1's pixels, and back
    …/mask1.png, mask2.png      the object, above 127
    …/flip_gt.txt               1 where the object is seen from the other side

Every folder gives the pair (1, 2) and the pair (2, 1). The group of a picture is its folder. A
flow is valid on the object where it is known (below 1e9, as in Middlebury's form).

Where flip_gt.txt says 1, the flow leads into the mirrored other picture: so public evaluations
read it, which mirror that picture first. Here it is led back, x → W − 1 − x, into the picture as
it lies there. The data set's own pages do not say so, so this could not be verified.

Source: Taniai, Sinha, Sato, "Joint Recovery of Dense Correspondence and Cosegmentation in Two
Images", CVPR 2016, and the evaluation of Rocco et al., "Weakalign".
"""

from __future__ import annotations

import io
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from diffeat.coords import Size
from diffeat.errors import SourceError
from diffeat.hashing import fingerprint
from diffeat.images.below import Below, read_below, read_text
from diffeat.images.digests import digest_of_file
from diffeat.images.paired_layouts import TSS_PARTS, tss_scenes
from diffeat.targets.pairs.building import pictures_of
from diffeat.targets.pairs.flows import Flow, FlowPairs

MAGIC = b"PIEH"
UNKNOWN = 1e9
"""A flow of this length or more is not known."""


def fits(folder: Path) -> bool:
    """Whether a folder has this layout."""
    return bool(tss_scenes(folder))


def splits(folder: Path) -> tuple[str, ...]:
    return "all", *TSS_PARTS


def open_tss(name: str, folder: Path, split: str = "all") -> FlowPairs:
    """The pairs of all parts, or of one.

    Args:
        name: of the pairs, for messages.
        folder: of the data set.
        split: "all" or one of its parts.

    Raises:
        SourceError: no pairs, or pictures that are missing. Flows are read later.
    """
    below, pairs = Below(folder), []
    for scene in tss_scenes(folder):
        part = scene.partition("/")[0]
        if split not in ("all", part):
            continue
        where = str(folder / scene)
        ids = [below.picture(f"{scene}/image{k}.png", where) for k in (1, 2)]
        sizes = [below.size(f"{scene}/image{k}.png", where) for k in (1, 2)]
        flip = _flip(folder / scene / "flip_gt.txt", folder)
        for a, b in ((0, 1), (1, 0)):
            path = folder / scene / f"flow{a + 1}.flo"
            mask = folder / scene / f"mask{a + 1}.png"
            read = partial(read_flow, path, mask, folder, sizes[a], sizes[b], flip)
            key = partial(_hash, path, mask, flip)
            pairs.append((ids[a], ids[b], (sizes[a], sizes[b]), read, (scene, scene), part, key))
    if not pairs:
        raise SourceError(f"{name}: no pairs in {folder}; expected FG3DCar/, JODS/, PASCAL/ with "
                          "folders that hold image1.png, image2.png, flow1.flo, flow2.flo and "
                          "masks")  # fmt: skip
    source, target, sizes, flows, groups, parts, keys = zip(*pairs, strict=True)
    kinds = tuple(zip(parts, parts, strict=True))
    pictures = partial(pictures_of, name, below, source, target, kinds)
    return FlowPairs(name, source, target, sizes, flows, pictures, groups, parts, keys)


def _flip(path: Path, within: Path) -> bool:
    if not path.exists():
        return False
    text = read_text(path, within, "0 or 1").strip()
    if text not in ("0", "1"):
        raise SourceError(f"{path}: {text!r:.60}; expected 0 or 1")
    return text == "1"


def _hash(path: Path, mask: Path, flip: bool) -> str:
    try:
        return fingerprint(digest_of_file(path).hex(), digest_of_file(mask).hex(), flip)
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror or error}; expected a flow and a mask for each "
                          "picture") from error  # fmt: skip


def read_flow(
    path: Path, mask: Path, within: Path, size: Size, other: Size, flip: bool = False
) -> Flow:
    """A flow and where it is known.

    Args:
        path, mask: of the flow and of the object.
        within: the folder that no link may lead out of.
        size, other: (H, W) of the picture that the flow starts in, and of the other one.
        flip: whether the flow leads into the mirrored other picture.

    Raises:
        SourceError: files that are missing, damaged or of another size.
    """
    flow = read_flo(path, within)
    inside = _mask(mask, within)
    for found, which in ((flow.shape[:2], path), (inside.shape, mask)):
        if found != size:
            raise SourceError(f"{which}: {found[1]}x{found[0]} pixels, its picture has "
                              f"{size[1]}x{size[0]}; expected the same")  # fmt: skip
    known = np.isfinite(flow).all(-1) & (np.abs(flow) < UNKNOWN).all(-1)
    if flip:
        x = np.arange(size[1], dtype=np.float32)
        flow[..., 0] = other[1] - 1 - 2 * x - flow[..., 0]
    return flow, known & inside


def read_flo(path: Path, within: Path) -> np.ndarray:
    """(H, W, 2) float32 of a .flo: "PIEH", width, height, then u, v row by row, little-endian."""
    raw = read_below(path, within, "a flow")
    width, height = np.frombuffer(raw[4:12], "<i4") if len(raw) >= 12 else (0, 0)
    if raw[:4] != MAGIC or width < 1 or height < 1 or len(raw) != 12 + 8 * int(width) * int(height):
        raise SourceError(f"{path}: {len(raw):,} bytes that are no .flo; expected PIEH, width, "
                          "height and two numbers a pixel: fetch it again")  # fmt: skip
    return np.frombuffer(raw, "<f4", offset=12).reshape(height, width, 2).astype(np.float32)


def _mask(path: Path, within: Path) -> np.ndarray:
    """(H, W) bool."""
    raw = read_below(path, within, "a mask")
    try:
        with Image.open(io.BytesIO(raw)) as image:
            return np.asarray(image.convert("L")) > 127
    except (Image.DecompressionBombError, OSError, ValueError, SyntaxError) as error:
        raise SourceError(f"{path}: {error}; expected a mask in black and white") from error
