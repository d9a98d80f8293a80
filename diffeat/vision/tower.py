"""What a library gives: a network, its preprocessing, and one vector per picture."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import torch
from PIL import Image
from torch import nn

from diffeat.errors import ModelError, NumericsError, SpecError

POOLS = ("default", "cls", "mean")


class Tower(ABC):
    """A vision network of one library.

    Attributes:
        module: the network, in evaluation mode.
        pool: one of POOLS.
        facts: all besides the weights that a feature depends on, as plain values: the
            architecture and the preprocessing.
    """

    module: nn.Module
    pool: str
    facts: dict[str, Any]

    @abstractmethod
    def prepare(self, image: Image.Image) -> torch.Tensor:
        """(3, H, W) float32 of an RGB picture, by the model's own preprocessing."""

    @abstractmethod
    def pooled(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, D) of (B, 3, H, W), in the network's precision."""


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
