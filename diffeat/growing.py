"""What is finished of an output whose pictures have become others, before anything is computed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from diffeat.extraction.conditions import prompts_of
from diffeat.extraction.learned_prompts import embedding_rows
from diffeat.hashing import fingerprint
from diffeat.images import Seen, Source
from diffeat.specs import ExtractSpec
from diffeat.store import Growth, Manifest, check_told, growth_of


def finished_rows(path: Path, source: Source, spec: ExtractSpec, seen: Seen) -> Growth | None:
    """Which rows of what lies at `path` serve again; None where none do.

    Args:
        path: the feature file, whether it is there, in parts, or not.
        source: the pictures of today, in the user's order.
        spec: what is asked for.
        seen: their digests.
    """
    if spec.embeddings is not None and embedding_rows(spec.embeddings) > 1:
        return None  # they go by row, and rows of other pictures are others
    return growth_of(path, source, seen)


def described(
    growth: Growth, spec: ExtractSpec, source: Source, seen: Seen, request: Manifest
) -> Growth:
    """A growth with what the file in the end says of its pictures, and what the finished rows must
    say of their conditions.

    Args:
        growth: from `finished_rows`.
        spec: what is asked for.
        source, seen: the pictures in the order of the growth.
        request: what is made of them in that order.

    Raises:
        SpecMismatch: finished features were told other classes than they would be now.
    """
    prompts, order = prompts_of(spec, source), growth.order

    def conditions(places: np.ndarray | None) -> str | None:
        if prompts is None or places is None:
            return request.pictures["conditions"]
        return fingerprint([prompts[place] for place in places])

    whole = source.take(order).fingerprint(seen.digests[order])
    pictures = {**request.pictures, "fingerprint": whole, "conditions": conditions(order)}
    bases = tuple(base._replace(conditions=conditions(base.known)) for base in growth.bases)
    growth = replace(growth, pictures=pictures, bases=bases)
    check_told(growth, spec, source)
    return growth
