"""Features whose model was told what they are scored on: the answer lies in the question.

A picture whose forward was given its own class, or a text that may name it, has features from
which the class can be read whatever the picture shows. Whoever scores features asks here first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffeat.errors import SpecError
from diffeat.specs import CLASS_LABEL, PLACEHOLDERS, ExtractSpec

EMBEDDING_ROWS = "embedding rows"
"""Key of what a file says of its pictures: rows of the embeddings, where there are any."""


def conditioned(spec: ExtractSpec, pictures: Mapping[str, Any] | None = None) -> str:
    """By what the model was told of each picture's own target; "" if it was told nothing.

    A label or prompt that is the same for all pictures tells nothing, nor does one row of
    embeddings for all. Captions count, since a caption may name the class.

    Args:
        spec: of the features.
        pictures: what the file says of its pictures; without the number of rows in it,
            embeddings count as those of single pictures.
    """
    found = []
    if spec.label == CLASS_LABEL:
        found.append(f"label={CLASS_LABEL}")
    found += [f"{word} in the prompt" for word in PLACEHOLDERS if word in spec.prompt]
    if spec.captions is not None:
        found.append("captions")
    rows = (pictures or {}).get(EMBEDDING_ROWS)
    if spec.embeddings is not None and (type(rows) is not int or rows != 1):
        found.append("embeddings per picture")
    return ", ".join(found)


def marked(why: str) -> str:
    """What stands over tables and pictures of scores of such features."""
    return f"features conditioned on their own targets ({why}): not a measure of recognition"


def check_targets(name: str, why: str, allow: bool = False) -> str:
    """Refuse to score features that were told their targets.

    Args:
        name: what has the features, for the error.
        why: of `conditioned`.
        allow: let them pass; what comes of them is then to be marked.

    Returns:
        `why`.

    Raises:
        SpecError: they were told, and that is not allowed.
    """
    if why and not allow:
        raise SpecError(
            f"{name}: features conditioned on their own targets ({why}): the model was told the "
            "answer, so scores would tell what it was told and not what it sees. Extract without "
            "(the null class, or one prompt for all pictures), or score them all the same with "
            "--allow-conditioned (in Python and in benchmark files allow_conditioned), which "
            "marks every table"
        )
    return why
