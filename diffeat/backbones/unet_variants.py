"""EDM's DDPM++ U-Net as a variation of diffusers' `UNet2DModel`. Karras et al. 2022.

Song et al. 2021 scale every sum of a branch and its skip connection by sqrt(1/2), project the
skip connection wherever the resolution changes, and attend only once per stage in the decoder.
EDM's first convolution may be narrower than the first stage. No configuration of `UNet2DModel` says
so; here a built one is changed in place.

Dhariwal & Nichol 2021: the 128-pixel ADM has 4 heads at every width, and the 512-pixel ADM embeds
t in more channels than its first stage has.

Xiang et al. 2023 (DDAE): the last norm has 8 groups, and DDPMs are told t as a share of all steps.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    import torch
    from diffusers import UNet2DModel

DDPMPP_KEY = "_edm_ddpmpp"
"""Key of unet/config.json that asks for `to_ddpmpp` before weights are loaded."""
CHANNELS_KEY = "_model_channels"
"""Key of unet/config.json: channels of the first convolution and of the sinusoids of the noise
level; without it, those of the first stage."""
HEADS_KEY = "_attention_heads"
"""Key of unet/config.json: number of heads of every attention layer."""

DDAE_KEY = "_ddae"
"""Key of unet/config.json that asks for `to_ddae` before weights are loaded."""
STEPS_KEY = "_share_of_steps"
"""Key of unet/config.json: t = 0, 1, … is told as (t + 1) / so many steps."""


def to_adm(unet: UNet2DModel) -> UNet2DModel:
    """Change a freshly built U-Net in place, before weights are loaded.

    Args:
        unet: built (`from_config`) from a configuration that may hold HEADS_KEY and CHANNELS_KEY
            (channels of the sinusoids of t); without them nothing changes.

    Returns:
        The same module.
    """
    from diffusers.models.attention_processor import Attention

    heads, channels = unet.config.get(HEADS_KEY), unet.config.get(CHANNELS_KEY)
    if heads is not None:
        for module in unet.modules():
            if isinstance(module, Attention):
                # the projections are C → C whatever the heads are; only the cut differs
                module.heads = module.sliceable_head_dim = heads
                module.scale = (module.inner_dim // heads) ** -0.5
    if channels is not None:
        set_time_channels(unet, channels)
    return unet


def to_ddpmpp(unet: UNet2DModel) -> UNet2DModel:
    """Turn a freshly built U-Net into a DDPM++ of the same widths, in place.

    Call it before the weights are loaded: it adds layers and takes others away.

    Args:
        unet: built (`from_config`) from a configuration with resnets as resamplers
            (downsample_type = upsample_type = "resnet"), norm_eps 1e-6, freq_shift 1,
            flip_sin_to_cos False and one attention head.

    Returns:
        The same module. Its "timestep" is EDM's c_noise = ln(sigma) / 4.

    Source: Karras et al. 2022, appendix F; Song et al. 2021, appendix H.
    """
    from diffusers.models.attention_processor import Attention
    from diffusers.models.resnet import ResnetBlock2D

    channels = unet.config.get(CHANNELS_KEY) or unet.conv_in.out_channels
    if channels != unet.conv_in.out_channels:
        _narrow_start(unet, channels)
    for stage in unet.up_blocks:
        attentions = getattr(stage, "attentions", None)
        for index in range(len(attentions or ()) - 1):
            attentions[index] = nn.Identity()
    for module in list(unet.modules()):
        if isinstance(module, ResnetBlock2D):
            module.output_scale_factor = math.sqrt(2)
            if module.up or module.down:
                _project_skip(module)
        elif isinstance(module, Attention):
            module.rescale_output_factor = math.sqrt(2)
    return unet


def to_ddae(unet: UNet2DModel) -> UNet2DModel:
    """Turn a freshly built U-Net into one of DDAE, in place, before weights are loaded.

    Args:
        unet: built (`from_config`) from a configuration that may hold CHANNELS_KEY (channels of
            the first convolution and of the sinusoids) and STEPS_KEY (DDPMs).

    Returns:
        The same module. Its "timestep" is t = 0 … steps - 1 where STEPS_KEY is there, else EDM's
        c_noise = ln(sigma) / 4.

    Source: Xiang et al. 2023, and its public code.
    """
    channels, steps = unet.config.get(CHANNELS_KEY), unet.config.get(STEPS_KEY)
    if channels is not None:
        _narrow_start(unet, channels)
    old = unet.conv_norm_out
    unet.conv_norm_out = nn.GroupNorm(8, old.num_channels, old.eps).to(old.weight)
    if steps is not None:
        unet.time_proj = ShareOfSteps(unet.time_proj, steps)
    return unet


class ShareOfSteps(nn.Module):
    """Sinusoids of (t + 1) / steps: DDAE counts t from 1, and divides it by their number.

    Args:
        waves: the sinusoids of a number.
        steps: how many there are.
    """

    def __init__(self, waves: nn.Module, steps: int):
        super().__init__()
        self.waves, self.steps = waves, steps

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        """Args: t: (n,) counted from 0. Returns: (n, channels) in fp32."""
        return self.waves((t.float() + 1) / self.steps)


def set_time_channels(unet: UNet2DModel, channels: int) -> None:
    """Embed the timestep in `channels` sinusoids, in place."""
    old = unet.time_embedding.linear_1
    unet.time_proj.num_channels = channels
    unet.time_embedding.linear_1 = nn.Linear(channels, old.out_features).to(old.weight)


def _narrow_start(unet: UNet2DModel, channels: int) -> None:
    """A first convolution of `channels`, and resnets that fit it and its skip connection."""
    set_time_channels(unet, channels)
    old = unet.conv_in
    width = old.out_channels
    unet.conv_in = nn.Conv2d(old.in_channels, channels, 3, padding=1).to(old.weight)
    first, last = unet.down_blocks[0].resnets, unet.up_blocks[-1].resnets
    first[0] = _with_input(first[0], channels)
    last[-1] = _with_input(last[-1], last[-1].in_channels - width + channels)


def _with_input(resnet: nn.Module, channels: int) -> nn.Module:
    """The same resnet for another number of input channels."""
    return type(resnet)(
        in_channels=channels,
        out_channels=resnet.out_channels,
        temb_channels=resnet.time_emb_proj.in_features,
        groups=resnet.norm1.num_groups,
        eps=resnet.norm1.eps,
        time_embedding_norm=resnet.time_embedding_norm,
    ).to(resnet.conv1.weight)


def _project_skip(resnet: nn.Module) -> None:
    """A 1×1 convolution on the resampled skip connection, also where widths are equal."""
    resnet.use_in_shortcut = True
    layer = nn.Conv2d(resnet.in_channels, resnet.out_channels, 1)
    resnet.conv_shortcut = layer.to(resnet.conv1.weight)
