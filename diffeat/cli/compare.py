"""`diffeat compare`."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from diffeat.cli.dense_options import dense_choice, dense_options, task_of
from diffeat.cli.ending import note, resumable, warn
from diffeat.cli.extracted import extracted, features_file, features_folder
from diffeat.cli.options import (
    allow_conditioned_option,
    batch_size_option,
    byte_count,
    duplicates_option,
    json_option,
    labels_options,
    limit_option,
    model_fields,
    on_error_option,
    open_pictures,
    option,
    positive_numbers,
    print_json,
    split_shares,
    target_choice,
    threads_option,
    workers_option,
)
from diffeat.cli.outputs import PICTURES, OutputPath, command
from diffeat.cli.search_pairs import check_pairs_options, pair_choice, pairs_options, sources_of
from diffeat.cli.spec_options import spec_options
from diffeat.cli.systems import (
    System,
    parse_systems,
    request_of_system,
    spec_of_system,
)

SHARED = ("pool", "size", "fit", "dtype")
"""Fields of a spec that may be said for all models at once."""


@command()
@click.argument("systems", nargs=-1, required=True, metavar="A B …")
@option("--task", help="What the features are judged for: classification (default), regression "
        "(numbers), multilabel (several labels per picture), matching (key points of pairs; "
        "default with --pairs), segmentation (with --masks), depth (with --depth).")  # fmt: skip
@option("--pictures", help="Models: the pictures whose features are extracted.")
@pairs_options
@dense_options
@labels_options
@option("--groups", metavar="COLUMN", help="Column that says what a picture belongs to (person, "
        "scene, clip, …): no split parts it, and intervals count it once.")  # fmt: skip
@option("--against", metavar="NAME", help="Reference of the differences (default: the first).")
@option("--twin", is_flag=True, help="Also each model with random weights: what training is worth.")
@option("--simultaneous", is_flag=True, help="Intervals of differences that hold for all rows "
        "together (max-type), in place of each by itself.")  # fmt: skip
@option("--score", type=click.Choice(("logistic", "ridge", "knn")), help="What judges a cell "
        "(default: logistic; regression and multilabel: ridge).")  # fmt: skip
@option("-C", "penalties", callback=positive_numbers, help="To choose from: C of logistic, alpha "
        "of ridge, k of knn.")  # fmt: skip
@option("--split", callback=split_shares, help="Training, validation and test shares, by a hash "
        "of the ids or groups (default 0.6,0.2,0.2; matching, which learns nothing, "
        "0,0.5,0.5).")  # fmt: skip
@option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the split "
        "and of the bootstrap.")  # fmt: skip
@option("--memory", default="2GiB", show_default=True, callback=byte_count,
        help="Bound for features in memory.")  # fmt: skip
@option("--out", type=OutputPath(folder=True), help="Folder that keeps the models' features and "
        "finished scores; a second run computes none of them again.")  # fmt: skip
@option("--csv", "csv_path", type=OutputPath((".csv",)), help="Write the table as CSV.")
@option("--png", "png_path", type=OutputPath(PICTURES, strict=True), help="Write a picture: scores "
        "and differences with their intervals.")  # fmt: skip
@spec_options(
    *SHARED, before="Models: ",
    pool={"help": "Models: 1x1 (default), 2x2, …; for matching they give maps."},
)  # fmt: skip
@limit_option("Models: only so many pictures, class-balanced.")
@batch_size_option("Models: ")
@workers_option("Models: ")
@on_error_option
@option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, …")
@option("--model-dtype", default="auto", show_default=True, help="Precision of the forward.")
@option("--allow-pickle", is_flag=True, help="Also load pickled weights, which can run code.")
@allow_conditioned_option
@duplicates_option
@json_option
@threads_option
def compare(systems, csv_path, png_path, as_json, **values) -> None:
    """Compare models or feature files on the same pictures: one table, and which is better.

    \b
    diffeat compare a.h5 b.h5                              features that are stored
    diffeat compare unet-cifar10 timm:NAME --pictures own  models, which are extracted first
    diffeat compare 'mine=sd21 -t 261 -b up.1' 'dino=timm:NAME -b blocks.11' --pictures own
    diffeat compare sd21 timm:NAME --pairs spair:test
    diffeat compare a.h5 b.h5 --masks camvid:train --test-masks camvid:val

    Each of A B … is a feature file, or a model with options of its own (those of `diffeat
    extract`), quoted as one argument; NAME= before it names it. Of a model that says no -t, -b,
    --recipe or --spec a small grid is looked at: sigma=0.1,0.3,0.75 and the stages of the decoder
    (of transformers four blocks). All are judged on the pictures that all have, with the same
    split; validation chooses the cell of each, test is touched once. Differences are paired: the
    same test pictures (or pairs), the same draws of whole groups.
    """
    from diffeat.progress import track
    from diffeat.search.comparing.run import compare as compared
    from diffeat.search.journal import Journal

    found = _with_twins(parse_systems(systems), values["twin"])
    by_options = "matching" if values["pair_list"] else "classification"
    values["task"] = task_of({**values, "task": values["task"] or by_options})
    _check(found, values)
    values["targets"] = target_choice(values)
    with ExitStack() as stack, resumable(_left(values["out"])):
        prepared = _prepared(found, values)  # everything that can be refused, before any work
        stores = _opened(stack, found, prepared, values)
        ways = {"pairs": _paired, "masks": _pixels, "depth": _pixels}
        judges, how = ways.get(values["takes"], _judges)(found, stores, values)
        how["notes"] = [*how["notes"], _inputs(judges, stores)]
        out = values["out"]
        result = compared(
            judges, values["against"], values["simultaneous"],
            Journal(out / "scores" if out else None), values["memory"], values["seed"],
            lambda name, items: track(items, desc=name, unit="cells"), **how,
        )  # fmt: skip
    if as_json:
        print_json(result.to_dict())
    else:
        click.echo("\n".join(result.lines()))
    if few := next(iter(judges.values())).few:
        warn(few)
    if csv_path:
        result.write_csv(csv_path)
    if png_path:
        _draw(result, png_path)


def _left(out: Path | None) -> str:
    if out is None:
        return "nothing is kept; with --out FOLDER what is finished is, and a second run goes on"
    return f"what is finished is kept in {out}; run the same command again"


def _with_twins(systems: list[System], twins: bool) -> list[System]:
    """The systems, each model with its twin behind it."""
    found: list[System] = []
    for system in systems:
        found.append(system)
        if twins and not system.is_file and not system.is_random:
            found.append(system.twin())
    if twins and len(found) == len(systems):
        raise click.UsageError("--twin: none of these is a model with weights of its own; expected "
                               "a model and --pictures, not its feature file")  # fmt: skip
    return found


def _check(systems: Sequence[System], values: dict) -> None:
    """UsageError or SpecError, before anything is loaded, for what does not go together."""
    from diffeat.errors import SpecError, nearest
    from diffeat.search.judges import task_kind

    _check_options(task_kind(values["task"]), values)
    names, models = [one.name for one in systems], [one for one in systems if not one.is_file]
    if len(systems) < 2:
        raise SpecError(f"{names[0]}: nothing to compare with; expected two systems or more, or "
                        "--twin (`diffeat search` judges one alone)")  # fmt: skip
    if values["against"] is not None and values["against"] not in names:
        raise SpecError(f"--against {values['against']!r}{nearest(values['against'], names)}; "
                        f"expected one of {', '.join(names)}")  # fmt: skip
    if models and not (values["pictures"] or values["pairing"] or values["dense"]):
        raise click.UsageError(
            f"{models[0].what} is no feature file; a model needs --pictures FOLDER (or a list, a "
            "glob, a named data set)"
        )
    given = [name for name in ("pictures", "limit", *SHARED) if values[name] is not None]
    if given and not models:
        raise click.UsageError(f"--{', --'.join(given)}: for models; the features of "
                               f"{', '.join(names)} are made already")  # fmt: skip


def _check_options(kind: Any, values: dict) -> None:
    """UsageError for options of another task; the choice of pairs or masks goes into `values`."""
    from diffeat.search.judges import PIXELS

    check_pairs_options(kind)
    values["pairing"] = values["dense"] = None
    values["takes"] = kind.takes
    if kind.takes in PIXELS:
        values["dense"] = dense_choice(values, kind.takes)
    if kind.takes != "pairs":
        return
    if values["pictures"]:
        raise click.UsageError("--pictures: matching takes those that its --pairs name")
    if not values["pair_list"]:
        raise click.UsageError("--task matching needs --pairs: a list of pairs (.csv), a folder or "
                               "a named set, such as spair:test")  # fmt: skip
    values["pairing"] = pair_choice(values)


def _prepared(systems: Sequence[System], values: dict) -> list[Any]:
    """Of each system its file, or what is extracted: a list of (file, request, source, spec).

    Models are built without weights, so that no block or t is refused after hours of work.
    """
    from diffeat.conditioned import check_targets, conditioned
    from diffeat.errors import SpecError
    from diffeat.extraction import Plan
    from diffeat.loading import load

    found: list[Any] = []
    sources = _pictures(values, [not one.is_file for one in systems])
    maps = values["pairing"] or values["dense"]
    pool = "none" if maps else "1x1"
    for system in systems:
        if system.is_file:
            found.append(Path(system.what))
            continue
        spec, said = spec_of_system(system, {name: values[name] for name in SHARED}, pool)
        if said:
            note(said)
        if not values["pairing"]:  # of which a prompt may name the category, as DIFT's does
            check_targets(system.name, conditioned(spec), values["allow_conditioned"])
        if maps and spec.pool != "none":
            raise SpecError(f"{system.name}: --pool {spec.pool} gives vectors, in which no place "
                            f"can be found; leave it out for --task {values['task']}")  # fmt: skip
        if spec.embeddings is None:  # whose length the plan would have to know
            Plan(load(system.what, "meta"), spec)
        request = request_of_system(system, model_fields(values))
        found.append([
            (features_file(system.name, spec, request, source), request, source, spec)
            for source in sources
        ])  # fmt: skip
    return found


def _pictures(values: dict, models: Sequence[bool]) -> list[Any]:
    """The pictures whose features models give, of pairs from every list; these are opened.

    Args:
        models: of each system, whether it is one.
    """
    from diffeat.search.judges import task_kind
    from diffeat.search.matching.task import parts_of
    from diffeat.search.targeted import targets_of

    if values["pairing"]:
        values["opened"] = values["pairing"].opened()
        parts_of(values["opened"], values["split"], values["seed"])  # before hours of work
        return sources_of(values["opened"]) if any(models) else []
    if values["dense"]:
        values["opened"] = None  # by the files, where there are no models
        if not any(models):
            return []
        named = [open_pictures(values["pictures"])] if values["pictures"] else []
        values["opened"] = values["dense"].opened(named)
        return named or sources_of(values["opened"])
    if not any(models):
        return []
    targets = values["targets"]
    source = open_pictures(values["pictures"], not targets.labels, limit=values["limit"])
    if all(models):  # else a file may have the targets
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what there is to say is said of the features
            targets_of([source], task_kind(values["task"]).takes, targets)
    return [source]


def _opened(
    stack: ExitStack, systems: Sequence[System], prepared: Sequence[Any], values: dict
) -> list[list[Any]]:
    """The feature files of each system, those of models made now; what is there comes first."""
    from diffeat.store import FeatureStore

    made = [one for one in prepared if not isinstance(one, Path)]
    stores: dict[int, list[Any]] = {
        k: [stack.enter_context(FeatureStore(one))]
        for k, one in enumerate(prepared)
        if isinstance(one, Path)
    }
    for k, [store] in stores.items():
        _check_file(systems[k], store, made[0] if made else (), values)
    folder = features_folder(stack, values["out"], "--out FOLDER") if made else None
    for k, one in enumerate(prepared):
        for name, request, source, spec in one if k not in stores else ():
            made_now = extracted(stack, request, source, spec, folder / name, values,
                                 kept=bool(values["out"]))  # fmt: skip
            stores.setdefault(k, []).append(made_now)
    return [stores[k] for k in range(len(prepared))]


def _check_file(system: System, store: Any, made: Sequence[Any], values: dict) -> None:
    """SpecError for a file that nothing can be compared with, before models are run for it.

    Args:
        made: what is extracted of a model; empty without one.
    """
    from diffeat.conditioned import check_targets, conditioned
    from diffeat.errors import SpecError
    from diffeat.search.stored import cells_of
    from diffeat.search.tasks import choose_cells
    from diffeat.targets.by_id import match_ids

    if (values["pairing"] or values["dense"]) and store.spec.pool != "none":
        raise SpecError(
            f"{store.path} holds vectors (--pool {store.spec.pool}), in which no place can be "
            f"found; extract with --pool none for --task {values['task']}"
        )
    choose_cells(str(store.path), cells_of(store), *_cells_of(system, store))
    if not values["pairing"]:
        check_targets(str(store.path), conditioned(store.spec, store.pictures),
                      values["allow_conditioned"])  # fmt: skip
    ids = list(dict.fromkeys(name for _, _, source, _ in made for name in source.ids))
    if made and (match_ids(store.ids, ids).rows < 0).all():
        raise SpecError(
            f"{store.path} has none of the pictures that models are given: {store.ids[0]!r} there, "
            f"{ids[0]!r} here; expected features of the same pictures"
        )


def _judges(
    systems: Sequence[System], stores: Sequence[list[Any]], values: dict
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A judge per system on the same pictures, and what else a comparison takes of them."""
    from diffeat.search.comparing.shared import shared_tasks
    from diffeat.search.judges import JUDGES, Choices, task_kind

    names = ("split", "seed", "allow_conditioned", "duplicates", "score", "penalties", "targets")
    choices = Choices(**{name: values[name] for name in names}, device=_device(values))
    kind = task_kind(values["task"]).takes
    files = [store for [store] in stores]
    tasks, common = shared_tasks(files, [one.name for one in systems], kind, choices,
                                 list(map(_cells_of, systems, files)))  # fmt: skip
    judges = {task.name: JUDGES[kind](task, choices) for task in tasks}
    notes = [f"left out: {count:,} pictures of {one.name} that not all have"
             for one, count in zip(systems, common.left_out, strict=True) if count]  # fmt: skip
    first = tasks[0]
    notes += [f"split class by class: {first.how}"] if first.how else []
    notes += [first.remarks.removeprefix(", ")] if first.remarks else []
    notes += [f"{one.name}: {one.corrupted}" for one in tasks if one.corrupted]
    return judges, {"notes": notes}


def _paired(
    systems: Sequence[System], stores: Sequence[list[Any]], values: dict
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same of pairs."""
    from diffeat.search.comparing.pairs import paired_systems

    names = [one.name for one in systems]
    cells = [_cells_of(one, files[0]) for one, files in zip(systems, stores, strict=True)]
    found = paired_systems(stores, names, values["pairing"], cells, values["split"],
                           values["seed"], values["memory"], _device(values),
                           values["opened"])  # fmt: skip
    return found.judges, {"notes": found.notes, "draws": found.draws, "floors": found.floors}


def _pixels(
    systems: Sequence[System], stores: Sequence[list[Any]], values: dict
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same of pictures whose pixels are known."""
    from diffeat.search.comparing.dense import dense_systems

    names = [one.name for one in systems]
    cells = [_cells_of(one, files[0]) for one, files in zip(systems, stores, strict=True)]
    found = dense_systems(
        stores, names, values["dense"], cells, values["split"], values["seed"],
        values["duplicates"], values["allow_conditioned"], values["opened"],
    )  # fmt: skip
    return found.judges, {"notes": list(found.notes)}


def _inputs(names: Iterable[str], stores: Sequence[list[Any]]) -> str:
    """How large the pictures were that each system saw, on which much depends."""
    sizes = (files[0].spec.size for files in stores)
    said = (f"{name} {'×'.join(map(str, size)) if size else 'each its own'}"
            for name, size in zip(names, sizes, strict=True))  # fmt: skip
    return f"inputs, height × width in pixels: {', '.join(said)}"


def _device(values: dict) -> str:
    """Where heads and matchers run: features of files lie on the CPU."""
    from diffeat.backbones.devices import pick_device

    return str(pick_device("cpu" if values["device"] == "auto" else values["device"]))


def _cells_of(system: System, store: Any) -> tuple[Any, Any]:
    """Blocks and t that a feature file is looked at; of what was extracted now all."""
    if not system.is_file:
        return None, None
    return system.values["blocks"] or None, store.native(system.values["timesteps"])


def _draw(result, path: Path) -> None:
    from diffeat.search.comparing.table import BETTER, WORSE
    from diffeat.viz.dots import Dot, dot_plot

    factor = result.measure.factor

    def shown(ends):
        return ends and tuple(factor * end for end in ends)

    dots = [
        Dot(
            row.name + (" !" if row.conditioned else ""), factor * row.test, shown(row.interval),
            None if row.difference is None else factor * row.difference, shown(row.ends),
            (row.verdict == BETTER) - (row.verdict == WORSE), row.cell is None,
        )
        for row in result.rows
    ]  # fmt: skip
    unit = f", {result.measure.unit}" if result.measure.unit else ""
    label = f"test {result.measure.name}{unit}{result.measure.direction}"
    dot_plot(dots, path, label, result.against, "; ".join([result.headline, *(
        f"! {row.name}: conditioned" for row in result.rows if row.conditioned)]))  # fmt: skip
