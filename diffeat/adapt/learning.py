"""What all that is learned through a backbone shares: Adam at one rate; from which pictures."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from diffeat.errors import NumericsError, SpecError
from diffeat.images import Source, open_source
from diffeat.progress import counted
from probes.objectives import Objective
from probes.randomness import Randomness
from probes.training import Data, Diverged, Training, train


def pictures_of(given: Any) -> Source:
    """A source as it is; of a name or folder, what `diffeat.open_source` gives.

    Raises:
        SpecError: something else, such as a list.
        SourceError: no pictures there.
    """
    if isinstance(given, Source):
        return given
    if isinstance(given, (str, Path)):
        return open_source(str(given))
    raise SpecError(
        f"pictures are a {type(given).__name__}; expected a folder, a list file or a named set, or "
        "what diffeat.open_source gives"
    )


def learn(
    estimator: Any,
    module: nn.Module,
    objective: Objective,
    data: Data,
    randomness: Randomness,
    *,
    epochs: int,
    batch_size: int,
    checkpoint: Path | str | None,
    **more: Any,
) -> tuple[list[dict[str, float]], int]:
    """Adam at a constant rate, without decay, by the one loop; see `probes.training.train`.

    Args:
        estimator: has `learning_rate`, `progress`, and `patience` where it may stop early.
        more: further arguments of `train`.

    Returns:
        The learning curve, and the epoch whose weights the module has.

    Raises:
        NumericsError: the loss is nan or inf.
    """
    how = Training(
        "adam", estimator.learning_rate, 0.0, 0.0, "constant", epochs, batch_size,
        getattr(estimator, "patience", None), progress=partial(counted, show=estimator.progress),
        checkpoint=checkpoint, keep_best="validation" in more,
    )  # fmt: skip
    try:
        return train(module, objective, data, how, randomness, **more)
    except Diverged as error:
        raise NumericsError(f"{error}; or load the model in float32") from error
