"""`diffeat aggregate`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from diffeat.cli.aggregate_options import (
    GROUPS,
    check_options,
    fit_options,
    how_options,
    live_options,
)
from diffeat.cli.ending import note, resumable, warn
from diffeat.cli.grouped import Grouped
from diffeat.cli.options import cell_options, json_option, option, print_json, threads_option
from diffeat.cli.outputs import OutputPath, command

FEATURES = (".h5", ".hdf5")
"""What names of feature files end in."""


@command(cls=Grouped, groups=GROUPS)
@click.argument("what", metavar="FILE|MODEL")
@click.argument("more", nargs=-1, metavar="[FILE…|PICTURES]")
@how_options
@cell_options
@option("--missing", type=click.Choice(("refuse", "leave-out")), default="refuse",
        show_default=True, help="Pictures that one of several files lacks.")  # fmt: skip
@option("-o", "--output", type=OutputPath(FEATURES), help="The feature file to write.")
@option("--dtype", type=click.Choice(("float16", "float32", "int8")), default="float16",
        show_default=True, help="Of the maps in it.")  # fmt: skip
@option("--compression", type=click.Choice(("none", "lzf", "gzip", "zstd")), default="none",
        show_default=True, help="Of the maps in it.")  # fmt: skip
@option("--overwrite", is_flag=True, help="Replace what lies at -o.")
@fit_options
@live_options
@json_option
@threads_option
def aggregate(what, more, as_json, **values) -> None:
    """Make one map of all maps of a picture: join, add, project, fuse or mix cells.

    \b
    diffeat aggregate F.h5 -o OUT.h5 --concat              all cells on one grid, side by side
    diffeat aggregate F.h5 -o OUT.h5 --pca 256             their principal components
    diffeat aggregate A.h5 B.h5 -o OUT.h5 --fuse           two models: unit vectors, joined
    diffeat aggregate F.h5 --fit hyperfeatures --task matching --pairs LIST --save M.safetensors
    diffeat aggregate F.h5 -o OUT.h5 --mixer M.safetensors         a kept one, on other pictures
    diffeat aggregate MODEL PICTURES -o OUT.h5 --mixer M.safetensors   straight from pictures

    OUT.h5 is a feature file of one block, called as the aggregator, without a noise level: info,
    verify, export, view, probe, search and match take it. Files are bound by the ids of their
    pictures; the maps lie in the frame of the first one's inputs. A kept aggregator takes the
    features that it was fitted on, of any pictures: others are refused, field by field.
    """
    from_file = Path(what).suffix in FEATURES or Path(what).is_file()
    check_options(from_file, more, values)
    left = f"nothing is written to {values['output']}; run the same command again"
    if values["fit"] and values["checkpoint"]:
        left = f"finished epochs are kept in {values['checkpoint']}; run the same command again"
    with ExitStack() as stack, resumable(left):
        stores, asked = (_from_files if from_file else _from_model)(stack, what, more, values)
        facts = _made(stack, stores, asked, values)
    _say(facts, as_json)


def _asked(values: dict[str, Any]) -> Any:
    """The aggregator that the options name; None of one that is to be trained."""
    from diffeat.aggregation.methods import load_aggregator, named
    from diffeat.backbones.devices import pick_device

    device = str(pick_device(values["device"]))
    if values["mixer"]:
        return load_aggregator(values["mixer"], device)
    if values["fit"]:
        return None
    for name in ("pca", "co_pca"):
        if values[name]:
            return named(name.replace("_", "-"), str(values[name]), device)
    name = next(name for name in ("concat", "sum", "fuse") if values[name])
    return named(name, values["weights"] or "", device)


def _from_files(stack: ExitStack, what: str, more: tuple, values: dict[str, Any]) -> tuple:
    """The open files, and what is made of them."""
    from diffeat.store import FeatureStore

    asked = _asked(values)
    return [stack.enter_context(FeatureStore(one)) for one in (what, *more)], asked


def _from_model(stack: ExitStack, what: str, more: tuple, values: dict[str, Any]) -> tuple:
    """The same of pictures, whose features a kept aggregator names, through a file."""
    from diffeat.aggregation.written import notes_of
    from diffeat.backbones import ModelRequest
    from diffeat.cli.extracted import extracted, features_folder
    from diffeat.cli.options import model_fields, open_pictures
    from diffeat.errors import SpecError

    asked = _asked(values)
    notes = notes_of(asked.about, values["mixer"])
    if len(notes) > 1:
        raise SpecError(f"{values['mixer']} takes features of {len(notes)} models; extract them "
                        "(diffeat extract) and give the files")  # fmt: skip
    source = open_pictures(more[0], limit=values["limit"])
    request = ModelRequest(what, **model_fields(values))
    path = values["cache"] or features_folder(stack, None, "--cache F.h5") / "maps.h5"
    kept = bool(values["cache"])
    return [extracted(stack, request, source, notes[0].spec, path, values, kept)], asked


def _made(stack: ExitStack, stores: list, asked: Any, values: dict[str, Any]) -> dict[str, Any]:
    """Fit what is to be fitted, write what is to be written; plain facts of both."""
    from diffeat.aggregation.api import bound

    if asked is None:
        from diffeat.cli.aggregate_fit import fitted

        sources, asked, facts = fitted(stack, stores, values)
    else:
        facts = {}
        sources = bound(stores, asked, values["blocks"], values["timesteps"],
                        values["missing"], warn)  # fmt: skip
    for why, count in sources.left_out.items():
        warn(f"{count} left out: {why}")
    if values["output"]:
        facts |= _written(sources, asked, values)
    if values["save_path"] and not values["fit"]:
        _keep(sources, asked, values["save_path"])
        facts["saved"] = str(values["save_path"])
    return facts


def _written(sources: Any, asked: Any, values: dict[str, Any]) -> dict[str, Any]:
    """What the output holds, made now or before."""
    from diffeat.aggregation.api import fit
    from diffeat.aggregation.written import (
        check_output,
        is_complete,
        request_of,
        seen_targets,
        write_aggregated,
    )
    from diffeat.progress import track
    from diffeat.store import FeatureStore

    path, dtype = values["output"], values["dtype"]
    check_output(path, sources)
    done = not values["overwrite"] and is_complete(path, request_of(sources, asked, dtype))
    if done:
        note(f"{path} is complete; nothing to do")
    seen = int(seen_targets(asked, sources).sum())
    if seen and not values["fit"]:
        warn(f"the aggregator was fitted on targets of {seen:,} of these pictures, so no score "
             "of them is a test")  # fmt: skip
    if not done or (values["save_path"] and not asked.fitted):
        fit(asked, sources)
    if not done:
        write_aggregated(
            sources, asked, path, dtype, values["compression"], values["overwrite"],
            lambda spans: track(spans, desc="aggregate", unit="slices"),
        )  # fmt: skip
    with FeatureStore(path) as store:
        block, t = store.blocks[0], store.timesteps[0]
        return {
            "output": str(path), "complete_before": done, "pictures": len(store), "block": block,
            "shape": list(store[block, t].shape[1:]), "dtype": store.stored_dtype(block, t),
            "fingerprint": store.fingerprint, "of": store.how["of"],
            "left_out": sources.left_out, "fitted_on_these": seen,
        }  # fmt: skip


def _keep(sources: Any, asked: Any, path: Path) -> None:
    """Keep an aggregator that was fitted without targets."""
    from diffeat.aggregation.api import fit
    from diffeat.aggregation.trained import keep

    if not hasattr(asked.aggregator, "cells_"):
        fit(asked, sources)
    keep(asked.aggregator, sources, path)


def _say(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json({name: value for name, value in facts.items() if name != "lines"})
        return
    for line in facts.get("lines", ()):
        click.echo(line)
    if "output" in facts:
        shape = "×".join(map(str, facts["shape"]))
        click.echo(f"{facts['output']}: {facts['pictures']:,} pictures, {facts['block']} {shape} "
                   f"{facts['dtype']}")  # fmt: skip
        for one in facts["of"]:
            click.echo(f"  made of {one['file']}: {one['cells']}")
    if "saved" in facts:
        click.echo(f"{facts['saved']}: for --mixer, on features of the same model and spec")
