"""By what rule points are matched: in words, and as what finished work depends on."""

from __future__ import annotations

from typing import Any

from diffeat.search.judge import Candidate, Mix
from probes.matching.base import Matcher

SAID = ("metric", "resolution", "normalise")
"""Parameters of a matcher that are always said."""
NOT_THE_RULE = ("device", "memory_mb", "outside")
"""Parameters of a matcher that change no more than the last bits."""


def matcher_of(matcher: Matcher, candidate: Candidate) -> Matcher:
    """The matcher for a candidate: of a mix with weights, with these."""
    if not isinstance(candidate, Mix) or candidate.weights is None:
        return matcher
    from sklearn.base import clone

    weights = dict(zip(candidate.cells, candidate.weights, strict=True))
    return clone(matcher).set_params(weights=weights)


def described(matcher: Matcher) -> dict[str, Any]:
    """What finished work depends on: the kind of the matcher, and its parameters."""
    params = {name: value for name, value in matcher.get_params().items()
              if name not in NOT_THE_RULE}  # fmt: skip
    if isinstance(params.get("weights"), dict):
        params["weights"] = [[*cell, weight] for cell, weight in params["weights"].items()]
    return {"matcher": type(matcher).__name__, **params}


def matcher_text(matcher: Matcher, check: float | None = None) -> str:
    """ "NearestMatcher(metric=cosine, resolution=picture, normalise=after)", what else is not as by
    default, and the check of each match."""
    usual, params = type(matcher)().get_params(), described(matcher)
    shown = {name: params[name] for name in SAID if name in params}
    shown |= {name: value for name, value in params.items()
              if name not in ("matcher", "weights") and value != usual[name]}  # fmt: skip
    checked = "" if check is None else f", matched back within {check:g} px"
    return f"{type(matcher).__name__}({', '.join(f'{k}={v}' for k, v in shown.items())}){checked}"
