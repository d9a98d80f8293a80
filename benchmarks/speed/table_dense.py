"""Part (l) of speed.json as Markdown: an ensemble of MLPs on hypercolumns."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.speed.lines import Lines, listed, sides, spread, table


def summary(part: dict[str, Any]) -> list[tuple]:
    found, targets, memory = part["prediction"], part["targets"], part["memory"]
    counts = " and ".join(str(run["pictures"]) for run in memory["runs"])
    first, members = memory["runs"][0], part["members"]
    return [
        ("hypercolumn built in pieces ÷ never, time of a prediction", spread(found["ratio"]),
         f"≥ {targets['ratio']}"),
        ("peak MiB of a prediction above its maps", _above(found["alone"]),
         f"≤ {targets['peak_mb']}"),
        ("largest difference ÷ largest logit", f"{found['apart']:.1e}", f"≤ {targets['apart']}"),
        *((f"{members} members one after the other ÷ at once, a step of {run['channels']:,} "
           "channels", spread(run["ratio"]), f"≥ {targets['step']}" if k == 0 else "")
          for k, run in enumerate(part["steps"])),
        (f"{members} members one after the other ÷ at once, a training from a file",
         spread(part["training"]["ratio"]), f"≥ {targets['training']}"),
        (f"peak MiB of a training above imports, {first['steps']:,} steps", _above(first),
         f"≤ {targets['training_mb']:,}"),
        (f"largest ÷ smallest peak memory of a training, {counts} pictures",
         f"{memory['ratio']:.3f}", f"≤ {targets['growth']}"),
    ]  # fmt: skip


def _above(run: dict[str, Any]) -> str:
    return f"{run['peak_mb'] - run['loaded_mb']:,.0f}"


def details(part: dict[str, Any]) -> Lines:
    found, training, memory = part["prediction"], part["training"], part["memory"]
    shapes = [sides(shape) for shape in part["shapes"]]
    third = len(shapes) // 3
    rows = [("hypercolumn in pieces", _median(found["built_seconds"])),
            ("never built", _median(found["seconds"]))]  # fmt: skip
    steps = [(f"{run['channels']:,}", _each(run, "apart_seconds"), _each(run, "seconds"),
              f"{run['weights_apart']:.1e}") for run in part["steps"]]  # fmt: skip
    runs = [(run["pictures"], f"{run['file_mb']:,}", f"{run['steps']:,}", f"{run['seconds']:.1f}",
             run["loaded_mb"], run["peak_mb"]) for run in memory["runs"]]  # fmt: skip
    return [
        f"A picture of {sides(part['size'])}, maps of {listed(shapes[:third])} at three t, "
        f"{part['members']} members d → {' → '.join(map(str, part['hidden']))} → "
        f"{part['classes']}, random weights. At {found['same_class']:,} of {found['pixels']:,} "
        "pixels all members say the same class both ways. The built side makes the features of "
        "some rows of pixels and gives them to one member after the other.",
        "",
        *table(("", "s a picture (median)"), rows),
        "",
        "Steps of 64 pixels for every member, the same ones on both sides, from the same weights; "
        "one after the other by torch's own modules and Adam:",
        "",
        *table(("channels", "ms a step, one after the other", "ms a step, at once",
                "weights apart ÷ largest"), steps),
        "",
        f"A training of {training['steps']:,} steps from a file of {training['pictures']} "
        f"pictures with maps of {listed([sides(shape) for shape in training['shapes']])}, in "
        f"{training['passes']} passes: {_median(training['apart_seconds'])} s one after the "
        f"other, each reading the file, and {_median(training['seconds'])} s at once.",
        "",
        f"Trainings from files of float16 maps, {memory['passes']} passes, each in a process of "
        "its own:",
        "",
        *table(("pictures", "MiB of the file", "steps", "s", "MiB before", "peak MiB"), runs),
    ]  # fmt: skip


def _median(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.2f}"


def _each(run: dict[str, Any], key: str) -> str:
    return f"{1000 * statistics.median(run[key]) / run['steps']:.1f}"
