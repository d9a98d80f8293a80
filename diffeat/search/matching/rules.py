"""By what rule points are matched: in words, and as what finished work depends on."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from torch import nn

from diffeat.search.judge import Candidate, Mix
from diffeat.search.tasks import bytes_fingerprint
from probes.matching import NearestMatcher, Paired
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
    if isinstance(matcher, Paired):
        inner = NearestMatcher() if matcher.matcher is None else matcher.matcher
        return {"matcher": "Paired", "of": described(inner), "after": _learnt(matcher.transform)}
    params = {name: value for name, value in matcher.get_params().items()
              if name not in NOT_THE_RULE}  # fmt: skip
    if isinstance(params.get("weights"), dict):
        params["weights"] = [[*cell, weight] for cell, weight in params["weights"].items()]
    return {"matcher": type(matcher).__name__, **params}


def _learnt(estimator: Any) -> Any:
    """Of what is done to pairs before: its kind, parameters, and all that it has learnt."""
    if not isinstance(estimator, BaseEstimator):
        return estimator
    found = {name: _learnt(value) for name, value in estimator.get_params(deep=False).items()
             if name not in NOT_THE_RULE}  # fmt: skip
    for name, value in sorted(vars(estimator).items()):
        if isinstance(value, BaseEstimator) and name.endswith("_"):
            found[name] = _learnt(value)
        elif isinstance(value, np.ndarray):
            found[name] = bytes_fingerprint(value)
        elif isinstance(value, nn.Module):
            weights = value.state_dict().items()
            found[name] = {key: bytes_fingerprint(one.cpu().numpy()) for key, one in weights}
    return {"kind": type(estimator).__name__, **found}


def matcher_text(matcher: Matcher, check: float | None = None) -> str:
    """ "NearestMatcher(metric=cosine, resolution=picture, normalise=after)", what else is not as by
    default, and the check of each match."""
    if isinstance(matcher, Paired):
        inner = NearestMatcher() if matcher.matcher is None else matcher.matcher
        return f"{matcher_text(inner, check)} after {matcher.transform}"
    usual, params = type(matcher)().get_params(), described(matcher)
    shown = {name: params[name] for name in SAID if name in params}
    shown |= {name: value for name, value in params.items()
              if name not in ("matcher", "weights") and value != usual[name]}  # fmt: skip
    checked = "" if check is None else f", matched back within {check:g} px"
    return f"{type(matcher).__name__}({', '.join(f'{k}={v}' for k, v in shown.items())}){checked}"
