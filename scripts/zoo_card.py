"""The card of a trained model: what it is, how it was trained, what its features are worth."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import diffeat
from diffeat.noise import format_t
from diffeat.search import Surface, probe_surface, task_from_store

PROBE = {"timesteps": (5, 20, 60, 150, 300), "pool": "2x2"}
LIMITS = (5000, 2000)


def write_card(folder: Path, title: str, facts: dict, probe: tuple[str, str] | None) -> None:
    """Write README.md and training.json into the model's folder.

    Args:
        folder: the exported pipeline folder.
        title: name of the model.
        facts: what happened in training, from the run's own records.
        probe: training and test source of a linear probe, or None to leave it out.
    """
    (folder / "training.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    lines = [f"# {title}", "", *_describe(facts)]
    if probe:
        lines += ["", *_worth(folder, probe)]
    (folder / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _describe(facts: dict) -> list[str]:
    config = facts["config"]
    if config["arch"] == "dit":
        shape = (
            f"A diffusion transformer (diffusers `DiTTransformer2DModel`) on pixels: width "
            f"{config['width']}, {config['depth']} blocks, {config['heads']} heads, patch "
            f"{config['patch']}; class-conditional, class index {facts['classes']} is the null "
            "class (label dropout 0.1)"
        )
    else:
        widths = "/".join(map(str, config["widths"]))
        shape = (
            f"A DDPM U-Net (diffusers `UNet2DModel`): {widths} channels, {config['layers']} "
            "resnets a stage, attention at the coarsest"
        )
    objective = {
        "ddpm": "epsilon prediction, 1,000 steps, linear beta 1e-4 to 0.02",
        "flow": "rectified flow, x_s = (1 - s)x + s·eps, logit-normal s, t = 1000·s",
    }[config["objective"]]
    return [
        f"{shape}; {facts['parameters'] / 1e6:.2f} M parameters, {config['size']}×"
        f"{config['size']} pictures. Stored as fp16 safetensors (EMA weights).",
        "",
        f"Trained from scratch on `{config['data']}` ({facts['data_pictures']:,} pictures) by "
        f"`scripts/train_zoo.py`: {objective}; {facts['steps']:,} steps of {config['batch']}, "
        f"{facts['pictures_seen']:,} pictures seen ({facts['passes']} passes), "
        f"{'with' if config['flip'] else 'without'} horizontal flips, AdamW {config['lr']:g}, "
        f"{config['warmup']} warm-up steps, cosine decay, "
        f"{'bf16 autocast' if config['bf16'] else 'fp32'}, gradient clip 1, EMA {config['ema']}, "
        f"seed {config['seed']}. {facts['training_minutes']} minutes on {facts['device']} "
        f"({facts['processes']} process, {facts['threads']} threads). Final running loss "
        f"{facts['final_running_loss']:.4f}. `log.csv` is the loss curve, `samples.png` 32 "
        "samples of 50 deterministic steps, `training.json` these facts for programs.",
    ]


def _worth(folder: Path, probe: tuple[str, str]) -> list[str]:
    """Linear-probe table, by the same code that `diffeat probe` runs."""
    sources = [diffeat.open_source(name) for name in probe]
    sources = [s.limit(min(n, len(s))) for s, n in zip(sources, LIMITS, strict=True)]
    backbone = diffeat.load(str(folder))
    blocks = ("stages",) if backbone.family == "pixel-unet" else ("all",)
    spec = diffeat.ExtractSpec(blocks=blocks, **PROBE)
    with tempfile.TemporaryDirectory() as scratch:
        stores = []
        for source, part in zip(sources, ("train", "test"), strict=True):
            path = Path(scratch) / f"{part}.h5"
            diffeat.extract_to_file(backbone, source, spec, path)
            stores.append(diffeat.FeatureStore(path))
        surface = probe_surface(task_from_store(stores[0], test=stores[1]))
        for store in stores:
            store.close()
    return _worth_table(surface, sources)


def _worth_table(surface: Surface, sources: list) -> list[str]:
    best = surface.best
    head = " | ".join(format_t(t) for t in surface.timesteps)
    lines = [
        f"Linear probe, 2×2 pooling, {len(sources[0]):,} training pictures of "
        f"{sources[0].name} and {len(sources[1]):,} test pictures of {sources[1].name} "
        "(class-balanced). Validation accuracy in % on a fifth of the training pictures, by "
        "block and t:",
        "",
        f"| block | {head} |",
        "|---" * (1 + len(surface.timesteps)) + "|",
    ]
    for block, row in zip(surface.blocks, surface.grid.array(), strict=True):
        lines.append(f"| {block} | " + " | ".join(f"{100 * value:.1f}" for value in row) + " |")
    return [
        *lines,
        "",
        f"Best on validation: {best.block} at t={format_t(best.t)}; refitted on all training "
        f"pictures, {100 * best.test:.1f} % on the test pictures.",
    ]
