"""Which tensors a vision network has, where and how large: measured, not believed.

The network runs once on torch's meta device, where shapes are computed and nothing else. What
fires, in which order, and what it gives is the declaration, so that one rule serves every
architecture of timm and transformers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.func import functional_call

from diffeat.blocks import BlockInfo
from diffeat.errors import ModelError
from diffeat.hooks import HookManager, Tap
from diffeat.vision.network import Network, Place

Shape = tuple[int, ...]
MOST_PREFIX = 32
"""Most tokens before the picture's: class, distillation and registers."""
HEADS = ("num_heads", "num_attention_heads")
"""What libraries call the number of queries' heads."""
PROJECTIONS = (("q_proj", "k_proj", "v_proj"), ("query", "key", "value"))
"""What queries, keys and values are called where each has a layer of its own."""


@dataclass(frozen=True)
class Measured:
    """What a network turned out to have.

    Attributes:
        blocks: its tensors, in the order of execution.
        free: whether it takes pictures of other sizes than its own.
        size: (H, W) in pixels of its own, rounded up to what its strides divide.
        step: pixels that heights and widths must be multiples of.
    """

    blocks: tuple[BlockInfo, ...]
    free: bool
    size: tuple[int, int]
    step: int


def measure(network: Network) -> Measured:
    """Find a network's tensors.

    Raises:
        ModelError: it does not run, or none of its outputs lies on a grid.
    """
    places = {place.name: place for place in network.places}
    taps: dict[str, Tap] = {name: Tap(place.path) for name, place in places.items()}
    spans: dict[str, tuple[int, int] | None] = {}
    for place in places.values():
        for name, tap, span in _projections(network.module, place):
            taps[name], spans[name] = tap, span
    size, shapes = _first_that_runs(network, taps)
    blocks = _declared(network, places, taps, spans, size, shapes)
    if not blocks:
        raise ModelError(
            f"{network.name}: none of its outputs lies on a grid of whole pixels, so it gives no "
            "maps; expected a network such as ViT, ConvNeXt, Swin or ResNet"
        )
    step = math.lcm(*(block.stride for block in blocks))
    own = tuple(-(-side // step) * step for side in network.size)
    return Measured(blocks, size != network.size, own, step)


def _first_that_runs(network: Network, taps: Mapping[str, Tap]) -> tuple[Shape, dict[str, Shape]]:
    """Shapes at a size of two unlike sides, where it takes one, so that rows are no columns."""
    unit = math.lcm(32, network.patch)
    count = -(-network.size[0] // unit)
    other = (count * unit, (count + 1) * unit)
    for size in (other, network.size):
        try:
            return size, _shapes(network, taps, size)
        except Exception as error:  # an architecture raises whatever it likes at other sizes
            reason = error
    raise ModelError(
        f"{network.name} does not run on pictures of {network.size[0]}×{network.size[1]} pixels "
        f"({type(reason).__name__}: {reason}); another model is needed"
    ) from reason


@torch.no_grad()
def _shapes(network: Network, taps: Mapping[str, Tap], size: Shape) -> dict[str, Shape]:
    """Shape of every tensor that is read, in the order in which they come."""
    module, found = network.module, {}

    def note(name: str, tensor: torch.Tensor) -> None:
        found.setdefault(name, tuple(tensor.shape))

    state = {name: torch.empty_like(value, device="meta")
             for name, value in (*module.named_parameters(), *module.named_buffers())}  # fmt: skip
    dtype = next(module.parameters()).dtype
    pixels = torch.empty(1, 3, *size, dtype=dtype, device="meta")
    with HookManager(module, taps, transform=note):
        functional_call(module, state, (), network.arguments(pixels))
    return found


def _projections(module: nn.Module, place: Place) -> Iterable[tuple[str, Tap, tuple | None]]:
    """(name, tap, span of channels) of the queries, keys and values of a transformer block."""
    if place.kind != "transformer":
        return
    inner = dict(module.get_submodule(place.path).named_modules())
    for path, layer in inner.items():
        at, _, last = path.rpartition(".")
        if last == "qkv" and isinstance(layer, nn.Linear):
            width = layer.in_features
            if layer.out_features != 3 * width:  # as where heads share keys
                return
            for k, letter in enumerate("qkv"):
                span = (k * width, (k + 1) * width)
                yield f"{place.name}:self.{letter}", Tap(f"{place.path}.{path}"), span
            return
        for names in PROJECTIONS:
            paths = [f"{at}.{name}".lstrip(".") for name in names]
            if last == names[0] and all(isinstance(inner.get(p), nn.Linear) for p in paths):
                for letter, p in zip("qkv", paths, strict=True):
                    yield f"{place.name}:self.{letter}", Tap(f"{place.path}.{p}"), None
                return


def _declared(network, places, taps, spans, size: Shape, shapes) -> tuple[BlockInfo, ...]:
    """Blocks in the order of execution, each followed by its queries, keys and values."""
    found: list[BlockInfo] = []
    order = 0
    for name, shape in shapes.items():
        if name not in places or (form := _form(network, shape, size)) is None:
            continue
        layout, channels, stride, tokens = form
        place = places[name]
        part = "encoder" if place.kind in ("conv", "stage") else "blocks"
        block = BlockInfo(name, place.path, place.kind, part, channels, stride, layout, order,
                          tokens=tokens)  # fmt: skip
        found.append(block)
        order += 1
        for letter in "qkv":
            inner = f"{name}:self.{letter}"
            read = _form(network, shapes.get(inner, ()), size)
            if read is None or read[2] != stride or read[0] != "NLD":
                continue
            span = spans[inner]
            width = read[1] if span is None else span[1] - span[0]
            found.append(replace(block, name=inner, path=taps[inner].path, channels=width,
                                 layout="NLD", tensor=f"self.{letter}", tap=taps[inner],
                                 tokens=read[3], span=span,
                                 heads=_heads(network.module, taps, name, width)))  # fmt: skip
    return tuple(found)


def _heads(module: nn.Module, taps: Mapping[str, Tap], name: str, width: int) -> int:
    """Heads in queries, keys or values of a width; 0 where the attention does not say how many."""
    path = taps[f"{name}:self.q"].path
    attention = module.get_submodule(path.rpartition(".")[0])
    said = (getattr(attention, word, None) for word in HEADS)
    heads = next((number for number in said if isinstance(number, int)), 0)
    layer = module.get_submodule(path)
    queries = layer.in_features if path.endswith(".qkv") else layer.out_features
    return width // (queries // heads) if heads else 0


def _form(network: Network, shape: Shape, size: Shape) -> tuple[str, int, int, str] | None:
    """(layout, channels, stride, which tokens) of an output; None if it lies on no grid."""
    if shape[:1] != (1,):  # something else than a picture counts in the first place
        return None
    if len(shape) == 3:
        for stride in (network.patch * 2**k for k in range(6)):
            cells = (size[0] // stride) * (size[1] // stride)
            if stride > 1 and 0 <= shape[1] - cells <= MOST_PREFIX:
                return "NLD", shape[2], stride, "last" if shape[1] > cells else "all"
        return None
    inside = getattr(network.module, "output_fmt", "NCHW") == "NHWC"
    for layout in ("NHWC", "NCHW") if inside else ("NCHW", "NHWC"):
        if len(shape) == 4:
            rows, columns = shape[1:3] if layout == "NHWC" else shape[2:]
            channels = shape[3] if layout == "NHWC" else shape[1]
            stride = size[0] // rows
            if rows * stride == size[0] and columns * stride == size[1]:
                return layout, channels, stride, "all"
    return None
