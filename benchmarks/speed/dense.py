"""(l) DDPM-Seg's ensemble: hypercolumns built in pieces against none, ten members at once."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.speed import dense_plain as plain
from benchmarks.speed.common import in_process, in_turn, ratios, rounded
from benchmarks.speed.dense_child import cells_of, fitted, maps_of, masks_of, write_file
from benchmarks.speed.settings import Settings
from probes import Maps
from probes.batches import Batch
from probes.dense import PixelMLPEnsemble, PixelPool
from probes.dense.column import Column
from probes.dense.ensemble_net import EnsembleNet, Folded, ensemble_objective
from probes.dense.truth import Masks
from probes.optimizers import make_optimizer

TARGETS = {"ratio": 10, "peak_mb": 200, "apart": 1e-5, "step": 2, "training": 4,
           "training_mb": 1024, "growth": 1.1}  # fmt: skip
BLOCKS = [[1024, 32, 32], [512, 32, 32], [512, 32, 32], [512, 64, 64], [256, 128, 128]]
SMALL = [[5, 4, 4], [3, 4, 4], [4, 8, 8]]
CPU = torch.device("cpu")


def measure(settings: Settings) -> dict[str, Any]:
    """Ratios in turn in this process; memory in processes of their own."""
    shapes = 3 * settings.by_length(BLOCKS, SMALL)  # of three t
    order = {
        "threads": torch.get_num_threads(), "seed": settings.seed, "shapes": shapes,
        "members": settings.by_length(10, 3), "hidden": settings.by_length([128, 32], [6, 4]),
        "classes": settings.by_length(15, 4), "size": settings.by_length([256, 256], [16, 24]),
    }  # fmt: skip
    widths = settings.by_length([512, sum(shape[0] for shape in shapes)], [12])
    return {
        "targets": TARGETS,
        **{name: order[name] for name in ("shapes", "members", "hidden", "classes", "size")},
        "prediction": _prediction(order, settings),
        "steps": [_steps(order, channels, settings) for channels in widths],
        "training": _training(order, settings),
        "memory": _memory(order, settings),
    }


def untrained(order: dict[str, Any], channels: int) -> EnsembleNet:
    """As it is before the first step."""
    torch.manual_seed(order["seed"])
    return EnsembleNet(order["members"], channels, order["hidden"], order["classes"]).train()


def network(order: dict[str, Any], channels: int) -> EnsembleNet:
    """Random weights, and norms and biases as if they had learned something."""
    net = untrained(order, channels)
    with torch.no_grad():
        for bias in net.biases:
            bias.normal_()
        for norm in net.norms:
            norm.scale.uniform_(0.5, 1.5)
            norm.shift.normal_()
            norm.running_mean.uniform_()
            norm.running_var.uniform_(0.5, 2)
    return net


def _prediction(order: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """Logits of every member at every pixel, both ways."""
    maps = Maps(maps_of(order["shapes"], order["seed"]), *[tuple(order["size"])] * 2)
    net = network(order, sum(shape[0] for shape in order["shapes"])).eval()
    members, seen = plain.members_of(net), torch.ones(order["classes"], dtype=torch.bool)
    head = fitted(net)
    head.cells_ = tuple(maps.values)
    found: dict[str, Any] = {}

    def theirs() -> None:
        found["built"] = plain.logits(maps, members)

    def ours() -> None:
        folded = Folded.of(net, seen)
        strips = Column(maps).linear(folded.first, folded.bias)
        with torch.no_grad():
            found["ours"] = torch.cat([folded.logits(strip) for _, strip in strips], 1)

    seconds = in_turn((theirs, ours), settings.by_length(3, 1), CPU)
    built, apart = found["built"], found["built"] - found["ours"]
    return {
        "built_seconds": rounded(seconds[0]),
        "seconds": rounded(seconds[1]),
        "ratio": ratios(*seconds),
        "apart": float(apart.abs().max() / built.abs().max()),
        "same_class": int((built.argmax(2) == found["ours"].argmax(2)).all(0).sum()),
        "pixels": built.shape[1],
        "alone": in_process("dense_child", {**order, "work": "predict"}, "prediction"),
    }


def batches_of(order: dict[str, Any], channels: int, steps: int) -> list[Batch]:
    """Random steps of 64 pixels for every member."""
    draw = torch.Generator().manual_seed(order["seed"])
    shape = 64, order["members"]
    found = []
    for _ in range(steps):
        x = torch.randn(*shape, channels, generator=draw)
        found.append(([x], torch.randint(order["classes"], shape, generator=draw)))
    return found


def step_together(net: EnsembleNet, batches: list[Batch], classes: int) -> EnsembleNet:
    """The steps of `probes.training`, all members at once."""
    objective = ensemble_objective(classes)
    optimizer = make_optimizer([{"params": list(net.parameters())}], "adam", 1e-3, 0.0, 0.9, True)
    for (x,), y in batches:
        loss = objective.loss(net(x), y, "mean")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return net


def _steps(order: dict[str, Any], channels: int, settings: Settings) -> dict[str, Any]:
    """The same steps with all members at once and one after the other."""
    count = settings.by_length(10, 3)
    batches = batches_of(order, channels, count)
    alone = [[([x[:, k].contiguous()], y[:, k]) for (x,), y in batches]
             for k in range(order["members"])]  # fmt: skip
    start = untrained(order, channels)
    found: dict[str, Any] = {}

    def apart() -> None:
        members = plain.members_of(start)
        found["apart"] = [plain.trained(*one) for one in zip(members, alone, strict=True)]

    def together() -> None:
        net = untrained(order, channels)
        found["together"] = step_together(net, batches, order["classes"])

    seconds = in_turn((apart, together), settings.by_length(5, 2), CPU)
    members = torch.stack([one[0].weight for one in found["apart"]]).detach()
    difference = (members - found["together"].weights[0].detach()).abs().max()
    return {
        "channels": channels,
        "steps": count,
        "apart_seconds": rounded(seconds[0]),
        "seconds": rounded(seconds[1]),
        "ratio": ratios(*seconds),
        "weights_apart": float(difference / members.abs().max()),
    }


def _training(order: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """From a file: all members at once, and one after the other, each reading it by itself."""
    import h5py

    shapes = settings.by_length([[256, 32, 32], [192, 64, 64], [64, 128, 128]], SMALL)
    count, steps, epochs = settings.by_length((40, 500, 5), (4, 6, 2))
    how = {"steps": steps, "epochs": epochs, "fewest": 1, "standardize": False,
           "hidden": tuple(order["hidden"])}  # fmt: skip
    masks = masks_of(count, order["size"], order["classes"])
    channels = sum(shape[0] for shape in shapes)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "maps.h5"
        write_file(path, count, shapes, order["seed"])
        with h5py.File(path) as file:
            cells = cells_of(file, order["size"])

            def apart() -> None:
                for member in range(order["members"]):
                    pool = PixelPool(
                        cells, Masks(masks, cells, order["classes"]), steps=steps // epochs,
                        memory=256 << 20,
                    )  # fmt: skip
                    rng = np.random.default_rng(member)
                    passes = (batch for _ in range(epochs) for batch in pool.shuffled(rng))
                    one = plain.classifier(channels, order["hidden"], order["classes"])
                    plain.trained(one, passes)

            def together() -> None:
                PixelMLPEnsemble(members=order["members"], random_state=0, progress=False,
                                 **how).fit(cells, masks, classes=order["classes"])  # fmt: skip

            seconds = in_turn((apart, together), settings.by_length(2, 1), CPU)
    return {
        "shapes": shapes, "pictures": count, "steps": steps, "passes": epochs,
        "apart_seconds": rounded(seconds[0]), "seconds": rounded(seconds[1]),
        "ratio": ratios(*seconds),
    }  # fmt: skip


def _memory(order: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """Peak memory of trainings from files of several lengths."""
    counts, steps, epochs = settings.by_length(((50, 200), 2000, 4), ((4, 8), 6, 2))
    head = {"steps": steps, "epochs": epochs, "members": order["members"], "fewest": 1,
            "hidden": tuple(order["hidden"])}  # fmt: skip
    runs, size = [], 0
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "maps.h5"
            write_file(path, count, order["shapes"], order["seed"])
            size = path.stat().st_size
            work = {**order, "work": "train", "head": head, "file": str(path)}
            runs.append({**in_process("dense_child", work, "training"), "file_mb": size >> 20})
    return {"passes": epochs, "runs": runs,
            "ratio": round(runs[-1]["peak_mb"] / runs[0]["peak_mb"], 4)}  # fmt: skip
