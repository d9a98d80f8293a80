"""`diffeat compare`."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from diffeat.cli.ending import note, resumable, warn
from diffeat.cli.options import (
    allow_conditioned_option,
    batch_size_option,
    byte_count,
    duplicates_option,
    json_option,
    labels_options,
    limit_option,
    model_fields,
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
from diffeat.cli.spec_options import spec_options
from diffeat.cli.systems import (
    System,
    cache_name,
    parse_systems,
    request_of_system,
    spec_of_system,
)

SHARED = ("pool", "size", "fit", "dtype")
"""Fields of a spec that may be said for all models at once."""
MATCHING = "matching"
"""The task whose rows are pairs of pictures, and which learns nothing."""
OF_PAIRS = {"pairs": None, "alpha": None, "aggregate": None, "reference": None}
OF_PICTURES = {"pictures": None, "labels": None, "columns": None, "groups": None, "score": None,
               "penalties": None, "limit": None, "duplicates": "warn",
               "allow_conditioned": False}  # fmt: skip
"""Options of one kind of task, and what they are where nobody gave them."""
FLAGS = {"columns": "column", "penalties": "-C", "duplicates": "drop-duplicates"}


def shares_or_none(context: click.Context, parameter: click.Parameter, value: str | None):
    """Callback: "0.6,0.2,0.2" → three shares; None stays."""
    return None if value is None else split_shares(context, parameter, value)


@command()
@click.argument("systems", nargs=-1, required=True, metavar="A B …")
@option("--task", default="classification", show_default=True, help="What the features are judged "
        "for: classification, regression (numbers), multilabel (several labels per picture), "
        "matching (key points of pairs).")  # fmt: skip
@option("--pictures", help="Models: the pictures whose features are extracted.")
@option("--pairs", help="matching: a list of pairs (.csv), a folder or a named set, such as "
        "spair:test.")  # fmt: skip
@option("--alpha", type=click.FloatRange(0, min_open=True), help="matching: share of the "
        "reference that a point may be off (default 0.1).")  # fmt: skip
@option("--aggregate", help="matching: over what shares are averaged: point (default), pair, "
        "picture, class, class-weighted, class-pair.")  # fmt: skip
@option("--reference", help="matching: box (default where all targets have one), image, extent.")
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
@option("--split", callback=shares_or_none, help="Training, validation and test shares, by a hash "
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
    diffeat compare sd21 timm:NAME --task matching --pairs spair:test

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
    _check(found, values)
    values["targets"] = target_choice(values)
    with ExitStack() as stack, resumable(_left(values["out"])):
        prepared = _prepared(found, values)  # everything that can be refused, before any work
        stores = _opened(stack, prepared, values)
        judges, how = (_paired if values["pairs"] else _judges)(found, stores, values)
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

    if values["task"] != MATCHING:
        task_kind(values["task"])
    _check_options(values)
    names, models = [one.name for one in systems], [one for one in systems if not one.is_file]
    if len(systems) < 2:
        raise SpecError(f"{names[0]}: nothing to compare with; expected two systems or more, or "
                        "--twin (`diffeat search` judges one alone)")  # fmt: skip
    if values["against"] is not None and values["against"] not in names:
        raise SpecError(f"--against {values['against']!r}{nearest(values['against'], names)}; "
                        f"expected one of {', '.join(names)}")  # fmt: skip
    if models and not (values["pictures"] or values["pairs"]):
        raise click.UsageError(
            f"{models[0].what} is no feature file; a model needs --pictures FOLDER (or a list, a "
            "glob, a named data set)"
        )
    given = [name for name in ("pictures", "limit", *SHARED) if values[name] is not None]
    if given and not models:
        raise click.UsageError(f"--{', --'.join(given)}: for models; the features of "
                               f"{', '.join(names)} are made already")  # fmt: skip


def _check_options(values: dict) -> None:
    """UsageError for options of another task."""
    matching = values["task"] == MATCHING
    others = OF_PICTURES if matching else OF_PAIRS
    given = [name for name, unsaid in others.items() if values[name] not in (unsaid, ())]
    if given:
        flags = [FLAGS.get(name, name.replace("_", "-")) for name in given]
        flags = [flag if flag.startswith("-") else f"--{flag}" for flag in flags]
        raise click.UsageError(f"{', '.join(flags)}: not for --task {values['task']}")
    if matching and not values["pairs"]:
        raise click.UsageError("--task matching needs --pairs: a list of pairs (.csv), a folder or "
                               "a named set, such as spair:test")  # fmt: skip
    if matching:
        _counting(values)


def _counting(values: dict) -> Any:
    """How points are counted."""
    from diffeat.search.comparing.pairs import Counting

    given = {n: values[n] for n in ("alpha", "aggregate", "reference") if values[n] is not None}
    return Counting(**given)


def _prepared(systems: Sequence[System], values: dict) -> list[Any]:
    """Of each system its file, or what is extracted: (path, request, source, spec)."""
    from diffeat.conditioned import check_targets, conditioned
    from diffeat.errors import SpecError

    found: list[Any] = []
    source = _pictures(values, any(not one.is_file for one in systems))
    pool = "none" if values["pairs"] else "1x1"
    for system in systems:
        if system.is_file:
            found.append(Path(system.what))
            continue
        spec, said = spec_of_system(system, {name: values[name] for name in SHARED}, pool)
        if said:
            note(said)
        if not values["pairs"]:  # of which a prompt may name the category, as DIFT's does
            check_targets(system.name, conditioned(spec), values["allow_conditioned"])
        elif spec.pool != "none":
            raise SpecError(f"{system.name}: --pool {spec.pool} gives vectors, in which no place "
                            "can be found; leave it out for --task matching")  # fmt: skip
        request = request_of_system(system, model_fields(values))
        pictures = f"{values['pairs'] or values['pictures']}, {values['limit']}"
        found.append((cache_name(system, spec, request, pictures), request, source, spec))
    return found


def _pictures(values: dict, wanted: bool) -> Any:
    """The pictures whose features models give; the pairs are opened in any case."""
    from diffeat.targets.pairs import open_pairs

    if values["pairs"]:
        values["opened"] = open_pairs(values["pairs"])
        return values["opened"].pictures() if wanted else None
    if not wanted:
        return None
    return open_pictures(values["pictures"], not values["targets"].labels, limit=values["limit"])


def _opened(stack: ExitStack, prepared: Sequence[Any], values: dict) -> list[Any]:
    """The feature file of each system, those of models made now; files are opened first."""
    from diffeat.jobs import extract_to_file
    from diffeat.store import FeatureStore

    made = [one for one in prepared if not isinstance(one, Path)]
    stores: dict[int, Any] = {
        k: stack.enter_context(FeatureStore(one))
        for k, one in enumerate(prepared)
        if isinstance(one, Path)
    }
    folder = values["out"]
    if made and folder is None:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="diffeat-compare-")))
        note("the models' features go into a temporary folder; --out FOLDER keeps them")
    if values["pairs"]:
        for store in stores.values():
            _check_maps(store)
    run = {"batch_size": values["batch_size"], "workers": values["workers"]}
    for k, one in enumerate(prepared):
        if k in stores:
            continue
        name, request, source, spec = one
        extract_to_file(request, source, spec, folder / name, announce=True, **run)
        stores[k] = stack.enter_context(FeatureStore(folder / name))
    return [stores[k] for k in range(len(prepared))]


def _check_maps(store: Any) -> None:
    """SpecError for vectors, before models are run to be compared with them."""
    from diffeat.errors import SpecError

    if store.spec.pool != "none":
        raise SpecError(f"{store.path} holds vectors (--pool {store.spec.pool}), in which no place "
                        "can be found; extract with --pool none for --task matching")  # fmt: skip


def _judges(
    systems: Sequence[System], stores: Sequence[Any], values: dict
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A judge per system on the same pictures, and what else a comparison takes of them."""
    from diffeat.backbones.devices import pick_device
    from diffeat.search.comparing.shared import shared_tasks
    from diffeat.search.judges import JUDGES, Choices, task_kind

    names = ("seed", "allow_conditioned", "duplicates", "score", "penalties", "targets")
    device = "cpu" if values["device"] == "auto" else values["device"]
    own = {"split": values["split"]} if values["split"] else {}
    choices = Choices(**{name: values[name] for name in names}, **own,
                      device=str(pick_device(device)))  # fmt: skip
    kind = task_kind(values["task"]).takes
    cells = [_cells_of(one, store) for one, store in zip(systems, stores, strict=True)]
    tasks, common = shared_tasks(stores, [one.name for one in systems], kind, choices, cells)
    judges = {task.name: JUDGES[kind](task, choices) for task in tasks}
    notes = [f"left out: {count:,} pictures of {one.name} that not all have"
             for one, count in zip(systems, common.left_out, strict=True) if count]  # fmt: skip
    first = tasks[0]
    notes += [f"split class by class: {first.how}"] if first.how else []
    notes += [first.remarks.removeprefix(", ")] if first.remarks else []
    return judges, {"notes": notes}


def _paired(
    systems: Sequence[System], stores: Sequence[Any], values: dict
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same of pairs."""
    from diffeat.search.comparing.pairs import paired_systems

    split = {"fractions": values["split"]} if values["split"] else {}
    cells = [_cells_of(one, store) for one, store in zip(systems, stores, strict=True)]
    found = paired_systems(stores, [one.name for one in systems], values["opened"], cells,
                           _counting(values), seed=values["seed"], **split)  # fmt: skip
    return found.judges, {"notes": found.notes, "draws": found.draws, "floors": found.floors}


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
