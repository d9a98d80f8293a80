"""All that is known of an extraction before it runs."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from diffeat.backbones import Backbone, ModelRequest
from diffeat.backbones.devices import pick_device
from diffeat.errors import DeviceError, DiffeatError, ModelError, NumericsError, PictureError
from diffeat.extraction.conditions import Conditions, prompts_of
from diffeat.extraction.effort import effort_of, rate_key, run_size
from diffeat.extraction.memory import host_available, host_peak
from diffeat.extraction.plan import Plan
from diffeat.images import Source, native_size
from diffeat.images.loader import PREFETCH
from diffeat.loading import load_model
from diffeat.planning.costs import (
    bare_request,
    count_costs,
    count_memory,
    settled_request,
    weight_bytes,
)
from diffeat.planning.flops import Size, text_flops
from diffeat.planning.offline import offline
from diffeat.planning.rates import (
    gpu_rate,
    measure_rate,
    picture_flops,
    recall_costs,
    recall_rate,
    remember_costs,
    remember_rate,
)
from diffeat.planning.sizes import (
    data_bytes,
    file_bytes,
    ids_bytes,
    picture_columns,
    pooled_bytes,
)
from diffeat.planning.start import free_bytes
from diffeat.specs import ExtractSpec
from diffeat.store import SHARD_BYTES, FeatureStore, ShardFolder
from diffeat.work import feature_columns

HEADERS = 256
"""Most pictures whose headers are looked at where they keep their own size."""
SIZES = 5
"""Most of those sizes at which operations are counted."""
SHARE = 0.8
"""Of the memory that is free: a model that takes more is not loaded to be measured."""


@dataclass(frozen=True)
class Estimate:
    """What an extraction will take; every number is of all pictures unless it says otherwise.

    Attributes:
        model, pictures, spec: of what.
        count, left: pictures, and those that no unfinished part holds yet.
        size: (H, W) in pixels that they are run at; (smallest, largest) of a look at their headers
            where each keeps its own.
        effort: of `effort_of`: forwards, encodes and texts of one picture.
        costs: operations of one forward and one encode; of the mean size where sizes differ.
        flops: operations of what is left.
        text_flops: of these, of the text encoders; None where those are not here.
        batch: rows of a forward.
        seconds: None where nothing is known of a rate.
        rate: FLOP/s, and where that comes from: "remembered", "measured" or the name of a GPU.
        file_bytes, shard_bytes: of the finished file, and of the parts beside it until then.
        pooled_bytes: what the features would take as one vector each.
        free_bytes: of the disk.
        memory: bytes of a process by what takes them, and their peak.
        notes: what could not be found, and why.
    """

    model: str
    pictures: str
    spec: dict[str, Any]
    count: int
    left: int
    size: tuple[Any, ...]
    effort: dict[str, Any]
    costs: dict[str, int]
    flops: float
    text_flops: int | None
    batch: int
    processes: int
    compression: str
    seconds: float | None
    rate: dict[str, Any] | None
    file_bytes: int
    shard_bytes: int
    pooled_bytes: int
    free_bytes: int
    memory: dict[str, int]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        hidden = ("work", "rate", "timed")
        effort = {name: value for name, value in self.effort.items() if name not in hidden}
        return {**asdict(self), "effort": effort, "notes": list(self.notes)}


def estimate(
    request: ModelRequest,
    source: Source,
    spec: ExtractSpec,
    output: str | Path | None = None,
    *,
    batch_size: int | str | None = None,
    processes: int | None = None,
    compression: str = "none",
    overwrite: bool = False,
    gpu: str | None = None,
    fraction: float = 0.3,
    measure: bool | None = None,
) -> Estimate:
    """Say what `diffeat.extract_to_file` would take. Nothing is fetched, and nothing written but
    rates into the cache.

    Args:
        request, source, spec, batch_size, processes, compression, overwrite: as of
            `diffeat.extract_to_file`.
        output: the feature file, whose unfinished parts count as done; None is the working folder.
        gpu: of `GPUS`: time by its published peak, in place of this machine.
        fraction: of that peak.
        measure: run the model for two seconds to find its rate. None: only where no rate is
            remembered and the weights are here; False: never.

    Raises:
        DiffeatError: whatever the extraction would refuse, as far as it can be seen without it.
    """
    with offline():
        if gpu and request.dtype == "auto":
            request = replace(request, dtype="bfloat16")  # what it means on a GPU
        request = settled_request(request)
        bare = load_model(bare_request(request))
        bare.learned_t = request.learned_t
        program = host_peak()[0]
        plan, conditions = _planned(bare, source, spec)
        effort = effort_of(plan, conditions)
        effort["rate"] = rate_key(request, bare.parameters, run_size(plan))
        sizes = native_sizes(plan, source) if plan.size is None else [run_size(plan)]
        costs = _costs(plan, effort["work"], sizes)
        batch = _batch(plan, batch_size, sizes)
        notes: list[str] = []
        rate = _gpu(gpu, request.dtype, fraction) if gpu else _rate(
            request, plan, source, spec, effort, costs, batch, measure, notes
        )  # fmt: skip
    left = _left(output, source, overwrite, notes)
    text = text_flops(bare)
    if text is None and effort["texts"]:
        notes.append("the text encoder is not here, so its operations are not counted")
    flops = left * picture_flops(effort, costs) + effort["texts"] * (text or 0)
    columns = [*feature_columns(plan), *picture_columns(source, plan.spec.fit)]
    shared = _shared(request, processes) if rate and not gpu else processes or 1
    return Estimate(
        model=request.name, pictures=source.name, spec=plan.spec.to_dict(), count=len(source),
        left=left, size=sizes[0] if plan.size else (sizes[0], sizes[-1]), effort=effort,
        costs=costs, flops=flops, text_flops=text, batch=batch, processes=processes or 1,
        compression=compression, seconds=rate and flops / rate["rate"] / shared, rate=rate,
        file_bytes=file_bytes(columns, source),
        shard_bytes=data_bytes(columns, left) + ids_bytes(source),
        pooled_bytes=pooled_bytes(columns, len(source)),
        free_bytes=free_bytes(Path(output) if output else Path("features.h5")),
        memory=_memory(plan, sizes[-1], batch, program), notes=tuple(notes),
    )  # fmt: skip


def native_sizes(plan: Plan, source: Source) -> list[Size]:
    """(H, W) that pictures are run at where each keeps its own, ascending by area, from the
    headers of some of them."""
    count = HEADERS if hasattr(source, "paths") else HEADERS // 16
    found = []
    for row in np.unique(np.linspace(0, len(source) - 1, count).astype(int)):
        try:
            if hasattr(source, "paths"):
                with Image.open(source.paths[row]) as image:
                    size = image.size
            else:
                size = source.load(int(row)).size
        except (OSError, PictureError):
            continue  # which the extraction will say
        found.append(native_size(size, plan.backbone.step))
    if not found:
        raise PictureError(source.ids[0], "no picture's size could be read; repair them")
    return sorted(found, key=lambda size: size[0] * size[1])


def _planned(backbone: Backbone, source: Source, spec: ExtractSpec) -> tuple[Plan, Conditions]:
    conditions = _conditions(backbone, source, spec)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the extraction will say it
        return Plan(backbone, spec, conditions.text_length), conditions


def _conditions(backbone: Backbone, source: Source, spec: ExtractSpec) -> Conditions:
    return Conditions.of_spec(
        backbone, spec, len(source), prompts_of(spec, source), source.labels, source.class_names
    )


def _costs(plan: Plan, key: str, sizes: Sequence[Size]) -> dict[str, int]:
    """Operations, remembered where all pictures have one size; else the mean over their sizes."""
    if plan.size is not None:
        costs = recall_costs(key)
        if costs is None:
            costs = count_costs(plan, sizes[0])
            remember_costs(key, costs)
        return costs
    areas = [height * width for height, width in sizes]
    places = np.unique(np.linspace(0, len(sizes) - 1, SIZES).round().astype(int))
    some = {areas[place]: sizes[place] for place in places}
    counted = [count_costs(plan, size) for size in some.values()]
    return {
        name: int(np.mean(np.interp(areas, list(some), [each[name] for each in counted])))
        for name in counted[0]
    }


def _batch(plan: Plan, asked: int | str | None, sizes: Sequence[Size]) -> int:
    """Rows of a forward; what "auto" would find is not known, so it counts as the default."""
    if isinstance(asked, int):
        return min(asked, plan.row_limit)
    return plan.default_batch(None if plan.size else sizes[len(sizes) // 2])


def _gpu(name: str, dtype: str, fraction: float) -> dict[str, Any]:
    peak = gpu_rate(name, dtype, 1.0)
    return {"rate": gpu_rate(name, dtype, fraction), "from": name, "peak": peak,
            "fraction": fraction, "dtype": dtype}  # fmt: skip


def _rate(
    request: ModelRequest, plan: Plan, source: Source, spec: ExtractSpec, effort: dict,
    costs: dict, batch: int, measure: bool | None, notes: list[str],
) -> dict[str, Any] | None:  # fmt: skip
    """The rate that is remembered, or measured now; None where the weights are not here."""
    found = None if measure else recall_rate(effort["rate"])
    if found is not None:
        return {**found, "from": "remembered"}
    if measure is False or not effort["forwards"]:
        return None
    size, free = weight_bytes(plan.backbone)[0], host_available()
    if free is not None and size > SHARE * free:
        notes.append("no time: the weights do not fit into the memory that is free")
        return None
    try:
        backbone = load_model(request)
    except ModelError:  # which the extraction would say, if it cannot fetch them
        notes.append(f"no time: the weights of {request.name} are not on this machine")
        return None
    rows = min(batch, len(source) * max(1, len(plan.levels)))
    try:
        found = measure_rate(backbone, plan, _conditions(backbone, source, spec), costs, rows)
    except (DeviceError, NumericsError) as error:  # it may be different with the real pictures
        notes.append(f"no time: {error}")
        return None
    remember_rate(effort["rate"], {**found, "model": request.name})
    return {**found, "from": "measured"}


def _shared(request: ModelRequest, processes: int | None) -> int:
    """How many devices work at once; processes on one CPU share its threads."""
    device = pick_device(request.device)
    if device.type != "cuda" or not processes:
        return 1
    import torch

    return min(processes, torch.cuda.device_count()) if request.device in ("auto", "cuda") else 1


def _left(output: str | Path | None, source: Source, overwrite: bool, notes: list[str]) -> int:
    """Pictures that neither the file nor an unfinished part holds; whether those are of the same
    job, the extraction will see."""
    count = len(source)
    if output is None:
        return count
    if Path(output).exists() and not overwrite:
        return _new(Path(output), source, notes)
    folder = ShardFolder(output)
    if not folder.exists():
        return count
    manifest = folder.manifest()
    done = sum(stop - start for start, stop in folder.covered(manifest))
    if manifest.count != count:
        notes.append(f"{folder.path} holds parts of another job")
        return count
    notes.append(f"{done:,} pictures are done already, if {folder.path} is of the same job")
    return count - done


def _new(path: Path, source: Source, notes: list[str]) -> int:
    """Pictures that a finished file lacks, by their ids; all where it has them all."""
    try:
        with FeatureStore(path) as store:
            held = {*store.ids, *store.skipped}
    except DiffeatError as error:
        notes.append(f"the extraction will refuse it: {error}")
        return len(source)
    new = len(set(source.ids) - held)
    if gone := sorted(held - set(source.ids)):
        notes.append(f"the extraction will refuse {path}, which holds other pictures, such as "
                     f"{gone[0]}")  # fmt: skip
        return len(source)
    if not new:
        notes.append(f"{path} is there already; nothing runs if it is of the same job")
        return len(source)
    notes.append(f"{path} holds the other {len(source) - new:,} pictures, if it is of the same job")
    return new


def _memory(plan: Plan, size: Size, batch: int, program: int) -> dict[str, int]:
    """Bytes of a process, by what takes them; the peak is while it loads, or while it runs.

    On an accelerator weights and activations are there, the rest is on the host.
    """
    live = count_memory(plan, size)
    whole, largest = weight_bytes(plan.backbone)
    pictures = plan.pictures_per_call(batch)
    height, width = plan.size or size
    given = pictures * height * width * 3 * (PREFETCH + 4)  # decoded ahead, and once as fp32
    made = pictures * plan.bytes_per_picture
    found = {
        "program": program,
        "weights": whole,
        "forward": max(batch * live["row"], pictures * live["encode"]),
        "pictures": given,
        "features": 2 * made + 3 * min(SHARD_BYTES, 8 * made),
    }
    running = sum(found.values())
    return {**found, "peak": max(running, found["program"] + whole + largest)}
