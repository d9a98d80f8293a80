"""`diffeat cluster`: k-means of the pictures of a feature file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from diffeat.cli.options import (
    allow_conditioned_option,
    comma_list,
    json_option,
    labels_options,
    option,
    print_json,
    target_choice,
    threads_option,
)
from diffeat.cli.outputs import HTML, PICTURES, OutputPath, command


@command()
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
@option("-k", "--clusters", type=click.IntRange(2), help="How many (default: as many as classes, "
        "or what of 2, 5, 10 and 20 has the largest silhouette).")  # fmt: skip
@option("-t", "--timesteps", callback=comma_list, help="Only these t.")
@option("-b", "--blocks", callback=comma_list, help="Only these blocks.")
@option("--scale", type=click.Choice(["standardise", "l2", "none"]), default="standardise",
        show_default=True, help="What is done to features first.")  # fmt: skip
@option("--seeds", type=click.IntRange(1), default=1, show_default=True,
        help="Runs of k-means, over which numbers are averaged.")  # fmt: skip
@option("--csv", "csv_path", type=OutputPath((".csv",)), help="Write the table as CSV.")
@option("--png", "png_path", type=OutputPath(PICTURES, strict=True), help="Write heat maps.")
@option("--save", "save_path", type=OutputPath((".csv",)), help="Write the cluster of each "
        "picture, of the cell with the largest silhouette.")  # fmt: skip
@option("--page", "page_path", type=OutputPath(HTML, strict=True), help="Write a page of the "
        "pictures, cluster by cluster, of the same cell.")  # fmt: skip
@option("--pictures", "pictures_at", metavar="PICTURES", help="Where the pictures lie, if not "
        "where they were extracted from; for --page and raw pixels.")  # fmt: skip
@option("--pixels/--no-pixels", default=True, help="Also cluster the pictures' raw pixels, where "
        "pictures and labels are found (default): what needs no model.")  # fmt: skip
@labels_options
@allow_conditioned_option
@json_option
@threads_option
def cluster(file, clusters, csv_path, png_path, save_path, page_path, as_json, **values) -> None:
    """Cluster the pictures of FILE by every (block, t); nothing is trained on labels.

    \b
    diffeat cluster F.h5                                   by each cell, beside labels if there are
    diffeat cluster F.h5 -k 20 -b up.1 -t 20 --page P.html   a page of pictures by cluster
    diffeat cluster F.h5 --labels T.csv --column breed     beside labels of a table

    K-means on features of mean 0 and deviation 1; maps are averaged over their sites. Where labels
    are known: adjusted Rand index (0 is chance), normalised mutual information, and the accuracy of
    the best names of clusters; by classes also how far apart they lie (classes apart). The starred
    cell has the largest silhouette, which no label chose; the cell with the largest ARI was chosen
    by the labels that it is scored on.
    """
    from diffeat.cli.ending import note, warn
    from diffeat.conditioned import check_targets, conditioned, marked
    from diffeat.progress import track
    from diffeat.search.analysis.clusters import (
        cluster_store,
        raw_pixels,
        with_pixels,
        write_assignments,
        write_csv,
    )
    from diffeat.search.stored import targets_seen, wanted
    from diffeat.store import FeatureStore
    from diffeat.viz import heat_map

    choice = target_choice(values)
    with FeatureStore(file) as store:
        cells = wanted(store, values["blocks"], store.native(values["timesteps"]))
        known = _labels(store, choice)
        told = conditioned(store.spec, store.pictures)
        if known is not None:
            check_targets(str(file), told, values["allow_conditioned"])
            if (seen := targets_seen(store)).any():
                warn(f"{file}: its maps were trained on targets of {seen.sum():,} of these "
                     "pictures, so clusters are not without labels")  # fmt: skip
        table = cluster_store(
            store, cells, clusters, None if known is None else known.labels,
            seeds=values["seeds"], scale=values["scale"],
            progress=lambda each: track(each, desc="cluster", unit="cells"),
        )  # fmt: skip
        ids, names = list(store.ids), _names(known)
        wants = bool(page_path) or (known is not None and values["pixels"])
        found, why = _originals(store, values["pictures_at"]) if wants else (None, "")
        if found and table.labelled and values["pixels"]:
            pixels = raw_pixels(store, *found)
            table = with_pixels(table, pixels, known.labels, values["scale"])
        if why:
            note(f"{why}; so without raw pixels, and pages without pictures (--pictures says where "
                 "these lie)")  # fmt: skip
        if save_path:
            write_assignments(table.by_silhouette, ids, save_path, names)
        if page_path:
            _page(page_path, table, store, names, found, file)
    if csv_path:
        write_csv(table, csv_path)
    if png_path:
        grids = [table.grid(name) for name in table.numbers if name not in ("between/within",)]
        heat_map(grids, png_path, title=table.lines()[0], shared=False)
    if told and known is not None:
        warn(marked(told))
    if as_json:
        print_json(_facts(table, file))
    else:
        click.echo("\n".join(table.lines()))


def _labels(store: Any, choice: Any) -> Any:
    """Classes of the pictures; None where none are known and none were asked for."""
    from diffeat.search.targeted import own_if_any, targets_of

    if choice.labels is None and not choice.columns:
        return own_if_any(store, "class")
    return targets_of([store], "class", choice)[0]


def _names(known: Any) -> list[str] | None:
    if known is None:
        return None
    return [known.class_names[label] if label >= 0 else "" for label in known.labels.tolist()]


def _originals(store: Any, where: str | None) -> tuple[tuple[Any, Any] | None, str]:
    """The source with the file's pictures and their places in it; or why there is none."""
    from diffeat.errors import SourceError, StoreError
    from diffeat.store import find_originals

    try:
        return find_originals(store, store.ids, where), ""
    except (SourceError, StoreError) as error:
        if where:
            raise
        return None, str(error)


def _page(path: Path, table: Any, store: Any, names: Any, found: Any, file: Path) -> None:
    """Pictures by cluster; `found` is where they lie, None where that is not known."""
    from diffeat.noise import format_t
    from diffeat.viz.cluster_page import write_cluster_page

    cell, picture = table.by_silhouette, None
    if found:
        source, rows = found[0], dict(zip(store.ids, found[1], strict=True))

        def picture(name: str) -> Any:
            return source.load(rows[name])

    block, t = cell.key
    facts = {
        "model": table.name,
        "cell": f"{block} t={format_t(t)}",
        "features": file.name,
        "clusters": f"{table.count} ({table.chosen})",
        "pictures": f"{table.pictures:,}",
    }
    facts |= {name: f"{cell.values[name]:.3f}" for name in table.numbers}
    write_cluster_page(path, cell.clusters.labels_, cell.clusters.distances_, list(store.ids),
                       f"{table.name}: {table.count} clusters", facts, picture, names,
                       ["the cell with the largest silhouette; pictures nearest to the centre "
                        "of their cluster first"])  # fmt: skip


def _facts(table: Any, file: Path) -> dict[str, Any]:
    best = table.best
    return {
        "file": str(file), "model": table.name, "pictures": table.pictures,
        "clusters": table.count, "chosen": table.chosen, "labelled": table.labelled,
        "seeds": table.seeds, "cells": table.rows(),
        "by_silhouette": list(table.by_silhouette.key), "best": best and list(best.key),
        "dealt at random": best and best.chance,
        "raw pixels": table.pixels and table.pixels.to_dict(),
    }  # fmt: skip
