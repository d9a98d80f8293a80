"""The names that papers gave to tensors, as canonical names. Each system counts in its own way.

A U-Net's up path is a row of units: a resnet, its attention where it has one, and the upsampler
where it is the last of its stage. CompVis's and OpenAI's `output_blocks` are these units.
"""

from __future__ import annotations

from collections.abc import Sequence

from diffeat.blocks import BlockInfo


def _layers(blocks: Sequence[BlockInfo], part: str) -> list[tuple[str, str, int]]:
    """(stage, what a layer gives after its attention, j) of every resnet of one path."""
    names = {block.name for block in blocks}
    found = []
    for block in blocks:
        if block.part == part and block.kind == "resnet" and not block.tensor:
            stage, _, j = block.name.rpartition(".res.")
            attention = f"{stage}.attn.{j}"
            found.append((stage, attention if attention in names else block.name, int(j)))
    return found


def _units(blocks: Sequence[BlockInfo], part: str) -> list[str]:
    """Outputs of the units of one path; the upsampler belongs to the last unit of a stage."""
    layers = _layers(blocks, part)
    last = {stage: j for stage, _, j in layers}
    return [stage if j == last[stage] else name for stage, name, j in layers]


def unet_aliases(blocks: Sequence[BlockInfo]) -> dict[str, str]:
    """Names that fit every U-Net.

    ddae:k (Xiang et al. 2023): k-th resnet with attention of the up path, from 1, upsamplers
    not counted. hyperfeatures:i.j (Luo et al. 2023): the residual branch of up.i.res.j.
    repfusion:mid (Yang & Wang 2023): the second middle resnet's residual branch.
    """
    layers = _layers(blocks, "decoder")
    found = {f"ddae:{k}": name for k, (_, name, _) in enumerate(layers, 1)}
    found |= {
        f"hyperfeatures:{stage.removeprefix('up.')}.{j}": f"{stage}.res.{j}:increment"
        for stage, _, j in layers
    }
    if any(block.name == "mid.res.1" for block in blocks):
        found["repfusion:mid"] = "mid.res.1:increment"
    return found


def adm_aliases(blocks: Sequence[BlockInfo]) -> dict[str, str]:
    """Names for OpenAI's U-Nets.

    dift:k (Tang et al. 2023), ddpm-seg:k (Baranchuk et al. 2022): output_blocks[k]. gdc:b,
    difformer:b, diffeed:b (Mukhopadhyay et al. 2023, 2024): counted from 1 over conv_in, encoder
    units and downsamplers, the middle, output_blocks.
    """
    up = _units(blocks, "decoder")
    found = {f"{name}:{k}": unit for name in ("dift", "ddpm-seg")
             for k, unit in enumerate(up)}  # fmt: skip
    row = ["conv_in"]
    names = {block.name for block in blocks}
    layers = _layers(blocks, "encoder")
    for place, (stage, name, _) in enumerate(layers):
        row.append(name)
        ends = place + 1 == len(layers) or layers[place + 1][0] != stage
        if ends and f"{stage}:pre" in names:
            row.append(stage)
    row += ["mid", *up]
    for name in ("gdc", "difformer", "diffeed"):
        found |= {f"{name}:{b}": unit for b, unit in enumerate(row, 1)}
    return found


def latent_unet_aliases(
    blocks: Sequence[BlockInfo], encoder: Sequence, decoder: Sequence
) -> dict[str, str]:
    """Names for Stable Diffusion's U-Nets.

    dift:i, sd4match:i (Li et al. 2024): output of up.i after its upsampler. vpd:k (Zhao et al.
    2023): output_blocks[k]. odise:k (Xu et al. 2023): what enters output_blocks[k], after
    concatenation; odise:vae.k, odise:vae-decoder.k: what enters resnet k of the VAE's encoder or
    decoder. sd-dino:s5 … s2
    (Zhang et al. 2023): what enters the last unit of up.0 … up.3, before concatenation.
    cleandift:usK (Stracke et al. 2025): output_blocks[K - 1]. uscsd:k (Hedlin et al. 2023):
    cross-attention maps of the three layers of up.1 and the first of up.2.

    Args:
        blocks: the U-Net's tensors.
        encoder, decoder: the stages of the VAE's.
    """
    up, layers = _units(blocks, "decoder"), _layers(blocks, "decoder")
    names = {block.name for block in blocks}
    stages = [block.name for block in blocks if block.kind == "stage" and block.part == "decoder"
              and not block.tensor]  # fmt: skip
    found = {f"{system}:{i}": stage for system in ("dift", "sd4match")
             for i, stage in enumerate(stages)}  # fmt: skip
    for k, (stage, _, j) in enumerate(layers):
        found |= {f"vpd:{k}": up[k], f"cleandift:us{k + 1}": up[k]}
        found[f"odise:{k}"] = f"{stage}.res.{j}:in"
    for i, stage in enumerate(stages):
        before = [name for of, name, _ in layers if of == stage][-2:-1]
        found |= {f"sd-dino:s{5 - i}": name for name in before}
    for coder, way, of_vae in (("vae", "down", encoder), ("vae-decoder", "up", decoder)):
        resnets = [(i, j) for i, stage in enumerate(of_vae) for j in range(len(stage.resnets))]
        found |= {f"odise:{coder}.{k}": f"vae.{way}.{i}.res.{j}:in"
                  for k, (i, j) in enumerate(resnets)}  # fmt: skip
    maps = [f"up.1.attn.{j}:cross.map" for j in range(3)] + ["up.2.attn.0:cross.map"]
    return found | {f"uscsd:{k}": name for k, name in enumerate(maps) if name in names}


def transformer_aliases(blocks: Sequence[BlockInfo]) -> dict[str, str]:
    """Names for transformers.

    repa:d (Yu et al. 2025): tokens after block d, from 1. ddae:layer-i: output of block i, from
    0. ditf:k (Gan et al. 2025): the adaptive norm's output of block k, from 0, double blocks
    counted before single ones.
    """
    outputs = [block.name for block in blocks if block.is_output]
    found = {f"repa:{i + 1}": name for i, name in enumerate(outputs)}
    found |= {f"ddae:layer-{i}": name for i, name in enumerate(outputs)}
    return found | {f"ditf:{i}": f"{name}:adaln" for i, name in enumerate(outputs)}
