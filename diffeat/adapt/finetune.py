"""Fine-tuning: the backbone's own weights are trained, from a block on."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from diffeat.adapt.classifier import BackboneClassifier
from diffeat.adapt.forward import NoisyFeatures, trainable_copy
from diffeat.backbones.base import Backbone
from diffeat.blocks import resolve_blocks
from diffeat.errors import SpecError


def parameter_groups(
    backbone: Backbone, unfreeze: str, block: str, learning_rate: float, decay: float
) -> list[dict[str, Any]]:
    """Weights that are trained, with learning rates that fall towards the input.

    A weight belongs to the innermost block around it; the k-th block before the tapped one, in
    the order of execution, has the rate learning_rate · decay^k. Blocks behind the tapped one
    take no part.

    Args:
        backbone: whose denoiser.
        unfreeze: the block (with all inside it) from which on is trained, or "all": then also
            what lies in no block, such as the time embedding, at the lowest rate. What runs
            behind the tapped block gets no gradient and stays as it is.
        block: the tapped one.
        learning_rate: of the tapped block.
        decay: in (0, 1]; 1 gives all the same rate.

    Returns:
        Groups for an optimizer: {"name", "params", "lr"}, the tapped block first.

    Raises:
        SpecError: unknown blocks, or one behind the tapped one.

    Source: layer-wise decay as in ELECTRA (Clark et al. 2020) and BEiT (Bao et al. 2022);
    fine-tuning of diffusion models as DDAE's second result (Xiang et al. 2023).
    """
    if not 0 < decay <= 1:
        raise SpecError(f"decay={decay}; expected a number in (0, 1]")
    tapped = _one(backbone, block)
    first = -1 if unfreeze == "all" else _begin(backbone, unfreeze)
    if first > tapped.order:
        raise SpecError(f"{unfreeze!r} runs after {block!r}, which is the last that counts")
    paths = {b.path: b for b in backbone.blocks}
    owned: dict[str | None, list[nn.Parameter]] = {}
    for name, weight in backbone.denoiser.named_parameters():
        owner = _owner(name, paths)
        if owner is None:
            trained = unfreeze == "all"
        else:  # a stage ends after all that is inside it
            trained = first <= paths[owner].order <= tapped.order
        if trained:
            owned.setdefault(owner, []).append(weight)
    ranked = sorted((p for p in owned if p is not None), key=lambda p: -paths[p].order)
    groups = [
        {"name": paths[path].name, "params": owned[path], "lr": learning_rate * decay**k}
        for k, path in enumerate(ranked)
    ]
    if None in owned:
        rate = learning_rate * decay ** len(ranked)
        groups.append({"name": "others", "params": owned[None], "lr": rate})
    return groups


def _one(backbone: Backbone, name: str):
    found = resolve_blocks((name,), backbone.tensors, backbone.aliases)
    if len(found) != 1 or found[0].of_vae:
        raise SpecError(f"{name!r} names {len(found)} tensors; expected one block of the denoiser")
    place = found[0].name.partition(":")[0]
    return next((block for block in backbone.blocks if block.name == place), found[0])


def _begin(backbone: Backbone, name: str) -> int:
    """Where a block begins in the order of execution: at the first that lies inside it."""
    place = _one(backbone, name).name
    inside = [b.order for b in backbone.blocks if f"{b.name}.".startswith(f"{place}.")]
    return min(inside)


def _owner(name: str, paths) -> str | None:
    """The innermost block around a weight."""
    while name:
        name = name.rpartition(".")[0]
        if name in paths:
            return name
    return None


class FineTuning(BackboneClassifier):
    """A classifier whose backbone is trained with it, on noisy pictures at one t.

    The weights of the backbone that was given stay as they are; `backbone_` has a copy of its
    denoiser that is trained.

    Args:
        unfreeze: the block from which on is trained; "all"; or None, which trains the head
            alone, for comparison.
        backbone_learning_rate: of the tapped block; blocks before it have less,
        decay: by this factor from block to block (see `parameter_groups`).
        others: see `BackboneClassifier`.

    Attributes:
        backbone_: the fine-tuned backbone, which `diffeat.extract` takes too.

    Source: Xiang et al. 2023 (DDAE), its fine-tuning.
    """

    def __init__(
        self,
        *args,
        unfreeze: str | None = "all",
        backbone_learning_rate: float = 1e-4,
        decay: float = 0.9,
        **named,
    ):
        super().__init__(*args, **named)
        self.unfreeze = unfreeze
        self.backbone_learning_rate = backbone_learning_rate
        self.decay = decay

    def _build(self) -> list[dict]:
        tuned = self.backbone_ = trainable_copy(self.backbone)
        groups = []
        if self.unfreeze is not None:
            groups = parameter_groups(
                tuned, self.unfreeze, self.block, self.backbone_learning_rate, self.decay
            )
        tuned.denoiser.requires_grad_(False)
        for group in groups:
            for weight in group["params"]:
                weight.requires_grad_(True)
        self._features = NoisyFeatures(tuned, self._spec((self.block,)))
        return groups

    def _trained(self) -> dict[str, nn.Module]:
        return {"denoiser": self.backbone_.denoiser}

    @property
    def noisy(self) -> NoisyFeatures:
        return self._features

    def _map(self, x: torch.Tensor) -> torch.Tensor:
        (found,) = self._features(x).values()
        return found

    def save_denoiser(self, path) -> None:
        """The tuned denoiser as safetensors, for `diffeat extract … --denoiser PATH`."""
        from safetensors.torch import save_file

        weights = self.backbone_.denoiser.state_dict()
        save_file({name: value.contiguous() for name, value in weights.items()}, str(path))
