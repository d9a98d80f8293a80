"""speed.json as Markdown; every figure comes from the file."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.speed import table_dense, table_maps
from benchmarks.speed.lines import Lines, listed, spread, table


def markdown(result: dict[str, Any]) -> str:
    """The summary and the tables of all parts that were measured."""
    parts = result["parts"]
    lines = [] if not result["quick"] else ["A quick run, to see that it works.", ""]
    lines += [*_machines(parts), "", *_summary(parts)]
    for letter, part in parts.items():
        left_out = [f"Left out: {part['left_out']}."] if "left_out" in part else None
        lines += ["", f"### ({letter}) {part['title']}", "", *(left_out or DETAILS[letter](part))]
    return "\n".join(lines)


def _machines(parts: dict[str, Any]) -> Lines:
    """One line per machine, with the parts that were measured on it."""
    found: dict[str, list[str]] = {}
    for letter, part in parts.items():
        machine = part["environment"]
        gpus = ", ".join(machine["gpus"]) or "no GPU"
        versions = ", ".join(
            f"{name} {machine['packages'][name]}" for name in ("torch", "diffusers", "h5py")
        )
        text = (
            f"{machine['processor']}, {machine['cores']} cores, {machine['torch_threads']} threads "
            f"of torch, {gpus}; Python {machine['python']}, {versions}"
        )
        found.setdefault(text, []).append(letter)
    lines = [f"({', '.join(letters)}) {text}.  " for text, letters in found.items()]
    return [
        *lines,
        "Both sides of a ratio run in turn; it is the median over the pairs (least … most), which "
        "the seconds below, medians of a side, need not give.",
    ]


def _summary(parts: dict[str, Any]) -> Lines:
    rows = [
        (f"({letter})", *row)
        for letter, part in parts.items()
        if "left_out" not in part
        for row in SUMMARIES.get(letter, lambda part: [])(part)
    ]
    return table(("part", "ratio", "found", "target"), rows)


def _a_summary(part: dict[str, Any]) -> list[tuple]:
    what = "extraction of JPEG files to HDF5 ÷ bare truncated forwards"
    return [(what, spread(part["ratio"], 3), f"≤ {part['target']}")]


def _b_summary(part: dict[str, Any]) -> list[tuple]:
    counted, measured = part["arithmetic"], part["measured"]
    rows = []
    for name, words in (("per_cell", "a run per cell"), ("per_t", "a run per t")):
        rows += [
            (f"{words} ÷ one run, {counted['model']} at {counted['size'][0]} pixels, arithmetic",
             f"{counted[name]:.2f}", f"≥ {part['targets'][name]}"),
            (f"{words} ÷ one run, {measured['model']} at {measured['size'][0]} pixels, measured",
             spread(measured[name]), f"arithmetic {measured['by_arithmetic'][name]:.2f}"),
        ]  # fmt: skip
    return rows


def _c_summary(part: dict[str, Any]) -> list[tuple]:
    counted, measured = part["arithmetic"], part["measured"]
    words = f"{part['members']} passes ÷ an ensemble of {part['members']}"
    return [
        (f"{words}, {counted['model']} at {counted['size'][0]} pixels, arithmetic",
         f"{counted['ratio']:.2f}", f"≥ {part['target']}"),
        (f"{words}, {measured['model']} at {measured['size'][0]} pixels, measured",
         spread(measured["ratio"]), f"arithmetic {measured['by_arithmetic']:.2f}"),
    ]  # fmt: skip


def _d_summary(part: dict[str, Any]) -> list[tuple]:
    return [
        *(
            (f"extraction of {name} to {where} ÷ with its results dropped",
             spread(part[name]["write"][ratio], 3), "")
            for name in ("vectors", "maps")
            for where, ratio in (("shards", "shards_ratio"), ("a file, merge included", "ratio"))
        ),
        ("slices of `store[b, t]` ÷ plain read(), rates, empty page cache",
         spread(part["maps"]["read"]["share"]), f"≥ {part['read_target']}"),
    ]  # fmt: skip


def _e_summary(part: dict[str, Any]) -> list[tuple]:
    pictures, blocks = part["pictures"], part["blocks"]["runs"]
    counts = [f"{run['pictures']:,}" for run in pictures["runs"]]
    return [
        (f"largest ÷ smallest peak memory, {', '.join(counts)} pictures",
         f"{pictures['memory_ratio']:.3f}", f"≤ {part['target']}"),
        *(
            (f"{run['blocks']} blocks ÷ {blocks[0]['blocks']} with the same last, time",
             spread(run["ratio"], 3), "")
            for run in blocks[1:]
        ),
    ]  # fmt: skip


def _f_summary(part: dict[str, Any]) -> list[tuple]:
    rows = []
    for model in part["models"]:
        done = [run for run in model["by_batch"] if "error" not in run]
        if done:
            best = max(done, key=lambda run: run["pictures_per_s"])
            what = f"{model['model']} at {model['size'][0]} pixels ÷ {part['base']} matrix peak"
            rows.append((what, f"{best['share_of_peak']:.3f}", ""))
    return rows


def _h_summary(part: dict[str, Any]) -> list[tuple]:
    rows = []
    for run in part["runs"]:
        what = _penalties(run["penalties"])
        rows += [
            (f"scikit-learn cell by cell ÷ {part['cells']} probes at once, {what}, time",
             f"{run['ratio']:.2f}", f"≥ {part['targets']['ratio']}"),
            (f"mean accuracy against scikit-learn, {what}, points",
             f"{run['points_apart']['mean']:+.2f}", f"± {part['targets']['points']}"),
        ]  # fmt: skip
    return rows


def _penalties(values: Sequence[float]) -> str:
    return f"C = {values[0]:g}" if len(values) == 1 else f"a path of {len(values)} C"


def _a(part: dict[str, Any]) -> Lines:
    spec, forwards = part["spec"], part["forwards"]
    rows = []
    for name, key in (("JPEG files → HDF5", "extraction"), ("bare forwards", "bare")):
        taken = statistics.median(part[f"{key}_seconds"])
        rows.append((name, f"{taken:.3f}", f"{forwards / taken:.1f}"))
    return [
        f"{part['model']}, {part['device']}: {part['pictures']} pictures, "
        f"t = {listed(spec['timesteps'])}, blocks {listed(spec['blocks'])}, "
        f"{len(part['bare_seconds'])} pairs in turn.",
        "",
        *table(("", "s (median)", "forwards/s"), rows),
    ]


def _b(part: dict[str, Any]) -> Lines:
    counted, measured = part["arithmetic"], part["measured"]
    gflops = counted["gflops"]
    rows = [
        (words, f"{counted['teraflops'][key]:,.0f}",
         f"{statistics.median(measured[f'{key}_seconds']):.2f}")
        for words, key in (("one run", "together"), ("a run per t", "per_t"),
                           ("a run per cell", "per_cell"))
    ]  # fmt: skip
    return [
        f"Counted: {counted['model']}, {counted['levels']} t × {counted['blocks']} blocks, "
        f"{counted['pictures']:,} pictures; VAE encoder {gflops['encoder']:,.0f} GFLOP, forwards "
        f"{min(gflops['denoiser'].values()):,.0f} to {max(gflops['denoiser'].values()):,.0f} GFLOP "
        f"up to their block, text {gflops['text']:,.0f} GFLOP per run. Measured: "
        f"{measured['model']}, {len(measured['timesteps'])} t × {len(measured['blocks'])} blocks, "
        f"{measured['pictures']} pictures, {measured['batch']} rows a forward, "
        f"{measured['device']}. Loading the model, anew in each of many runs, is left out.",
        "",
        *table(("", "TFLOP, counted", "s, measured"), rows),
    ]


def _c(part: dict[str, Any]) -> Lines:
    gflops, measured = part["arithmetic"]["gflops"], part["measured"]
    taken = {key: statistics.median(measured[f"{key}_seconds"]) for key in ("together", "apart")}
    rows = [
        (f"ensemble of {part['members']}", f"{taken['together']:.2f}"),
        (f"{part['members']} passes", f"{taken['apart']:.2f}"),
    ]
    return [
        f"{part['block']} at t = {part['timestep']}. Counted: VAE encoder "
        f"{gflops['encoder']:,.0f} GFLOP, forward {gflops['denoiser']:,.0f} GFLOP. Measured: "
        f"{measured['model']}, {measured['pictures']} pictures, {measured['device']}.",
        "",
        *table(("", "s, measured"), rows),
    ]


def _d(part: dict[str, Any]) -> Lines:
    read, rows = part["maps"]["read"], []
    for words, key in (("plain read() of the file", "plain"), ("slices of 4 MiB", "slices")):
        rows.append((words, f"{read['cold_mb_per_s'][key]:,.0f}",
                     f"{read['cached_mb_per_s'][key]:,.0f}"))  # fmt: skip
    written = [
        (name, part[name]["pictures"], f"{part[name]['write']['megabytes']:.1f}",
         *(f"{statistics.median(part[name]['write'][f'{side}_seconds']):.2f}"
           for side in ("to_file", "to_shards", "dropped")),
         f"{part[name]['rows']['one_by_one_rows_per_s']:,.0f}",
         f"{part[name]['rows']['shuffled_loader_rows_per_s']:,.0f}")
        for name in ("vectors", "maps")
    ]  # fmt: skip
    return [
        f"{part['model']}, {part['device']}, t = {listed(part['timesteps'])}, "
        f"{len(part['blocks'])} blocks. Shards are written while the model computes; the file's "
        "side has their merge too, which nothing hides. "
        f"Of the file {100 * read['left_in_cache']:.1f} % stay in the cache when that is emptied.",
        "",
        *table(("", "pictures", "MB", "s to a file", "s to shards", "s dropped", "random rows/s",
                 "rows/s, shuffled loader"), written),
        "",
        *table((f"reading {read['file_megabytes']:.0f} MB of maps", "MB/s, empty page cache",
                 "MB/s, cached"), rows),
    ]  # fmt: skip


def _e(part: dict[str, Any]) -> Lines:
    pictures, blocks = part["pictures"], part["blocks"]
    return [
        f"{part['model']}, t = {part['timestep']}; pictures: block {pictures['block']}, each in a "
        f"process of its own; blocks: {blocks['pictures']} pictures, the last is {blocks['last']}.",
        "",
        *table(("pictures", "s", "pictures/s", "peak MiB", "of it, model loaded"),
                [(f"{run['pictures']:,}", f"{run['seconds']:.2f}", f"{run['pictures_per_s']:.1f}",
                  run["peak_mb"], run["loaded_mb"]) for run in pictures["runs"]]),
        "",
        *table(("blocks", "s (median)", f"÷ {blocks['runs'][0]['blocks']} block"),
                [(run["blocks"], f"{run['median_seconds']:.3f}", spread(run["ratio"], 3))
                 for run in blocks["runs"]]),
    ]  # fmt: skip


def _f(part: dict[str, Any]) -> Lines:
    base = part["base"]
    peaks = ", ".join(f"{name} {peak:,.1f}" for name, peak in part["matrix_teraflops"].items())
    lines = [f"{part['device_name']}; TFLOP/s of large matrix products: {peaks}."]
    for model in part["models"]:
        gflops = model["gflops_per_picture"]
        lines += [
            "",
            f"{model['model']}, {model['block']} at t = {model['t']}, {model['size'][0]} × "
            f"{model['size'][1]} pixels: {gflops['encoder']:,.1f} GFLOP for the VAE encoder and "
            f"{gflops['denoiser']:,.1f} for the forward of one picture.",
            "",
            *table(("", "batch", "pictures/s", f"÷ best {base}", "TFLOP/s", f"of the {base} peak",
                     "GiB", "first batches, s"), [
                         *(_run(base, run) for run in model["by_batch"]),
                         *(_run(name, run) for name, run in model["variants"].items()
                           if run is not None and name != base),
                     ]),
        ]  # fmt: skip
    return lines


def _g(part: dict[str, Any]) -> Lines:
    rates, kinds = part["rates"], part["bytes_per_picture"]
    tasks = rates["ray_tasks_per_second"]
    rows = [
        (f"{run['accelerators']:,.0f}", *(_plainly(run[name]) for name in (
            "pictures_per_second", "compute_seconds", "decoding_cores", "pixels_mb_per_second",
            "vectors_mb_per_second", "maps_mb_per_second", "tasks_per_second")))
        for run in part["accelerators"]
    ]  # fmt: skip
    first = part["accelerators"][0]
    return [
        f"{part['model']} at {part['size'][0]} pixels, {part['block']} at t = {part['timestep']}: "
        f"{part['gflops_per_picture']:,.0f} GFLOP per picture, counted. Assumed: an accelerator "
        f"sustains {part['assumed_tflops']:g} TFLOP/s. Measured here: {rates['decode_ms']:.1f} ms "
        f"of one core to decode and resize a photograph, {rates['shard_mb_per_second']:,.0f} MB/s "
        f"into synced shards, {rates['merge_mb_per_second']:,.0f} MB/s from shards into the file"
        + ("" if tasks is None else f", {tasks:,.0f} tasks per second by Ray's driver") + ".",
        "",
        *table(("accelerators", "pictures/s", f"s for {part['pictures']:,}", "decoding cores",
                 "pixels MB/s", "vectors MB/s", "maps MB/s", "Ray tasks/s"), rows),
        "",
        f"One picture: {kinds['pixels'] / 1e3:,.0f} kB of pixels, {kinds['vector'] / 1e3:,.1f} kB "
        f"pooled, {kinds['map'] / 1e6:,.1f} MB as a map. Merging {part['pictures']:,} pictures "
        f"takes {_plainly(first['merge_vectors_seconds'])} s for vectors, "
        f"{_plainly(first['merge_maps_seconds'])} s for maps, on any number of accelerators.",
    ]  # fmt: skip


def _plainly(value: float) -> str:
    """Three digits that mean something."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _run(name: str, run: dict[str, Any]) -> tuple:
    if "error" in run:
        return (name, run["batch"], run["error"].replace("|", "/").replace("\n", " "), *[""] * 5)
    memory = run["device_peak_gb"]
    return (
        name, run["batch"], f"{run['pictures_per_s']:,.2f}", f"{run['gain']:.2f}",
        f"{run['teraflops']:,.2f}", f"{100 * run['share_of_peak']:.1f} %",
        "" if memory is None else f"{memory:.1f}", f"{run['first_seconds']:.1f}",
    )  # fmt: skip


def _h(part: dict[str, Any]) -> Lines:
    threads = " and ".join(str(n) for n in sorted({r["sklearn_threads"] for r in part["runs"]}))
    rows = [
        (_penalties(run["penalties"]), f"{run['seconds']:.1f}", f"{run['sklearn_seconds']:.1f}",
         f"{100 * run['accuracy']:.2f}", f"{100 * run['sklearn_accuracy']:.2f}",
         f"{run['points_apart']['largest']:.2f}")
        for run in part["runs"]
    ]  # fmt: skip
    return [
        f"{part['model']}, {part['cells']} cells of {listed(part['widths'])} features, "
        f"{part['training']:,} training and {part['validation']:,} validation pictures. "
        "On the path each cell's C is chosen on validation; ours stops where validation falls "
        f"by a standard error. scikit-learn had {threads} of {part['environment']['cores']} "
        "threads, with which it was fastest.",
        "",
        *table(("", "s, all at once", "s, scikit-learn", "accuracy %", "of scikit-learn %",
                 "largest difference of a cell, points"), rows),
    ]  # fmt: skip


CONDITIONS = {"idle": "no neighbour", "busy": "a neighbour on every CPU"}
OTHERS = {"best": "best number", "before": "as many as CPUs that spin"}


def _i_summary(part: dict[str, Any]) -> list[tuple]:
    rows = []
    for condition, tasks in part["conditions"].items():
        for task, found in tasks.items():
            for name, words in OTHERS.items():
                if f"ratio_{name}" in found:
                    what = f"{task}, {CONDITIONS[condition]}: default threads ÷ {words}, time"
                    ratio = spread(found[f"ratio_{name}"])
                    rows.append((what, ratio, f"≤ {part['targets'][name]}"))
    return rows


def _i(part: dict[str, Any]) -> Lines:
    rows = []
    for condition, tasks in part["conditions"].items():
        for task, found in tasks.items():
            for name, times in found["times"].items():
                wall, cpu = (statistics.median(times[key]) for key in ("seconds", "cpu_seconds"))
                who = f"{name} (best)" if name == found["best"] else name
                rows.append((CONDITIONS[condition], task, who, f"{wall:.3f}", f"{cpu:.3f}"))
    return [
        f"{part['cpus']} CPUs; medians of {part['rounds']} rounds in turn, each number of threads "
        "in a process of its own. `spinning` has a thread per CPU, of which those that wait spin, "
        "as the libraries do by themselves; it has no turn beside the neighbour.",
        "",
        *table(("", "work", "threads", "s", "CPU s"), rows),
    ]


SUMMARIES = {"a": _a_summary, "b": _b_summary, "c": _c_summary, "d": _d_summary, "e": _e_summary,
             "f": _f_summary, "h": _h_summary, "i": _i_summary, "j": table_maps.matching_summary,
             "k": table_maps.propagation_summary, "l": table_dense.summary}  # fmt: skip
DETAILS = {"a": _a, "b": _b, "c": _c, "d": _d, "e": _e, "f": _f, "g": _g, "h": _h, "i": _i,
           "j": table_maps.matching, "k": table_maps.propagation,
           "l": table_dense.details}  # fmt: skip
