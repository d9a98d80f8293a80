"""`diffeat segment --parts`: parts of pictures, without labels and without words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import click

PARTS = ("parts", "clusters", "threshold", "each_picture")
"""Options of this way alone."""


def parts_options(command: Callable) -> Callable:
    """Options of `diffeat segment` that say something of parts."""
    from diffeat.cli.options import option

    for each in (
        option("--each-picture", is_flag=True, help="--parts kmeans: clusters of each picture on "
               "its own, not of all together."),
        option("--threshold", type=float, help="--parts: from which Ncut on diffcut leaves a part "
               "whole (0.5); up to which distance diffseg merges (1.1)."),
        option("--clusters", type=int, help="--parts kmeans: how many (8; 5 with --each-picture); "
               "of diffcut the most parts."),
        option("--parts", type=click.Choice(["diffcut", "diffseg", "kmeans"]), help="Parts of "
               "pictures without labels: features cut in two again and again, self-attention "
               "merged, clusters that all pictures share."),
    ):  # fmt: skip
        command = each(command)
    return command


def run(what: str, pictures: str | None, values: dict[str, Any]) -> None:
    """Parts of the pictures of a feature file, or of a MODEL and PICTURES."""
    from diffeat.cli.dense import begun_folder, loader, refuse_nothing
    from diffeat.cli.ending import warn
    from diffeat.cli.options import print_json
    from diffeat.cli.parts_run import PartsRun
    from diffeat.conditioned import check_targets, marked
    from diffeat.errors import PictureError
    from diffeat.zero_shot.parts import AppliedParts, PartsTally, made_way, true_masks

    refuse_nothing({"-o parts/": values["output"], "--csv P.csv": values["csv_path"],
                    "--truth": values["truth"], "--json": values["as_json"]})  # fmt: skip
    _check(what, pictures, values)
    head = made_way(values["parts"], values["clusters"], values["threshold"],
                    values["each_picture"])  # fmt: skip
    try:
        with ExitStack() as stack:
            given = _of_pictures if pictures else _of_file
            opened, count, spec, made, told, pieces = given(stack, what, pictures, values)
            applied, ids = AppliedParts(head, spec.size), list(opened.ids[:count])
            tally = None
            if values["truth"]:
                check_targets(what, told, values["allow_conditioned"])
                sizes = None if pictures else opened.sizes[:count]
                found = true_masks(values["truth"], opened if pictures else None, ids, sizes)
                tally = PartsTally(applied, *found)
            load = loader(opened, count, values["pictures_at"]) if values["overlay"] else None
            applied.learn(pieces(), count)
            of, inputs = pictures or what, {"the pictures": pictures, "true masks": values["truth"]}
            made_by = {name: values[name] for name in PARTS if values[name]}
            made_by |= {**made, "spec": spec.to_dict()}
            folder = values["output"] and begun_folder(
                applied, ids, values, of, inputs, made_by, values["overlay"]
            )
            work = PartsRun(applied, ids, folder, load, tally)
            work.run(count, pieces(), values["csv_path"], "segment")
            if folder:
                _name_parts(folder, applied)
    except PictureError as error:
        raise click.ClickException(f"{error}; or leave such out with --on-error skip") from error
    if told and tally is not None:
        warn(marked(told))
    facts = {"parts": values["parts"], "of": of, **made,
             **{name: values[name] and str(values[name]) for name in ("output", "csv_path")},
             **work.facts(count)}  # fmt: skip
    work.warn_of_skipped(of, count)
    if values["as_json"]:
        print_json(facts)
    else:
        _print(facts, tally)


def _check(what: str, pictures: str | None, values: dict[str, Any]) -> None:
    """UsageError for options that do not go together."""
    from diffeat.cli.applying import is_file
    from diffeat.cli.spec_options import MADE

    if pictures is None and not is_file(what):
        raise click.UsageError(f"{what} is no feature file (.h5); expected one, or MODEL PICTURES "
                               "such as: diffeat segment unet-cifar10 pictures/ --parts "
                               f"{values['parts']} -o parts/")  # fmt: skip
    if pictures and is_file(what):
        raise click.UsageError(f"{what} holds features, so {pictures} has no place; leave one out")
    if values["uncertainty"]:
        raise click.UsageError("--uncertainty is for --head; of parts none is known")
    for name in ("overlay", "overwrite"):
        if values[name] and not values["output"]:
            raise click.UsageError(f"--{name} is for -o parts/")
    if values["pictures_at"] and not (values["overlay"] and not pictures):
        raise click.UsageError("--pictures is for --overlay of a feature file")
    made = ("recipe", "spec_file", "batch_size", "lora", "denoiser", *MADE)
    for name in () if pictures else made:
        if values.get(name) is not None:
            raise click.UsageError(f"--{name.replace('_', '-')} is for MODEL PICTURES; the "
                                   f"features of {what} are made already")  # fmt: skip


Given = tuple[Any, int, Any, dict[str, Any], str, Callable[[], Iterator[Any]]]
"""What has ids, how many pictures, the spec, what is said of the features, what they were told of
their pictures, makes pieces."""


def _of_file(stack: ExitStack, what: str, _: None, values: dict[str, Any]) -> Given:
    """Features that are stored."""
    from diffeat.conditioned import conditioned
    from diffeat.search.applied import pieces_of_file
    from diffeat.search.matching.bound import cells_of_files
    from diffeat.store import FeatureStore

    store = stack.enter_context(FeatureStore(what))
    levels = store.native(values["timesteps"])
    cells = cells_of_files((store,), values["blocks"], levels)
    if values["parts"] == "diffseg" and not values["blocks"]:
        cells = [one for one in cells if one[0].endswith(":self.map")] or cells
    count = min(len(store), values["limit"] or len(store))
    made = {"model": store.model["name"], "cells": [[*cell] for cell in cells]}
    told = conditioned(store.spec, store.pictures)
    return store, count, store.spec, made, told, lambda: pieces_of_file(store, cells, count)


def _of_pictures(stack: ExitStack, what: str, pictures: str, values: dict[str, Any]) -> Given:
    """Features that are computed now; for clusters of a set twice, so that none is kept."""
    from diffeat.backbones import ModelRequest
    from diffeat.cli.options import model_fields, open_pictures
    from diffeat.cli.spec_options import check_recipe_option, spec_of
    from diffeat.conditioned import EMBEDDING_ROWS, conditioned
    from diffeat.extraction import load_for
    from diffeat.extraction.learned_prompts import embedding_rows
    from diffeat.loading import load
    from diffeat.search.applied import pieces_of_pictures
    from diffeat.search.kept import HeadNote
    from diffeat.zero_shot.parts import LEVELS, default_blocks

    source = open_pictures(pictures, limit=values["limit"])
    if values["on_error"] == "fail":
        source.check_readable()
    way = values["parts"]
    known = {"timesteps": (LEVELS[way],), "pool": "none"}
    if not (values["blocks"] or values["recipe"] or values["spec_file"]):
        known["blocks"] = default_blocks(load(what, "meta"), way)
    spec = spec_of(values["recipe"], values["spec_file"], values, known)
    check_recipe_option(values["recipe"], what, spec)
    backbone = load_for(ModelRequest(what, **model_fields(values)), spec)
    note = HeadNote(spec, (), {})

    def pieces() -> Iterator[Any]:
        how = values["batch_size"], values["workers"], values["on_error"]
        return pieces_of_pictures(backbone, source, note, *how)[1]

    made = {"model": backbone.name, "blocks": list(spec.blocks),
            "timesteps": [str(one) for one in spec.timesteps]}  # fmt: skip
    rows = spec.embeddings and {EMBEDDING_ROWS: embedding_rows(spec.embeddings)}
    return source, len(source), spec, made, conditioned(spec, rows), pieces


def _name_parts(folder: Any, applied: Any) -> None:
    """Write again what the files mean, now with as many parts as came."""
    from diffeat.viz.masks import class_colours

    folder.colours = class_colours(applied.names)
    folder.begin(overwrite=True)


def _print(facts: dict[str, Any], tally: Any) -> None:
    """For people."""
    where = f"{facts['output']}: " if facts["output"] else ""
    many = f", {facts['parts a picture']:.1f} parts each" if "parts a picture" in facts else ""
    click.echo(f"{where}{facts['predicted']:,} of {facts['pictures']:,} pictures{many} "
               f"({facts['parts']}, {facts['model']})")  # fmt: skip
    for line in tally.lines() if tally is not None else ():
        click.echo(line)
