"""The training program of the bundled models, on 24 pictures of 8×8 pixels."""

from __future__ import annotations

import csv
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file

import diffeat

SCRIPTS = Path(diffeat.__file__).parent.parent / "scripts"
TINY = ("--size", "8", "--widths", "16,32", "--width", "32", "--depth", "2", "--heads", "2",
        "--patch", "4", "--batch", "16", "--lr", "0.003", "--warmup", "4", "--ema", "0.9",
        "--no-flip", "--fp32", "--log-every", "1", "--workers", "1")  # fmt: skip
KINDS = [(arch, objective) for arch in ("unet", "dit") for objective in ("ddpm", "flow")]
STEPS = 30


@pytest.fixture(scope="module")
def program():
    """The module scripts/train_zoo.py."""
    sys.path.insert(0, str(SCRIPTS))
    import train_zoo

    yield train_zoo
    sys.path.remove(str(SCRIPTS))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """24 pictures in two classes, red and blue."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for label, colour in (("blue", (20, 40, 200)), ("red", (220, 60, 30))):
        (folder / label).mkdir()
        for number in range(12):
            pixels = np.clip(colour + rng.normal(0, 12, (8, 8, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def train(program, pictures):
    """Runs the program in this process; signal handlers are put back at the end."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def run(folder: Path, *options: object):
        args = [str(folder), "--data", str(pictures), *TINY, *map(str, options)]
        return CliRunner().invoke(program.main, args)

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def run_of(train, tmp_path_factory):
    """Folder of a finished run of an architecture and an objective; never write there."""
    folders = {}

    def finished(arch: str, objective: str) -> Path:
        if (arch, objective) not in folders:
            folder = tmp_path_factory.mktemp("run") / f"{arch}-{objective}"
            done = train(folder, "--arch", arch, "--objective", objective, "--steps", STEPS)
            assert done.exception is None, done.output
            folders[arch, objective] = folder
        return folders[arch, objective]

    return finished


@pytest.fixture(params=KINDS, ids="-".join)
def finished(request, run_of) -> Path:
    return run_of(*request.param)


@pytest.fixture
def without_samples(program, monkeypatch):
    """Sampling takes longer than the training here."""
    blank = np.zeros((8, 8, 3), np.uint8)
    monkeypatch.setattr(program, "sample_grid", lambda *_args: blank)


def log(folder: Path) -> list[dict[str, float]]:
    with open(folder / "log.csv", newline="", encoding="utf-8") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def checkpoint(folder: Path) -> dict:
    return torch.load(folder / "checkpoint.pt", weights_only=True)


def differing(first: Path, second: Path) -> list[str]:
    """Names of the weights, averaged or not, in which the checkpoints of two runs differ."""
    a, b = checkpoint(first), checkpoint(second)
    assert a["step"] == b["step"]
    names = [name for name in a["model"] if not torch.equal(a["model"][name], b["model"][name])]
    shadows = zip(a["ema"]["shadow_params"], b["ema"]["shadow_params"], strict=True)
    return names + [f"average {k}" for k, (x, y) in enumerate(shadows) if not torch.equal(x, y)]


class TestFinishedRun:
    def test_loss_falls(self, finished):
        losses = [row["loss"] for row in log(finished)]
        assert len(losses) == STEPS
        assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:3])

    def test_log_follows_the_schedule(self, finished):
        rows = log(finished)
        assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
        assert [row["pictures"] for row in rows] == [16 * row["step"] for row in rows]
        # warm-up over 4 steps, then half a cosine down to zero after the last step
        k = np.arange(STEPS)
        expected = 0.003 * np.minimum(1, (k + 1) / 4) * 0.5 * (1 + np.cos(np.pi * k / STEPS))
        np.testing.assert_allclose([row["lr"] for row in rows], expected, rtol=1e-9)

    def test_samples(self, finished):
        with Image.open(finished / "samples/final.png") as picture:
            assert picture.width % 8 == 0
            assert picture.height % 8 == 0
            assert picture.width * picture.height >= 32 * 8 * 8
            assert len(picture.getcolors(1 << 16)) > 100
        assert (finished / "model/samples.png").read_bytes() == (
            finished / "samples/final.png"
        ).read_bytes()

    def test_diffeat_opens_the_model(self, finished, pictures):
        backbone = diffeat.load(str(finished / "model"), "cpu")
        assert backbone.native_size == (8, 8)
        spec = diffeat.ExtractSpec(timesteps=(100,), blocks=("all",), pool="1x1", dtype="float32")
        source = diffeat.open_source(pictures)
        shown = [source.load(index) for index in (0, 1, 22, 23)]
        features = diffeat.extract(backbone, shown, spec)
        for block in backbone.blocks:
            values = features[block.name, 100]
            assert values.shape == (4, block.channels)
            assert values.isfinite().all()
        assert values.std(0).max() > 0

    def test_weights_are_the_average_in_fp16(self, finished):
        (path,) = (finished / "model").glob("*/*.safetensors")
        stored, state = load_file(path), checkpoint(finished)
        averages = dict(zip(state["model"], state["ema"]["shadow_params"], strict=False))
        shared = set(stored) & set(averages)
        assert len(shared) >= 0.9 * len(stored)
        assert all(torch.equal(stored[name], averages[name].half()) for name in shared)

    def test_card_says_what_happened(self, finished):
        facts = json.loads((finished / "model/training.json").read_text("utf-8"))
        card = (finished / "model/README.md").read_text("utf-8")
        (path,) = (finished / "model").glob("*/*.safetensors")
        assert facts["parameters"] == sum(x.numel() for x in checkpoint(finished)["model"].values())
        assert facts["parameters"] == sum(values.numel() for values in load_file(path).values())
        assert facts["steps"] == STEPS
        assert facts["pictures_seen"] == STEPS * 16
        assert facts["data_pictures"] == 24
        assert facts["passes"] == pytest.approx(STEPS * 16 / 24, abs=0.005)
        assert facts["classes"] == 2
        assert facts["final_running_loss"] == log(finished)[-1]["running_loss"]
        for words in (
            f"{facts['parameters'] / 1e6:.2f} M parameters",
            f"{STEPS} steps of 16",
            "(24 pictures)",
            f"{STEPS * 16} pictures seen",
            "without horizontal flips",
            "fp32",
            f"running loss {facts['final_running_loss']:.4f}",
        ):
            assert words in card
        assert (finished / "model/log.csv").read_bytes() == (finished / "log.csv").read_bytes()
        with Image.open(finished / "model/log.png") as picture:
            assert picture.format == "PNG"

    def test_the_same_command_only_exports_again(self, train, run_of, without_samples):
        folder = run_of("unet", "ddpm")
        before = (folder / "log.csv").read_bytes()
        (weights,) = (folder / "model").glob("*/*.safetensors")
        stored = weights.read_bytes()
        done = train(folder, "--arch", "unet", "--objective", "ddpm", "--steps", STEPS)
        assert done.exception is None
        assert (folder / "log.csv").read_bytes() == before
        assert weights.read_bytes() == stored

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (("--arch", "unet", "--objective", "ddpm", "--seed", 1), "seed: 0 → 1"),
            (("--arch", "unet", "--objective", "ddpm", "--flip"), "flip: False → True"),
            (("--arch", "dit", "--objective", "flow"), "arch: unet → dit"),
        ],
    )
    def test_another_configuration_is_refused(self, train, run_of, options, words):
        folder = run_of("unet", "ddpm")
        before = (folder / "checkpoint.pt").read_bytes()
        refused = train(folder, *options, "--steps", STEPS)
        assert refused.exit_code == 2
        assert words in refused.output
        assert (folder / "checkpoint.pt").read_bytes() == before


@pytest.mark.usefixtures("without_samples")
class TestSmallRuns:
    def test_a_run_shorter_than_the_log_interval(self, train, tmp_path):
        options = ("--arch", "unet", "--objective", "ddpm", "--steps", 3, "--log-every", 50)
        done = train(tmp_path / "run", *options)
        assert done.exception is None, repr(done.exception)
        assert "running loss" in (tmp_path / "run/model/README.md").read_text("utf-8")

    def test_the_final_loss_is_that_of_the_last_step(self, train, tmp_path):
        options = ("--arch", "unet", "--objective", "ddpm", "--steps", 3, "--log-every", 2)
        assert train(tmp_path / "run", *options).exception is None
        facts = json.loads((tmp_path / "run/model/training.json").read_text("utf-8"))
        loss = checkpoint(tmp_path / "run")["loss"]
        assert facts["final_running_loss"] == pytest.approx(loss, abs=1e-5)

    def test_a_budget_is_needed(self, train, tmp_path):
        refused = train(tmp_path / "run", "--arch", "unet", "--objective", "ddpm")
        assert refused.exit_code == 2
        assert "--steps, --epochs or --minutes" in refused.output

    def test_a_transformer_needs_classes(self, train, tmp_path, pictures):
        options = ("--arch", "dit", "--objective", "ddpm", "--data", pictures / "red")
        refused = train(tmp_path / "run", *options, "--steps", 2)
        assert refused.exit_code == 2
        assert "class subfolders" in refused.output

    def test_epochs_are_passes(self, train, tmp_path):
        options = ("--arch", "unet", "--objective", "ddpm", "--epochs", 2)
        assert train(tmp_path / "run", *options).exception is None
        assert checkpoint(tmp_path / "run")["step"] == 3  # 48 pictures in batches of 16


@pytest.mark.usefixtures("without_samples")
class TestResume:
    @pytest.mark.slow
    def test_after_kill_9(self, train, run_of, pictures, tmp_path):
        folder = tmp_path / "run"
        options = ("--arch", "unet", "--objective", "ddpm", "--steps", str(STEPS))
        command = [sys.executable, str(SCRIPTS / "train_zoo.py"), str(folder), "--data",
                   str(pictures), *TINY, *options, "--save-every", "0"]  # fmt: skip
        threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}  # as here, for equal sums
        child = subprocess.Popen(command, env={**os.environ, **threads}, stderr=subprocess.PIPE)
        try:
            while child.poll() is None and (
                not (folder / "checkpoint.pt").exists() or len(log(folder)) < 8
            ):
                time.sleep(0.01)
        finally:
            child.kill()
            errors = child.communicate()[1]
        assert child.returncode == -signal.SIGKILL, errors
        killed = checkpoint(folder)["step"]
        assert 7 <= killed < STEPS
        resumed = train(folder, *options)
        assert resumed.exception is None, resumed.output
        assert f"resumed at step {killed}" in resumed.output
        assert not differing(folder, run_of("unet", "ddpm"))
        whole = [row["running_loss"] for row in log(run_of("unet", "ddpm"))]
        assert [row["running_loss"] for row in log(folder)] == whole

    @pytest.mark.parametrize(("arch", "objective"), [("unet", "flow"), ("dit", "flow")])
    def test_after_an_error(self, train, program, run_of, tmp_path, monkeypatch, arch, objective):
        folder, step = tmp_path / "run", program.Run.one_step

        def failing(run, progress):
            if run.step == 9:
                raise MemoryError
            return step(run, progress)

        options = ("--arch", arch, "--objective", objective, "--steps", STEPS)
        with monkeypatch.context() as patch:
            patch.setattr(program.Run, "one_step", failing)
            stopped = train(folder, *options, "--save-every", "0")
        assert isinstance(stopped.exception, MemoryError)
        assert train(folder, *options).exception is None
        assert not differing(folder, run_of(arch, objective))

    def test_after_a_signal(self, train, program, run_of, tmp_path, monkeypatch):
        folder, step = tmp_path / "run", program.Run.one_step

        def signalling(run, progress):
            if run.step == 9:
                signal.raise_signal(signal.SIGTERM)
            return step(run, progress)

        options = ("--arch", "unet", "--objective", "ddpm", "--steps", STEPS)
        with monkeypatch.context() as patch:
            patch.setattr(program.Run, "one_step", signalling)
            stopped = train(folder, *options)
        assert stopped.exception is None
        assert "stopped at step 10; run again to continue" in stopped.output
        assert not (folder / "model").exists()
        assert train(folder, *options).exception is None
        assert not differing(folder, run_of("unet", "ddpm"))


class TestBatches:
    """Pictures that carry their own index: pixel values and label."""

    count = 20
    pixels = np.broadcast_to(np.arange(20, dtype=np.uint8)[:, None, None, None], (20, 3, 2, 2))
    labels = np.arange(20)

    @pytest.fixture
    def config(self, program, run_of):
        values = json.loads((run_of("unet", "ddpm") / "run.json").read_text("utf-8"))
        return program.RunConfig(**{**values, "batch": 8, "flip": False})

    @pytest.fixture
    def seen(self, program, config):
        """Indices of the pictures of a step."""

        def indices(step: int, rank: int = 0, ranks: int = 1, **changes) -> list[int]:
            changed = replace(config, **changes)
            x, labels = program.training_batch(self.pixels, self.labels, changed, step, rank, ranks)
            # every pixel carries the index too
            assert torch.equal(((x + 1) * 127.5).round().amax((1, 2, 3)).long(), labels)
            return labels.tolist()

        return indices

    def test_every_epoch_has_every_picture_once(self, seen):
        order = [index for step in range(10) for index in seen(step)]  # 80 pictures, 4 epochs
        epochs = [order[start : start + self.count] for start in range(0, 80, self.count)]
        assert all(sorted(epoch) == list(range(self.count)) for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) == 4

    def test_a_step_depends_on_the_seed_and_its_number_alone(self, seen):
        expected = [seen(step) for step in range(5)]
        np.random.default_rng().random()
        torch.rand(3)
        assert [seen(step) for step in (4, 2, 0)] == [expected[k] for k in (4, 2, 0)]
        assert seen(2, seed=1) != expected[2]

    @pytest.mark.parametrize("ranks", [2, 4])
    def test_all_ranks_together_see_what_one_sees(self, seen, ranks):
        for step in range(6):
            parts = [seen(step, rank, ranks) for rank in range(ranks)]
            assert {len(part) for part in parts} == {8 // ranks}
            assert sorted(itertools.chain(*parts)) == sorted(seen(step))

    def test_half_of_the_pictures_are_mirrored(self, program, config):
        pixels = np.zeros((self.count, 3, 2, 2), np.uint8)
        pixels[..., 1] = 255  # bright on the right
        steps = [
            program.training_batch(pixels, self.labels, replace(config, flip=True), step, 0, 1)[0]
            for step in range(50)
        ]
        mirrored = (torch.cat(steps)[:, 0, 0, 0] > 0).float().mean()
        assert abs(mirrored - 0.5) < 0.075  # three standard deviations of 400 coins
        assert torch.equal(
            steps[7],
            program.training_batch(pixels, self.labels, replace(config, flip=True), 7, 0, 1)[0],
        )
