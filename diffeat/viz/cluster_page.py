"""One HTML page of clusters: the pictures of each, nearest to its centre first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from diffeat.viz.html import facts_table, plain, quoted, write_document
from diffeat.viz.thumbnails import MOST, Picture, Thumbnails

EACH = 12
"""Pictures of a cluster, at most."""
NAMED = 6
"""Classes of a cluster that are named."""


def write_cluster_page(
    path: str | Path,
    found: np.ndarray,
    apart: np.ndarray,
    ids: Sequence[str],
    title: str,
    facts: Mapping[str, str],
    picture: Picture | None = None,
    labels: Sequence[str] | None = None,
    notes: Sequence[str] = (),
) -> None:
    """Write one HTML file that needs nothing else: no network, no script.

    Args:
        path: the file; it is written whole or not at all.
        found: (N,) cluster of each picture.
        apart: (N,) distance to its centre.
        ids: of the pictures.
        title: headline.
        facts: what is what, in lines of a table.
        picture: gives the pictures; None shows none.
        labels: (N,) names of classes, "" where none is known.
        notes: sentences below the headline.
    """
    thumbs = Thumbnails(picture)
    each = max(1, min(EACH, MOST // (found.max() + 1)))
    body = [f"<h1>{plain(title)}</h1>", facts_table(facts)]
    for cluster in np.argsort(-np.bincount(found), kind="stable").tolist():
        body += _cluster(cluster, found, apart, ids, thumbs, labels, each)
    notes = [*notes, *thumbs.told()]
    body[1:1] = [f'<p class="note">{plain(note)}</p>' for note in notes]
    write_document(path, title, body)


def _cluster(cluster, found, apart, ids, thumbs, labels, each: int) -> Iterator[str]:
    rows = np.flatnonzero(found == cluster)
    rows = rows[np.argsort(apart[rows], kind="stable")]
    yield f"<h2>Cluster {cluster}: {len(rows):,} pictures</h2>"
    if labels is not None and len(rows):
        counts = Counter(labels[row] for row in rows.tolist() if labels[row])
        named = ", ".join(f"{name} {count:,}" for name, count in counts.most_common(NAMED))
        more = f", … ({len(counts)} classes)" if len(counts) > NAMED else ""
        yield f'<p class="note"><bdi>{plain(named + more)}</bdi></p>'
    figures = []
    for row in rows[:each].tolist():
        name = ids[row]
        said = f"<b><bdi>{plain(labels[row])}</bdi></b><br>" if labels is not None else ""
        figures.append(
            f'<figure title={quoted(name)}><div class="box">{thumbs.of(name)}</div>{said}'
            f'{apart[row]:.3g}<br><bdi class="note">{plain(name)}</bdi></figure>'
        )
    yield f'<div class="row">{"".join(figures)}</div>'
