"""Parts (j) and (k) of speed.json as Markdown: points matched, labels carried."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.speed.lines import Lines, sides, spread, table


def matching_summary(part: dict[str, Any]) -> list[tuple]:
    against, rates, targets = part["against"], part["file"]["rates"], part["targets"]
    counts = " and ".join(f"{run['pairs']:,}" for run in part["file"]["growth"])
    return [
        ("features upsampled ÷ NearestMatcher, time of a point", f"{against['ratio']:,.0f}",
         f"≥ {targets['ratio']}"),
        ("features upsampled ÷ NearestMatcher, peak memory above that of the maps",
         f"{against['memory_ratio']:,.0f}", f"≥ {targets['memory']}"),
        ("largest difference of similarities", f"{against['apart']:.1e}", f"≤ {targets['apart']}"),
        *((f"points a second of a feature file, {words}", f"{rates[name]['points_per_s']:,.0f}",
           f"≥ {targets[name]:,}") for name, words in PLACES.items()),
        (f"largest ÷ smallest peak memory, {counts} pairs", f"{part['file']['memory_ratio']:.3f}",
         f"≤ {targets['growth']}"),
    ]  # fmt: skip


PLACES = {"site": "at sites", "picture": "at pixels"}


def matching(part: dict[str, Any]) -> Lines:
    against, file = part["against"], part["file"]
    runs = [("features upsampled", against["upsampled"]), ("NearestMatcher", against["ours"]),
            *((f"a file, {PLACES[name]}", run) for name, run in file["rates"].items()),
            *(("a file, at sites", run) for run in file["growth"])]  # fmt: skip
    rows = [
        (name, f"{run['pairs']:,}", f"{run['points']:,}", f"{run['seconds']:.2f}",
         f"{run['points_per_s']:,.1f}", run["loaded_mb"], run["peak_mb"])
        for name, run in runs
    ]  # fmt: skip
    return [
        f"Pictures of {sides(part['size'])}; maps of {sides(against['shape'])}, those of the "
        f"file, of {file['pictures']} pictures, {sides(file['shape'])}; float32. Every run in a "
        "process of its own; of maps in memory nothing is kept from pair to pair. "
        f"{against['same_pixel']} of {against['upsampled']['points']} points were found at the "
        "same pixel both ways.",
        "",
        *table(("", "pairs", "points", "s", "points/s", "MiB before", "peak MiB"), rows),
    ]


def propagation_summary(part: dict[str, Any]) -> list[tuple]:
    against, whole, targets = part["against"], part["whole"], part["targets"]
    counts = " and ".join(str(run["frames"]) for run in part["growth"]["runs"])
    return [
        ("dense affinity ÷ LabelPropagator, time of a frame", spread(against["ratio"]),
         f"≥ {targets['ratio']}"),
        ("largest difference of soft labels", f"{against['apart']:.1e}", f"≤ {targets['apart']}"),
        (f"peak MiB above what was loaded, {whole['frames']} frames of {sides(whole['shape'])}",
         f"{whole['peak_mb'] - whole['loaded_mb']:,.0f}", f"≤ {targets['peak_mb']:,}"),
        (f"largest ÷ smallest peak memory, {counts} frames",
         f"{part['growth']['memory_ratio']:.3f}", f"≤ {targets['growth']}"),
    ]  # fmt: skip


def propagation(part: dict[str, Any]) -> Lines:
    against = part["against"]
    runs = [part["whole"], *part["growth"]["runs"]]
    both = [
        (name, f"{statistics.median(against[key]):.3f}")
        for name, key in (("dense affinity", "dense_seconds"), ("LabelPropagator", "seconds"))
    ]
    rows = [(sides(run["shape"]), run["frames"], f"{run['seconds']:.1f}",
             f"{run['last_seconds']:.2f}", run["loaded_mb"], run["peak_mb"])
            for run in runs]  # fmt: skip
    return [
        f"One frame of {sides(against['shape'])} after a context of {against['context']}, both "
        f"sides in one process; {against['same_label']} of {against['sites']} sites got the same "
        "label. The dense side is as published: every site with every site of the context, then "
        "what is too far away set to 0. A whole context of 29 frames would take it "
        f"{29 * against['sites'] ** 2 * 4 / 2**30:,.1f} GiB for each copy of the affinity.",
        "",
        *table(("", "s a frame (median)"), both),
        "",
        "Clips, each in a process of its own, drawn frame by frame and propagated to masks of 8 "
        "pixels a site, with up to 29 frames in the context:",
        "",
        *table(("maps", "frames", "s", "s of the last frame", "MiB before", "peak MiB"), rows),
    ]
