"""`diffeat search`."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import click

from diffeat.cli.dense_options import dense_choice, dense_options, maps_of_targets, task_of
from diffeat.cli.ending import note, resumable, warn
from diffeat.cli.options import (
    allow_conditioned_option,
    batch_size_option,
    byte_count,
    comma_list,
    duplicates_option,
    json_option,
    limit_option,
    model_fields,
    model_options,
    open_pictures,
    option,
    positive_numbers,
    print_json,
    save_option,
    speed_options,
    split_shares,
    target_choice,
    targets_options,
    task_option,
    threads_option,
    workers_option,
)
from diffeat.cli.outputs import PICTURES, OutputPath, command
from diffeat.cli.search_guess import check_guess, live_guesses, print_guess, stored_guesses
from diffeat.cli.search_pairs import (
    check_pairs_options,
    maps_of_model,
    missing_option,
    pair_choice,
    pairs_options,
)
from diffeat.cli.search_policy import (
    check_policy_options,
    policy_options,
    with_seen,
    write_policy,
)
from diffeat.cli.spec_options import check_recipe_option, spec_of, spec_options
from diffeat.cli.surface_shown import html_option, write_surface_html
from diffeat.errors import SpecError

LIVE = ("test", "recipe", "pool", "ensemble", "noise", "noise_seed", "steps", "prompt", "captions",
        "label", "label_map", "latent", "size", "fit", "mirror", "dtype", "limit",
        "batch_size")  # fmt: skip
"""Options for a search straight from a model alone."""
NOT_KEPT = "nothing is kept; with --out FOLDER finished cells are, and a second run goes on"
FEATURES = (".h5", ".hdf5")
"""What names of feature files end in."""
UNITS = {"sets": "sizes", "pairs": "pairs", "halving": "rounds", "bandit": "pulls",
         "mixer": "steps", "policy": "t"}  # fmt: skip
"""What a strategy goes through, other than cells."""


@command()
@click.argument("what", metavar="FILE|MODEL")
@click.argument("second", metavar="[TEST_FILE|PICTURES|PAIRS]", required=False)
@option("-t", "--timesteps", callback=comma_list, help="Noise levels (of a file: only "
              "these).")  # fmt: skip
@option("-b", "--blocks", callback=comma_list, help="Blocks (of a file: only these).")
@task_option
@targets_options
@pairs_options
@dense_options
@missing_option
@option("--test", help="MODEL: test pictures; without, PICTURES are split in three.")
@option("--score", type=click.Choice(("logistic", "ridge", "knn")), help="What judges a cell "
              "(default: logistic; regression and multilabel: ridge).")  # fmt: skip
@option("-C", "penalties", callback=positive_numbers, help="To"
              " choose from: C of logistic, alpha of ridge, k of knn.")  # fmt: skip
@option("--split", callback=split_shares, help="Training, validation and test shares, by a hash "
              "of the ids (default: 0.6,0.2,0.2; matching, where a mixer alone is "
              "trained: 0,0.5,0.5).")  # fmt: skip
@option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Seed of splits and subsets.",
)
@option("--repeats", type=click.IntRange(2), help="Random training and validation splits; "
              "means with 95 % intervals.")  # fmt: skip
@option("--sets", type=click.IntRange(2), help="Also sets of up to so many cells, greedily.")
@option("--cell-pairs", "pairs", is_flag=True, help="Also all pairs of cells.")
@option("--halving", is_flag=True, help="Successive halving over pictures in place of the "
              "whole grid.")  # fmt: skip
@option("--frequency", is_flag=True, help="Also the high-frequency ratio, a guess without "
              "labels; alone where there are none (of a file: maps).")  # fmt: skip
@option("--cutoff", type=float, default=0.5, show_default=True, help="--frequency: its cut-off "
              "radius in Nyquist frequencies (not A-SelecT's verified value).")  # fmt: skip
@option("--free", is_flag=True, help="Also label-free numbers of every cell: high frequencies, "
        "LDS, effective rank, massive channels, from a model also the agreement of two noisings; "
        "alone where there are no labels.")  # fmt: skip
@option("--bandit", type=click.IntRange(1), help="Also an agent over t, with so many pulls.")
@option("--agent", type=click.Choice(("ucb1", "thompson")), default="ucb1",
              show_default=True, help="--bandit: which agent.")  # fmt: skip
@option("--selectors", is_flag=True, help="Grid search, a trained mixer of all cells and an agent "
              "side by side: validation, test, cost.")  # fmt: skip
@option("--mixer", is_flag=True, help="Also the trained mixer alone; of matching on the pairs of a "
              "training part (--split 0.6,0.2,0.2), which --save then keeps.")  # fmt: skip
@policy_options
@option("--memory", default="2GiB", show_default=True, callback=byte_count,
              help="Bound for features in memory.")  # fmt: skip
@option("--out", type=OutputPath(folder=True), help="Folder that keeps "
              "finished cells; a second run computes none of them again.")  # fmt: skip
@option("--csv", "csv_path", type=OutputPath((".csv",)), help="Write the cells as CSV.")
@option("--png", "png_path", type=OutputPath(PICTURES, strict=True), help="Write a heat map.")
@html_option
@option("--spec", "spec_path", type=OutputPath((".toml",)),
              help="Write the best cells as a TOML file for `diffeat extract --spec`.")  # fmt: skip
@save_option
@option("--recipe", help="MODEL: fields of a published system.")
@spec_options(
    "pool", "ensemble", "noise", "seed", "steps", "prompt", "captions", "label", "label_map",
    "latent", "size", "fit", "mirror", "dtype", before="MODEL: ",
    pool={"help": "MODEL: 1x1 (default), 2x2, …"}, seed={"flag": "--noise-seed"},
    dtype={"help": "MODEL: precision of kept features: float16 (default) or float32."},
)  # fmt: skip
@limit_option("MODEL: only so many pictures, class-balanced.")
@batch_size_option("MODEL: ")
@workers_option("MODEL: ")
@allow_conditioned_option
@model_options
@speed_options
@duplicates_option
@json_option
@threads_option
def search(what, second, csv_path, png_path, html_path, spec_path, as_json, **values) -> None:
    """Find the best (block, t) of a labelled task, and say what it is worth. Of pictures without
    labels: --frequency, --free, guesses.

    \b
    diffeat search FEATURES.h5 [TEST.h5]              features that are stored
    diffeat search MODEL PICTURES -t 20,60 -b decoder  straight from the model
    diffeat search FILE|MODEL PAIRS --task matching    where points of a picture lie in another
    diffeat search FILE|MODEL --masks camvid:train     what each pixel shows (--depth: how far)

    The second stores no features: pooled vectors are kept in memory, all t's together or, where
    they do not fit in half of --memory, in groups one after the other (the VAE and the text
    encoder then run once per picture and group). Every choice is made on validation; the chosen
    cells are refitted on training and validation and scored on test once.
    """
    from diffeat.progress import track
    from diffeat.search.beside import beside, beside_lines
    from diffeat.search.finding import cell_text
    from diffeat.search.judges import task_kind
    from diffeat.search.label_free import FreeOptions
    from diffeat.search.run import SearchOptions, run_search

    values["task"] = task_of({**values, "second": second})
    kind = task_kind(values["task"])
    check_pairs_options(kind)
    check_policy_options(values)
    values["targets"] = target_choice(values)
    if values["score"] == "knn" and any(k % 1 for k in values["penalties"] or ()):
        raise click.UsageError("-C of knn: expected whole numbers such as 5,10")
    if (png_path or html_path) and values["halving"]:
        name = "--png" if png_path else "--html"
        raise click.UsageError(f"{name} shows the whole grid, which --halving does not fit")
    from_file = Path(what).suffix in FEATURES or Path(what).is_file()
    stored = from_file or kind.maps  # else the maps come from a forward of their own
    asked = {name: values[name] or 0 for name in ("repeats", "sets", "bandit")}
    options = SearchOptions(
        **asked,
        memory=values["memory"] if from_file else values["memory"] // 2,
        frequency=values["cutoff"] if values["frequency"] and stored else None,
        free=FreeOptions(values["cutoff"]) if values["free"] and stored else None,
        **{
            name: values[name]
            for name in ("pairs", "halving", "agent", "selectors", "mixer", "policy", "seed", "out")
        },
    )
    left = f"finished cells are kept in {options.out}; run the same command again"
    with ExitStack() as stack, resumable(left if options.out else NOT_KEPT):
        parts = _from_file if from_file else _from_model
        judge, spec, ready = parts(stack, what, second, values, kind)
        if judge is None:  # without labels the guess is all there is
            return print_guess(ready[-1], what, spec, as_json, spec_path)
        if values["save_path"]:
            _check_kept(judge, kind, values)
        options = with_seen(options, judge, [what, second], values)
        report = run_search(
            judge,
            options,
            ready,
            lambda name, items: track(items, desc=name, unit=UNITS.get(name, "cells")),
        )
        if values["save_path"]:
            _keep(judge, kind, report, options, values["save_path"])
        more = beside(judge, report.choice)
        if html_path:
            lines = [judge.headline, *report.lines(), *beside_lines(judge, more)]
            write_surface_html(html_path, judge, [*report.findings.values()], lines,
                               what if from_file else second, as_json)  # fmt: skip
    if as_json:
        print_json({**report.to_dict(), **more})
    else:
        _print(report, judge, options)
        click.echo("\n".join(beside_lines(judge, more)))
    if values["save_path"]:
        cells = judge.cells if kind.takes == "pairs" else report.best_cells
        chosen = ("mixer of " if kind.takes == "pairs" else "") + ", ".join(map(cell_text, cells))
        click.echo(f"{values['save_path']}: {chosen}, fitted on both", err=as_json)
    if judge.few:
        warn(judge.few)
    _write(report, spec, judge, csv_path, png_path, spec_path)
    write_policy(report, judge, values["policy_png"])


def _check_kept(judge, kind, values: dict) -> None:
    """An error, before anything is judged, where there will be nothing to keep."""
    if kind.takes != "pairs":
        judge.check_head()
    elif judge.not_trained:
        raise click.UsageError(f"--save: no mixer is trained, since {judge.not_trained}")


def _keep(judge, kind, report, options, path: Path) -> None:
    """The head of what was chosen, or of pairs the mixer."""
    from diffeat.search.kept import keep_head, keep_mixer

    if kind.takes == "pairs":
        keep_mixer(judge, report.findings["mixer"], path, options.memory, options.seed)
    else:
        keep_head(judge, report.choice, path)


def _choices(values: dict, device: str, timesteps=None):
    """What a task is asked with."""
    from diffeat.backbones.devices import pick_device
    from diffeat.search.judges import Choices

    names = ("split", "seed", "allow_conditioned", "duplicates", "score", "penalties", "targets",
             "memory")  # fmt: skip
    return Choices(
        **{name: values[name] for name in names}, blocks=values["blocks"] or None,
        timesteps=timesteps or None, device=str(pick_device(device)), pairs=values.get("pairing"),
        dense=values.get("dense"),
    )  # fmt: skip


def _guesses(values: dict) -> bool:
    """Whether a guess is all that is asked for of pictures without labels."""
    return (values["frequency"] or values["free"]) and not _asks_labels(values)


def _asks_labels(values: dict) -> bool:
    """Whether labels are given that the pictures do not have by themselves."""
    return bool(values["targets"].labels or values["targets"].columns)


def _print(report, judge, options) -> None:
    """What was found, for people."""
    click.echo(judge.headline)
    if options.out:
        found, computed = report.made
        click.echo(f"{options.out}: {found} results were there already, {computed} computed now")
    click.echo("\n".join(report.lines()))


def _from_file(stack: ExitStack, what: str, second: str | None, values: dict, kind):
    """The judge of one feature file or two, the spec, and no findings yet.

    Without labels there is no judge, and the finding is a guess by frequency of all pictures.
    """
    from diffeat.search.judges import PIXELS
    from diffeat.store import FeatureStore

    given = [f"--{name.replace('_', '-')}" for name in LIVE if values[name] is not None]
    if given:
        raise click.UsageError(f"{', '.join(given)}: for a search straight from a model; the "
                               f"features of {what} are made already")  # fmt: skip
    store = stack.enter_context(FeatureStore(what))
    timesteps = store.native(values["timesteps"])
    if kind.takes == "pairs":
        named = second and not values["pair_list"] and Path(second).suffix not in FEATURES
        values["pairing"] = pair_choice(values, second if named else None)
        second = None if named else second
    elif kind.takes in PIXELS:
        values["dense"] = dense_choice(values, kind.takes)
    elif store.labels is None and _guesses(values):
        check_guess(what)
        if second:
            raise click.UsageError(f"{second}: {what} has no labels, so there is nothing to test")
        return None, store.spec, stored_guesses(values, store, timesteps)
    test = stack.enter_context(FeatureStore(second)) if second else None
    device = "cpu" if values["device"] == "auto" else values["device"]
    return kind.from_files(store, test, _choices(values, device, timesteps)), store.spec, []


def _from_model(stack: ExitStack, what: str, second: str | None, values: dict, kind):
    """The same for a model that is run now."""
    import numpy as np

    from diffeat.backbones import ModelRequest
    from diffeat.conditioned import EMBEDDING_ROWS, check_targets, conditioned
    from diffeat.extraction import Plan, load_for
    from diffeat.extraction.learned_prompts import embedding_rows
    from diffeat.search.live import LiveFeatures
    from diffeat.search.splits import TRAIN, VALIDATION
    from diffeat.search.targeted import sources_with_targets
    from diffeat.vision.names import defaults_for

    named = values["pair_list"] or values["masks"] or values["depth"]
    if second is None and not (kind.maps and named):
        raise click.UsageError(
            f"{what} is no feature file; a search straight from a model needs PICTURES too"
        )
    known = defaults_for(what)
    timed = values["timesteps"] or "timesteps" in known
    if not values["recipe"] and not (timed and values["blocks"]):
        raise click.UsageError("a search straight from a model needs -t and -b, or --recipe")
    fields = {**values, "seed": values["noise_seed"]}
    spec = spec_of(values["recipe"], None, fields, known)
    if kind.maps:
        return _from_maps(stack, what, second, values, kind, spec)
    if spec.pool == "none":
        if values["pool"]:
            raise SpecError("--pool none: maps are not kept in memory; choose 1x1, 2x2, …")
        spec = replace(spec, pool="1x1")
    check_recipe_option(values["recipe"], what, spec)
    sources = [
        open_pictures(name, not values["targets"].labels)
        for name in (second, values["test"])
        if name
    ]
    alone = sources[0].labels is None and _guesses(values)
    labels = None
    if not alone:  # of pictures without a label no features are computed
        sources, labels = sources_with_targets(
            sources, kind.takes, values["targets"], values["limit"]
        )
    elif values["limit"]:
        sources = [source.limit(values["limit"]) for source in sources]
    if alone:
        check_guess(second)
    else:
        rows = spec.embeddings and {EMBEDDING_ROWS: embedding_rows(spec.embeddings)}
        check_targets(what, conditioned(spec, rows), values["allow_conditioned"])
    backbone = load_for(ModelRequest(what, **model_fields(values)), spec)
    run = {"batch_size": values["batch_size"], "workers": values["workers"]}
    if alone:
        return (
            None,
            Plan(backbone, spec).spec,
            live_guesses(values, backbone, sources[0], spec, run),
        )
    features = LiveFeatures(backbone, sources, spec, values["memory"] // 2, **run)
    if features.class_map:
        note(f"classes of {what} {features.class_map.text}")
    values["sources"] = features.sources
    judge = kind.from_model(features, _choices(values, values["device"]), labels)
    run["rows"] = np.flatnonzero(np.isin(judge.part, (TRAIN, VALIDATION)))
    return judge, features.plan.spec, live_guesses(values, backbone, sources[0], spec, run)


def _from_maps(stack: ExitStack, what: str, second: str | None, values: dict, kind, spec):
    """The same for a task that asks for maps, which are computed into a feature file first."""
    check_recipe_option(values["recipe"], what, spec)
    if kind.takes == "pairs":
        values["pairing"], stores = maps_of_model(stack, what, second, values, spec)
    else:
        values["dense"] = choice = dense_choice(values, kind.takes)
        stores = maps_of_targets(stack, what, second, values, spec, choice)
    choices = _choices({**values, "blocks": None}, values["device"])
    test = stores[1] if len(stores) > 1 else None
    return kind.from_files(stores[0], test, choices), stores[0].spec, []


def _write(report, spec, judge, csv_path, png_path, spec_path) -> None:
    """The files that were asked for."""
    from diffeat.conditioned import marked
    from diffeat.search.best_spec import write_best_spec
    from diffeat.viz import heat_map

    rule = judge.describe().get("score", judge.name)
    if csv_path:
        report.write_csv(csv_path)
    if png_path:
        heat_map([report.grid], png_path, title=f"{rule}, on validation")
    if spec_path:
        note = f"best of {len(judge.cells)} cells of {judge.source} by {rule} on validation"
        notes = [note, *([marked(judge.conditioned)] if judge.conditioned else []),
                 *([judge.told] if judge.told else [])]  # fmt: skip
        write_best_spec(spec_path, spec, report.best_cells, notes)
