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
@option("--pictures", "pictures_at", metavar="PICTURES", help="--page: where the pictures lie, if "
        "not where they were extracted from.")  # fmt: skip
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
    the best names of clusters. The starred cell has the largest silhouette, which no label chose.
    """
    from diffeat.cli.ending import warn
    from diffeat.conditioned import check_targets, conditioned, marked
    from diffeat.progress import track
    from diffeat.search.analysis.clusters import cluster_store, write_assignments, write_csv
    from diffeat.search.stored import wanted
    from diffeat.store import FeatureStore
    from diffeat.viz import heat_map

    choice = target_choice(values)
    with FeatureStore(file) as store:
        cells = wanted(store, values["blocks"], store.native(values["timesteps"]))
        known = _labels(store, choice)
        told = conditioned(store.spec, store.pictures)
        if known is not None:
            check_targets(str(file), told, values["allow_conditioned"])
        table = cluster_store(
            store, cells, clusters, None if known is None else known.labels,
            seeds=values["seeds"], scale=values["scale"],
            progress=lambda each: track(each, desc="cluster", unit="cells"),
        )  # fmt: skip
        ids, names = list(store.ids), _names(known)
        if save_path:
            write_assignments(table.by_silhouette, ids, save_path, names)
        if page_path:
            _page(page_path, table, store, names, values, file)
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


def _page(path: Path, table: Any, store: Any, names: Any, values: dict[str, Any], file: Path):
    from diffeat.cli.ending import warn
    from diffeat.errors import SourceError, StoreError
    from diffeat.noise import format_t
    from diffeat.store import find_originals
    from diffeat.viz.cluster_page import write_cluster_page

    cell, picture = table.by_silhouette, None
    try:
        source, places = find_originals(store, store.ids, values["pictures_at"])
        rows = dict(zip(store.ids, places, strict=True))
        picture = lambda name: source.load(rows[name])  # noqa: E731
    except (SourceError, StoreError) as error:
        warn(f"{error}; the page names pictures and shows none (--pictures says where they lie)")
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
    }  # fmt: skip
