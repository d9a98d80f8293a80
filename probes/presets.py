"""Published protocols by name: which head, trained how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from probes.attention import AttentionProbe
from probes.batchnorm import BatchNormProbe
from probes.conv import ConvProbe
from probes.difformer import DifFormerProbe
from probes.mlp import MLPProbe
from probes.network import NetworkHead, NetworkProbe
from probes.noise_conditional import NoiseConditionalProbe
from probes.training import mirror


@dataclass(frozen=True)
class Preset:
    """A protocol.

    Attributes:
        name: for `preset`, or of dense heads for `probes.dense.published`.
        head: the estimator.
        arguments: of its constructor.
        source: paper and section.
        notes: what is not as published, or not verified.
    """

    name: str
    head: type[NetworkHead]
    arguments: Mapping[str, Any]
    source: str
    notes: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "arguments", MappingProxyType(dict(self.arguments)))


PICTURES = (
    "The paper crops and mirrors pictures; features of mirrored pictures may be given as "
    "further rows. "
)
_DDAE = {
    "optimizer": "adam", "learning_rate": 1e-3, "weight_decay": 0.0, "schedule": "cosine",
    "epochs": 15, "batch_size": 128,
}  # fmt: skip
_GDC = {
    "optimizer": "sgd", "learning_rate": 1e-2, "weight_decay": 0.0, "momentum": 0.0,
    "schedule": "step", "epochs": 28, "batch_size": 128,
}  # fmt: skip
_GDC_SOURCE = "Mukhopadhyay et al. 2023 (GDC), Diffusion models beat GANs on image classification"
_MIRROR = "Maps are mirrored in place of pictures, which is ours. "
_PUBLISHED_WIDTH = {"width": 1024, "heads": 8, "depth": 2, "limit": 16, "qkv_bias": False}
_BIG_BATCH = {"weight_decay": 0.0, "schedule": "cosine", "epochs": 90, "batch_size": 16384}

PRESETS: Mapping[str, Preset] = MappingProxyType({
    preset.name: preset
    for preset in (
        Preset(
            "ddae", MLPProbe, {"hidden": (), "standardize": False, "pool": 1, **_DDAE},
            "Xiang et al. 2023 (DDAE), linear probe of U-Nets", PICTURES,
        ),
        Preset(
            "ddae-dit", MLPProbe,
            {"hidden": (), "standardize": False, "pool": 1, **_DDAE, "epochs": 30},
            "Xiang et al. 2023 (DDAE), linear probe of DiT", PICTURES,
        ),
        Preset(
            "ddae-noise-conditional", NoiseConditionalProbe, _DDAE,
            "Xiang et al. 2023 (DDAE), noise-conditional classifier",
            PICTURES + "Optimizer and epochs are those of the linear probe, not verified; "
            "features are standardised, which is ours. ",
        ),
        Preset(
            "gdc-linear", MLPProbe, {"hidden": (), "standardize": False, "pool": 1, **_GDC},
            _GDC_SOURCE,
            PICTURES + "The learning rate is that of pool=2, its other published size. ",
        ),
        Preset(
            "gdc-mlp", MLPProbe,
            {"hidden": (1024, 1024), "standardize": False, "pool": 1, **_GDC}, _GDC_SOURCE,
            PICTURES + "Widths and learning rate are not verified. ",
        ),
        Preset(
            "gdc-cnn", ConvProbe, {**_GDC, "augment": mirror}, _GDC_SOURCE,
            _MIRROR + "Layers and learning rate are not verified. ",
        ),
        Preset(
            "gdc-attention", AttentionProbe,
            {**_PUBLISHED_WIDTH, **_GDC, "learning_rate": 5e-2, "augment": mirror}, _GDC_SOURCE,
            _MIRROR,
        ),
        Preset(
            "difformer", DifFormerProbe,
            {**_PUBLISHED_WIDTH, **_GDC, "learning_rate": 5e-2, "augment": mirror},
            "Mukhopadhyay et al. 2024 (DifFormer)",
            _MIRROR + "Training is taken from the attention head of GDC. ",
        ),
        Preset(
            "repa", BatchNormProbe, {"optimizer": "adam", "learning_rate": 1e-3, **_BIG_BATCH},
            "Yu et al. 2025 (REPA), linear probing",
            "Meant for ImageNet: a small set has few batches of this size. No weight decay is "
            "assumed. ",
        ),
        Preset(
            "l-dae", BatchNormProbe,
            {"optimizer": "lars", "learning_rate": 6.4, "momentum": 0.9, **_BIG_BATCH},
            "Chen et al. 2024 (l-DAE), linear probing",
            "Meant for ImageNet: a small set has few batches of this size. The published "
            "6.4e-3 is read as LARS' trust of 0.001 times 6.4, not verified; momentum, cosine "
            "and no warm-up are assumed. ",
        ),
    )
})  # fmt: skip
"""Name → a published protocol, with its source and what is not verified of it."""


def preset(name: str, **changes: Any) -> NetworkProbe:
    """The estimator of a published protocol.

    Args:
        name: one of `PRESETS`.
        changes: constructor arguments that replace the protocol's.

    Returns:
        The estimator, not fitted.

    Raises:
        ValueError: no such preset.
    """
    if name not in PRESETS:
        raise ValueError(f"no preset {name!r}; expected one of {', '.join(PRESETS)}")
    found = PRESETS[name]
    return found.head(**{**found.arguments, **changes})
