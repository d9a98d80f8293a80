"""Features that were told what they are to predict, and why they must not be scored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffeat.errors import SpecError
from diffeat.specs import CLASS_LABEL, PLACEHOLDERS, ExtractSpec

MARK = "conditioned on its own targets"


def told_target(spec: ExtractSpec, pictures: Mapping[str, Any] | None = None) -> str | None:
    """How a picture's own class may have reached its features, or None where it cannot have.

    Args:
        spec: of the extraction.
        pictures: what a feature file says of its pictures. Embeddings that are one row for all
            tell a picture nothing; where a file does not say how many they were, one each is
            assumed.
    """
    if spec.label == CLASS_LABEL:
        return "label=class"
    if any(word in spec.prompt for word in PLACEHOLDERS):
        return f"prompt={spec.prompt!r}"
    if spec.captions:
        return "captions, which may name what is to be predicted"
    if spec.embeddings and (pictures or {}).get("embedding_rows") != 1:
        return "embeddings of each picture"
    return None


def checked_name(name: str, reason: str | None, allowed: bool) -> str:
    """The name of a task: marked, where its features were told their targets and that is allowed.

    Raises:
        SpecError: they were, and it is not.
    """
    if reason is None:
        return name
    if not allowed:
        raise SpecError(
            f"{name}: these features were told what they are to predict ({reason}), so a score "
            "would measure the condition and not the picture; extract them without it (the null "
            "class, an empty prompt, one prompt for all), or allow it with --allow-conditioned "
            "(allow_conditioned=True), which marks every table"
        )
    return f"{name} [{MARK}: {reason}; no measure of recognition]"
