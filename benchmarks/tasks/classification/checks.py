"""What is refused before anything is computed."""

from __future__ import annotations

import diffeat
from benchmarks.features import Pictures, square_side
from benchmarks.searching import check_split, fit_bytes, readable
from benchmarks.tasks.classification.file import ClassificationBenchmark
from benchmarks.tasks.classification.heads import check_system, head_of
from diffeat.conditioned import EMBEDDING_ROWS, check_targets, conditioned
from diffeat.errors import SpecError
from diffeat.extraction import Plan
from diffeat.extraction.learned_prompts import embedding_rows


def check(benchmark: ClassificationBenchmark) -> None:
    """SpecError for a file that cannot be meant; no picture and no model is looked at."""
    for system in benchmark.systems:
        check_system(system)
    if benchmark.probe_pool:
        square_side(benchmark.probe_pool)
    check_split(benchmark.split)
    for fields in (benchmark.extract, {**benchmark.extract, **benchmark.twin}):
        _check_conditions(benchmark, diffeat.ExtractSpec.from_dict(fields))


def _check_conditions(benchmark: ClassificationBenchmark, spec: diffeat.ExtractSpec) -> None:
    """SpecError for features that are told their targets."""
    rows = spec.embeddings and {EMBEDDING_ROWS: embedding_rows(spec.embeddings)}
    why = conditioned(spec, rows)
    check_targets(f"benchmark {benchmark.name}", why, benchmark.allow_conditioned)
    trained = [one.name for one in benchmark.systems if head_of(one).sees == "pictures"]
    if why and trained:
        raise SpecError(
            f"benchmark {benchmark.name}: {', '.join(trained)} are trained on pictures, which "
            f"are told nothing of their targets there ({why}); leave them out"
        )


def check_cells(benchmark: ClassificationBenchmark, plan: Plan) -> None:
    """SpecError, before an extraction, for cells of systems that it does not make."""
    blocks, steps = {block.name for block in plan.blocks}, {level.t for level in plan.levels}
    for system in benchmark.systems:
        for field, have in (("blocks", blocks), ("timesteps", steps)):
            wanted = system.cells.get(field, ()) if isinstance(system.cells, dict) else ()
            if lacking := [one for one in wanted if one not in have]:
                raise SpecError(
                    f"system {system.name!r}: {field} {', '.join(map(str, lacking))} are not "
                    f"extracted; expected among {', '.join(map(str, sorted(have)))}"
                )


def check_memory(
    benchmark: ClassificationBenchmark, plan: Plan, pictures: Pictures, memory: int
) -> None:
    """SpecError, before an extraction, for cells that no memory holds while they are fitted."""
    pool = benchmark.probe_pool or plan.spec.pool
    if pool == "none":
        return
    width = max(block.channels for block in plan.blocks) * square_side(pool) ** 2
    classes = len(pictures.sources[0].class_names)
    needed = fit_bytes(len(pictures), width, classes)
    if needed > memory:
        raise SpecError(
            f"{width:,} numbers for each of {len(pictures):,} pictures of {classes:,} "
            f"classes take {readable(needed)} while a cell is fitted; {readable(memory)} "
            "are allowed: allow more (--memory), or let the benchmark pool more or take fewer "
            "pictures"
        )
