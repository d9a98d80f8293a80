"""DDAE's own U-Nets for convert.py (Xiang et al. 2023): DDPM and DDPM++, trained as DDPM or EDM."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

from convert_files import Converted, Tensors, Transfer, cut_thirds, without_prefix
from diffusers import DDPMScheduler, EDMEulerScheduler, UNet2DModel

from diffeat.backbones import unet_variants
from diffeat.errors import ModelError, SpecError

STEPS = 1000
"""Steps of DDAE's DDPMs."""

DDAE_RESNET = {
    "norm1": "norm1",
    "conv1": "conv1",
    "time_emb.1": "time_emb_proj",
    "norm2": "norm2",
    "conv2.1": "conv2",
    "shortcut": "conv_shortcut",
}


@dataclass(frozen=True)
class DdaeShape:
    """The architecture, read off the keys of the encoder.

    Attributes:
        levels: places in `down` of each level's resnets, finest first.
        widths: channels per level.
        attention: whether a level has attention.
        resnet_resampling: whether resolutions change in residual blocks, or in convolutions.
    """

    levels: tuple[tuple[int, ...], ...]
    widths: tuple[int, ...]
    attention: tuple[bool, ...]
    resnet_resampling: bool

    @classmethod
    def read(cls, weights: Transfer) -> DdaeShape:
        levels: list[list[int]] = [[]]
        for place in count():
            if f"down.{place}.res.conv1.weight" in weights:
                levels[-1].append(place)
            elif _resamples(weights, place):
                levels.append([])
            else:
                break
        if len({len(level) for level in levels}) != 1 or not levels[0]:
            raise ModelError(
                f"{weights.name}: the keys 'down.….res.conv1.weight' give levels of "
                f"{', '.join(str(len(level)) for level in levels)} residual blocks; expected the "
                "same number at every level, as in a U-Net in the 'ddae' layout"
            )
        starts = [f"down.{level[0]}" for level in levels]
        return cls(
            tuple(map(tuple, levels)),
            tuple(len(weights.look(f"{start}.res.conv1.weight")) for start in starts),
            tuple(f"{start}.attn.projection.weight" in weights for start in starts),
            any(".op." in key for key in weights.left),
        )

    def block_types(self) -> tuple[list[str], list[str]]:
        plain = "Resnet{}sampleBlock2D" if self.resnet_resampling else "{}Block2D"
        down = ["AttnDownBlock2D" if a else plain.format("Down") for a in self.attention]
        up = ["AttnUpBlock2D" if a else plain.format("Up") for a in self.attention]
        return down, up[::-1]


def _resamples(weights: Transfer, place: int) -> bool:
    return f"down.{place}.conv.weight" in weights or f"down.{place}.op.conv1.weight" in weights


def convert_ddae(tensors: Tensors, name: str, process: str, size: int) -> Converted:
    """A U-Net of DDAE as a `UNet2DModel` that `unet_variants.to_ddae` has adjusted.

    Args:
        tensors: state dict of the network, of the diffusion model around it ("nn_model." before
            every key), or of the average of that ("ema_model.nn_model.").
        name: the checkpoint's file, for messages.
        process: "ddpm" (told (t + 1)/1000) or "edm" (told ln(sigma)/4); no tensor says which.
        size: pixels of the pictures that it was trained on.

    Raises:
        ModelError: the keys or shapes are not those of such a U-Net.
        SpecError: the size does not fit it.
    """
    weights = Transfer(_network(tensors), name, "ddae")
    weights.drop("time_emb.aug_emb.")  # augmentation labels are left out outside training
    shape = DdaeShape.read(weights)
    multiple = 2 ** (len(shape.widths) - 1)
    if size % multiple:
        raise SpecError(f"--size {size} does not fit {name}: expected a multiple of {multiple}")
    channels, in_channels = weights.look("image_proj.weight").shape[:2]
    down, up = shape.block_types()
    config = {
        unet_variants.DDAE_KEY: True,
        **({unet_variants.STEPS_KEY: STEPS} if process == "ddpm" else {}),
        **({unet_variants.CHANNELS_KEY: channels} if channels != shape.widths[0] else {}),
        "sample_size": size,
        "in_channels": in_channels,
        "out_channels": len(weights.look("final.weight")),
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "down_block_types": down,
        "up_block_types": up,
        "block_out_channels": list(shape.widths),
        "layers_per_block": len(shape.levels[0]),
        "downsample_type": "resnet" if shape.resnet_resampling else "conv",
        "upsample_type": "resnet" if shape.resnet_resampling else "conv",
        "attention_head_dim": None,  # one head, as wide as its stage
        "norm_num_groups": 32,
        "norm_eps": 1e-5,
        "time_embedding_dim": len(weights.look("time_emb.lin1.weight")),
    }
    _move_ddae(weights, shape)
    return Converted(
        "DDPMPipeline" if process == "ddpm" else "EDMPipeline",
        "unet",
        UNet2DModel,
        config,
        weights.finish(),
        _scheduler(process),
        adjust=unet_variants.to_ddae,
    )


def _network(tensors: Tensors) -> Tensors:
    """The network alone: without the wrappers, and without what an average keeps beside it."""
    average = {key: values for key, values in tensors.items() if key.startswith("ema_model.")}
    return without_prefix(without_prefix(average or tensors, "ema_model."), "nn_model.")


def _scheduler(process: str) -> DDPMScheduler | EDMEulerScheduler:
    if process == "ddpm":
        return DDPMScheduler(
            num_train_timesteps=STEPS,
            beta_start=1e-4,
            beta_end=0.02,
            beta_schedule="linear",
            variance_type="fixed_large",
        )
    return EDMEulerScheduler(
        sigma_min=0.002,
        sigma_max=80.0,
        sigma_data=0.5,
        num_train_timesteps=1000,
        prediction_type="epsilon",
    )


def _move_ddae(weights: Transfer, shape: DdaeShape) -> None:
    def resnet(old: str, new: str) -> None:
        weights.move_all(old, new, DDAE_RESNET, optional="shortcut")

    def attention(old: str, new: str) -> None:
        weights.move(f"{old}.norm", f"{new}.group_norm")
        weights.split(f"{old}.projection", new, cut_thirds)
        weights.move(f"{old}.output", f"{new}.to_out.0")

    def layer(old: str, stage: str, place: int, attends: bool) -> None:
        resnet(f"{old}.res", f"{stage}.resnets.{place}")
        if attends:
            attention(f"{old}.attn", f"{stage}.attentions.{place}")

    def resampler(old: str, new: str) -> None:
        if shape.resnet_resampling:
            resnet(f"{old}.op", new)
        else:
            weights.move(f"{old}.conv", f"{new}.conv")

    weights.move("time_emb.lin1", "time_embedding.linear_1")
    weights.move("time_emb.lin2", "time_embedding.linear_2")
    weights.move("image_proj", "conv_in")
    last = len(shape.levels) - 1
    for level, (places, attends) in enumerate(zip(shape.levels, shape.attention, strict=True)):
        for j, place in enumerate(places):
            layer(f"down.{place}", f"down_blocks.{level}", j, attends)
        if level < last:
            resampler(f"down.{places[-1] + 1}", f"down_blocks.{level}.downsamplers.0")
    resnet("middle.res1", "mid_block.resnets.0")
    attention("middle.attn", "mid_block.attentions.0")
    resnet("middle.res2", "mid_block.resnets.1")
    place = count()
    for stage, attends in enumerate(reversed(shape.attention)):
        for j in range(len(shape.levels[0]) + 1):
            layer(f"up.{next(place)}", f"up_blocks.{stage}", j, attends)
        if stage < last:
            resampler(f"up.{next(place)}", f"up_blocks.{stage}.upsamplers.0")
    weights.move("norm", "conv_norm_out")
    weights.move("final", "conv_out")
