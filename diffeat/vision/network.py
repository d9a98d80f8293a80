"""What a library gives: a network, its preprocessing, its places, one vector per picture."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import nn

from diffeat.errors import ModelError, NumericsError, SpecError

POOLS = ("default", "cls", "mean")


@dataclass(frozen=True)
class Place:
    """A module of a network whose output may be a block.

    Attributes:
        name: the block's canonical name.
        path: path of the module.
        kind: "transformer", "stage", "conv" or "norm".
    """

    name: str
    path: str
    kind: str


class Network(ABC):
    """A vision network of one library, as pictures go through it and as features leave it.

    Attributes:
        name: as it was asked for, with its library.
        module: the network, in evaluation mode.
        facts: all besides the weights that a feature depends on, as plain values: the
            architecture and the preprocessing.
        mean, std: (3,) by which pictures in [0, 1] are normalised.
        size: (H, W) in pixels that the model was made for.
        patch: side of its patches in pixels; 1 where it has none.
        places: modules whose outputs may be blocks.
    """

    name: str
    module: nn.Module
    facts: dict[str, Any]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, int]
    patch: int = 1

    @property
    @abstractmethod
    def places(self) -> list[Place]: ...

    @abstractmethod
    def arguments(self, pixels: torch.Tensor) -> dict[str, Any]:
        """Keyword arguments of the module's forward for (B, 3, H, W) normalised pictures."""

    @abstractmethod
    def prepare(self, image: Image.Image) -> torch.Tensor:
        """(3, H, W) float32 of an RGB picture, by the model's own preprocessing."""

    @abstractmethod
    def pooled(self, pixels: torch.Tensor, pool: str) -> torch.Tensor:
        """(B, D) of (B, 3, H, W), in the network's precision; pool is one of POOLS."""


def check_pool(pool: str) -> None:
    """SpecError unless it is one of POOLS."""
    if pool not in POOLS:
        raise SpecError(f"pool={pool!r} is unknown; expected one of {', '.join(POOLS)}")


def mean_of_tokens(tokens: torch.Tensor, prefix: int) -> torch.Tensor:
    """(B, D) mean of (B, L, D) without the first `prefix` tokens, which belong to no place."""
    return tokens[:, prefix:].mean(1)


def mean_of_map(maps: torch.Tensor, width: int) -> torch.Tensor:
    """(B, D) mean over places of (B, D, H, W), or of (B, H, W, D) if D is `width`."""
    inside = maps.shape[1] != width and maps.shape[3] == width
    return maps.mean((1, 2) if inside else (2, 3))


def no_class_token(name: str) -> SpecError:
    return SpecError(f"{name} has no class token; use pool 'default' or 'mean'")


def weights_hash(module: nn.Module, name: str) -> str:
    """Hash of the names, shapes, precisions and values of all weights and buffers.

    Raises:
        NumericsError: inf or nan among them.
    """
    hasher = hashlib.blake2b(digest_size=16)
    for key, value in sorted(module.state_dict().items()):
        value = value.detach().cpu().contiguous()
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise NumericsError(
                f"{name}: weight {key!r} holds inf or nan, so no feature of it can be used: "
                "restore the weights"
            )
        hasher.update(json.dumps([key, list(value.shape), str(value.dtype)]).encode())
        hasher.update(value.reshape(-1).view(torch.uint8).numpy())
    return hasher.hexdigest()


def build_random(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """What `build` makes when torch's CPU generator starts from `seed`; others are left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return build()


def build_bare(build: Callable[[], nn.Module]) -> nn.Module:
    """What `build` makes, without weights; some architectures count on the CPU while they grow."""
    try:
        with torch.device("meta"):
            return build()
    except (RuntimeError, NotImplementedError):  # such as a meta tensor that is asked its value
        return build_random(build, 0).to("meta")


@contextmanager
def fetching(name: str, what_else: str):
    """Turn errors of the hub's client into a ModelError that says what to do instead."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:  # the client has changed its HTTP library, and so its errors
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"model {name!r} is not on this machine and cannot be fetched from the hub ({reason}). "
            "Check the name and the network, set HF_HOME to a cache that holds it, or fetch it "
            f"elsewhere and pass {what_else}"
        ) from error
