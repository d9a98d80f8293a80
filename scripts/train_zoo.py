"""Train a small diffusion model from scratch and write it as a diffusers pipeline folder.

    python scripts/train_zoo.py runs/dit --arch dit --data cifar10:train --minutes 80
    accelerate launch scripts/train_zoo.py runs/unet --arch unet --data cifar10:train --epochs 100

The run folder holds `run.json` (what was asked for), `log.csv`, `samples/*.png`, the newest
checkpoint and, at the end, `model/`. The same command again continues a run that was stopped,
also by `kill -9`; a finished run is only exported again.
"""

from __future__ import annotations

import json
import math
import os
import platform
import signal
import time
from contextlib import contextmanager, nullcontext
from pathlib import Path

import click
import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast
from diffusers.training_utils import EMAModel
from PIL import Image
from torch.nn.attention import SDPBackend, sdpa_kernel
from zoo_card import write_card
from zoo_config import Budget, RunConfig, check_config
from zoo_data import append_row, load_pixels, read_rows, training_batch, write_rows
from zoo_models import OBJECTIVES, pipeline_of, predict, sample_grid

from diffeat.cli.ending import run
from diffeat.cli.options import option
from diffeat.errors import DiffeatError
from diffeat.images import open_source
from diffeat.progress import counted
from diffeat.viz import learning_curve

CHECKPOINT = "checkpoint.pt"


class Run:
    """One training run in one folder: model, EMA, optimizer, and where they are saved."""

    def __init__(self, folder: Path, config: RunConfig, budget: Budget, workers: int):
        self.folder, self.config, self.budget = folder, config, budget
        self.accelerator = Accelerator(mixed_precision="bf16" if config.bf16 else "no")
        self.source = open_source(config.data)
        self.classes = len(self.source.class_names)
        if config.arch == "dit" and not self.classes:
            raise click.UsageError("a DiT is class-conditional: --data needs class subfolders")
        with self.accelerator.main_process_first():
            self.pixels = load_pixels(self.source, config.size, folder, workers)
        self.labels = (
            self.source.labels
            if self.source.labels is not None
            else np.zeros(len(self.source), np.int64)
        )
        self.objective = OBJECTIVES[config.objective]
        model = config.build(self.classes)
        self.ema = EMAModel(model.parameters(), decay=config.ema, use_ema_warmup=False)
        self.ema.to(self.accelerator.device)
        optimizer = torch.optim.AdamW(
            model.parameters(), config.lr, betas=(0.9, 0.99), weight_decay=0.0, fused=True
        )
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.step, self.seconds, self.loss = 0, 0.0, math.nan
        self.stopping = False

    @property
    def bare(self) -> torch.nn.Module:
        return self.accelerator.unwrap_model(self.model)

    def resume(self) -> None:
        """Load the newest checkpoint, if there is one, and cut the log back to it."""
        path = self.folder / CHECKPOINT
        if not path.exists():
            return
        state = torch.load(path, map_location="cpu", weights_only=True)
        self.bare.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        self.ema.to(self.accelerator.device)
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds, self.loss = state["step"], state["seconds"], state["loss"]
        log = self.folder / "log.csv"
        if self.accelerator.is_main_process and log.exists():
            kept = [row for row in read_rows(log) if int(row["step"]) <= self.step]
            write_rows(log, kept)
        self.accelerator.print(f"resumed at step {self.step} ({self.seconds / 60:.1f} min)")

    def save(self) -> None:
        """Write the checkpoint beside the old one, sync it, then rename it into place."""
        if not self.accelerator.is_main_process:
            return
        state = {
            "model": self.bare.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "loss": self.loss,
        }
        partial = self.folder / (CHECKPOINT + ".tmp")
        with open(partial, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, self.folder / CHECKPOINT)

    def train(self, save_every: float, sample_every: float, log_every: int) -> bool:
        """Train until the budget is used; False when a signal asked for an earlier stop."""
        shown = None if self.accelerator.is_main_process else False
        bar = counted(
            self.budget.steps, initial=self.step, desc=self.config.arch, unit="steps", show=shown
        )
        with _signals_noted(self), bar as steps:
            return self._train(steps, save_every, sample_every, log_every)

    def _train(self, bar, save_every: float, sample_every: float, log_every: int) -> bool:
        saved = sampled = time.monotonic()
        while (progress := self.agreed_progress()) < 1.0:
            began = time.monotonic()
            row = self.one_step(progress)
            self.seconds += time.monotonic() - began
            bar.update()
            last = self.stopping or self.agreed_progress() >= 1
            if (last or self.step % log_every == 0) and self.accelerator.is_main_process:
                append_row(self.folder / "log.csv", row)
                bar.set_postfix(loss=f"{self.loss:.4f}", used=f"{progress:.1%}")
            now = time.monotonic()
            if now - sampled > 60 * sample_every:
                self.samples(f"step-{self.step:07d}")
                sampled = now
            if self.stopping or now - saved > 60 * save_every:
                self.save()
                saved = now
            if self.stopping:
                self.accelerator.print(f"stopped at step {self.step}; run again to continue")
                return False
        self.save()
        return True

    def agreed_progress(self) -> float:
        """Used fraction of the budget and whether to stop, as the first rank sees them.

        Clocks and signals differ between ranks; learning rates and the last step must not.
        """
        progress = self.budget.progress(self.step, self.seconds)
        if self.accelerator.num_processes > 1:
            state = torch.tensor([progress, float(self.stopping)], device=self.accelerator.device)
            progress, stopping = broadcast(state).tolist()
            self.stopping = bool(stopping)
        return progress

    def set_rate(self, progress: float) -> float:
        """The learning rate of this step: a linear warm-up under a cosine."""
        lr = self.config.lr * min(1.0, (self.step + 1) / self.config.warmup)
        lr *= 0.5 * (1 + math.cos(math.pi * progress))
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        return lr

    def one_step(self, progress: float) -> dict[str, float]:
        accelerator, config = self.accelerator, self.config
        rank, ranks = accelerator.process_index, accelerator.num_processes
        x, labels = training_batch(self.pixels, self.labels, config, self.step, rank, ranks)
        x, labels = x.to(accelerator.device), labels.to(accelerator.device)
        generator = torch.Generator().manual_seed(hash((config.seed, self.step, rank)) % 2**63)
        eps = torch.randn(x.shape, generator=generator).to(x.device)
        noisy, t, target = self.objective.loss_inputs(x, eps, generator)
        # a DiT draws its label dropout from the global generator
        torch.manual_seed(hash((config.seed, self.step, rank, 1)) % 2**63)
        lr = self.set_rate(progress)
        with _attention(x.device), accelerator.autocast():
            output = predict(self.model, noisy, t, labels)
        loss = F.mse_loss(output.float(), target)
        accelerator.backward(loss)
        norm = accelerator.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        # a short average at the start, else the EMA would remember the initial weights
        self.ema.decay = min(config.ema, (1 + self.step) / (10 + self.step))
        self.ema.step(self.bare.parameters())
        self.step += 1
        value = float(loss.detach())
        if not math.isfinite(value):
            raise FloatingPointError(f"loss is {value} at step {self.step}; lower --lr")
        self.loss = value if math.isnan(self.loss) else 0.99 * self.loss + 0.01 * value
        return {
            "step": self.step,
            "pictures": self.step * config.batch,
            "seconds": round(self.seconds, 2),
            "loss": round(value, 5),
            "running_loss": round(self.loss, 5),
            "lr": lr,
            "grad_norm": round(float(norm), 4),
        }

    def with_ema(self):
        """Context in which the model carries the averaged weights."""
        run = self

        class _Swap:
            def __enter__(self):
                run.ema.store(run.bare.parameters())
                run.ema.copy_to(run.bare.parameters())
                run.bare.eval()

            def __exit__(self, *exc):
                run.ema.restore(run.bare.parameters())
                run.bare.train()

        return _Swap()

    def samples(self, name: str) -> None:
        if not self.accelerator.is_main_process:
            return
        (self.folder / "samples").mkdir(exist_ok=True)
        with self.with_ema():
            grid = sample_grid(
                self.bare, self.objective, 32, self.classes, self.config.size,
                self.accelerator.device,
            )  # fmt: skip
        Image.fromarray(grid).save(self.folder / "samples" / f"{name}.png")

    def export(self, probe: tuple[str, str] | None) -> Path:
        """Write the EMA weights as an fp16 pipeline folder, with samples, log and card."""
        target = self.folder / "model"
        with self.with_ema():
            copy = type(self.bare).from_config(self.bare.config)
            copy.load_state_dict(self.bare.state_dict())
            pipeline_of(copy.half().eval(), self.objective).save_pretrained(
                target, safe_serialization=True
            )
        self.samples("final")
        (target / "samples.png").write_bytes((self.folder / "samples/final.png").read_bytes())
        (target / "log.csv").write_bytes((self.folder / "log.csv").read_bytes())
        if rows := read_rows(self.folder / "log.csv"):
            learning_curve(rows, target / "log.png", title=self.folder.name, step="step")
        write_card(target, self.folder.name, self.facts(), probe)
        return target

    def facts(self) -> dict:
        """What happened in training, read from the configuration and the log."""
        rows = read_rows(self.folder / "log.csv")
        config = json.loads((self.folder / "run.json").read_text(encoding="utf-8"))
        pictures = self.step * self.config.batch
        return {
            "config": {**config, "data": Path(config["data"]).name},  # no path of a machine
            "parameters": sum(weight.numel() for weight in self.bare.parameters()),
            "classes": self.classes,
            "data_pictures": len(self.source),
            "steps": self.step,
            "pictures_seen": pictures,
            "passes": round(pictures / len(self.source), 2),
            "training_minutes": round(self.seconds / 60, 1),
            "final_running_loss": float(rows[-1]["running_loss"]) if rows else None,
            "device": str(self.accelerator.device),
            "processes": self.accelerator.num_processes,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "python": platform.python_version(),
        }


@contextmanager
def _signals_noted(run: Run):
    """SIGTERM and Ctrl-C end the training after the current step, and nothing but that."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(n, lambda *_: setattr(run, "stopping", True)) for n in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _attention(device: torch.device):
    """On a CPU the fused kernel's backward is slower than plain matrix products at this size."""
    return sdpa_kernel([SDPBackend.MATH]) if device.type == "cpu" else nullcontext()


@contextmanager
def _told():
    """Show diffeat's errors as click does: one line and no traceback."""
    try:
        yield
    except DiffeatError as error:
        raise click.ClickException(str(error)) from error


@click.command(help=__doc__.splitlines()[0])
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@option("--arch", type=click.Choice(["unet", "dit"]), required=True)
@option("--objective", type=click.Choice(list(OBJECTIVES)), default="ddpm", show_default=True)
@option("--data", required=True, help="Folder, glob, list file or named data set.")
@option("--size", default=32, show_default=True, help="Picture size in pixels.")
@option("--widths", default="32,96,192", show_default=True, help="U-Net: channels per stage.")
@option("--layers", default=1, show_default=True, help="U-Net: resnets per stage.")
@option("--width", default=192, show_default=True, help="DiT: channels.")
@option("--depth", default=8, show_default=True, help="DiT: blocks.")
@option("--heads", default=3, show_default=True, help="DiT: attention heads.")
@option("--patch", default=4, show_default=True, help="DiT: patch size in pixels.")
@option("--batch", default=128, show_default=True, help="Pictures per step, all ranks.")
@option("--lr", default=1e-3, show_default=True)
@option("--warmup", default=300, show_default=True, help="Steps of linear warm-up.")
@option("--ema", default=0.999, show_default=True)
@option("--flip/--no-flip", default=True, show_default=True)
@option("--bf16/--fp32", default=True, show_default=True)
@option("--seed", default=0, show_default=True)
@option("--steps", type=int, help="Stop after so many steps.")
@option("--epochs", type=float, help="Stop after so many passes over the pictures.")
@option("--minutes", type=float, help="Stop after so many minutes of training.")
@option("--save-every", default=5.0, show_default=True, help="Minutes between checkpoints.")
@option("--sample-every", default=15.0, show_default=True, help="Minutes between samples.")
@option("--log-every", default=50, show_default=True, help="Steps between log rows.")
@option("--workers", default=2, show_default=True, help="Decoding threads.")
@option("--probe", nargs=2, metavar="TRAIN TEST", help="Sources for the card's probe.")
def main(folder: Path, steps, epochs, minutes, save_every, sample_every, log_every, workers, probe,
         **options):  # fmt: skip
    options["widths"] = tuple(int(width) for width in options["widths"].split(","))
    config = RunConfig(**options)
    with _told():
        folder.mkdir(parents=True, exist_ok=True)
        with PartialState().main_process_first():
            check_config(folder, config)
        if epochs and steps:
            raise click.UsageError("--steps and --epochs say the same in two ways; give one")
        if epochs:
            steps = math.ceil(epochs * len(open_source(config.data)) / config.batch)
        if not steps and not minutes:
            raise click.UsageError("give a budget: --steps, --epochs or --minutes")
        run = Run(folder, config, Budget(steps, minutes), workers)
        run.resume()
        finished = run.train(save_every, sample_every, log_every)
        if finished and run.accelerator.is_main_process:
            click.echo(f"wrote {run.export(probe)}")


if __name__ == "__main__":
    run(main)
