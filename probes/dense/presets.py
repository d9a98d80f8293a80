"""Published dense heads by name: which head, with which values."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from probes.checks import check_choice
from probes.dense.depth import DepthHead
from probes.dense.dpt import DPTHead
from probes.dense.fpn import FPNHead
from probes.dense.pyramid import GridHead
from probes.presets import Preset
from probes.training import mirror

_FROZEN = "The published head is trained together with the network; here the features stand still. "
_TRAINING = "Length, rate and batch are those of this class. "

PUBLISHED: Mapping[str, Preset] = MappingProxyType({
    one.name: one
    for one in (
        Preset(
            "vpd-segmentation", FPNHead, {"width": 256, "dropout": 0.1, "augment": mirror},
            "Zhao et al. 2023 (VPD), semantic segmentation",
            _FROZEN + _TRAINING + "Cross-attention maps are cells like others. ",
        ),
        Preset(
            "vpd-depth", DepthHead,
            {"kind": "vpd", "width": 1536, "filters": (32, 32, 32), "last": 192, "max_depth": 10.0,
             "objective": "silog", "lambda_": 0.5, "per": "batch", "augment": mirror},
            "Zhao et al. 2023 (VPD), depth estimation",
            _FROZEN + _TRAINING + "The maximum is that of NYUv2. ",
        ),
        Preset(
            "dpt-segmentation", DPTHead, {"width": 256, "dropout": 0.1, "augment": mirror},
            "Ranftl et al. 2021 (DPT), semantic segmentation",
            _FROZEN + _TRAINING + "There is no auxiliary head. ",
        ),
        Preset(
            "dpt-depth", DepthHead,
            {"kind": "dpt", "width": 256, "objective": "scale-shift", "augment": mirror},
            "Ranftl et al. 2021 (DPT), monocular depth estimation",
            _FROZEN + _TRAINING + "Depth, not its inverse; without the gradient matching term. ",
        ),
    )
})  # fmt: skip
"""Name → a published dense head."""


def published(name: str, **changes: Any) -> GridHead:
    """The estimator of a published dense head.

    Args:
        name: one of `PUBLISHED`.
        changes: constructor arguments that replace the published ones.

    Returns:
        The estimator, not fitted.

    Raises:
        ValueError: no such head.
    """
    check_choice("name", name, tuple(PUBLISHED))
    found = PUBLISHED[name]
    return found.head(**{**found.arguments, **changes})
