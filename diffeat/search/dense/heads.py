"""Dense heads by the names of the command line, fitted so that a setting is chosen beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sklearn.base import clone

from diffeat.errors import DiffeatError, SpecError, nearest
from probes.cells import Cells

MASKS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "ridge": ("PixelLinear", {"kind": "ridge"}),
    "logistic": ("PixelLinear", {"kind": "logistic"}),
    "nearest-mean": ("NearestMean", {}),
    "kmeans": ("KMeansSegmenter", {}),
    "ensemble": ("PixelMLPEnsemble", {}),
    "fpn": ("FPNHead", {}),
    "dpt": ("DPTHead", {}),
}
"""Heads of classes: name → class of `probes.dense` and its parameters."""
DEPTH: Mapping[str, tuple[str, dict[str, Any]]] = {
    "ridge": ("PixelRegression", {}),
    "vpd": ("DepthHead", {"kind": "vpd"}),
    "fpn": ("DepthHead", {"kind": "fpn"}),
    "dpt": ("DepthHead", {"kind": "dpt"}),
}
"""Heads of depth."""
TOGETHER = ("ensemble", "fpn", "dpt", "vpd")
"""Heads that are trained once, on all cells together."""
LINEAR = ("ridge", "logistic")
"""Heads that penalties can be given to."""


@dataclass(frozen=True)
class HeadChoice:
    """A head by its name.

    Attributes:
        name: "ridge", "ensemble", …
        penalties: to choose from, of heads that have any; None is the head's own.
        device: where it is fitted.
        seed: of heads that draw.
        options: further parameters.
        estimator: a head of `probes.dense` that the name stands for, as it is; None: see `MASKS`.

    Raises:
        SpecError: penalties of a head that has none.
    """

    name: str = "ridge"
    penalties: Sequence[float] | None = None
    device: str = "cpu"
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    estimator: Any = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.penalties and self.estimator is None and self.name not in LINEAR:
            raise SpecError(f"--head {self.name} has no penalty to choose; leave -C out")

    def made(self, kind: str) -> Any:
        """The estimator, not fitted.

        Args:
            kind: "masks" or "depth".

        Raises:
            SpecError: there is no such head of this kind.
        """
        import probes.dense as dense

        if self.estimator is not None:
            return clone(self.estimator)
        known = MASKS if kind == "masks" else DEPTH
        if self.name not in known:
            raise SpecError(f"--head {self.name!r}{nearest(self.name, known)}; expected one of "
                            f"{', '.join(known)} for {kind}")  # fmt: skip
        name, fixed = known[self.name]
        made = getattr(dense, name)(**{**fixed, **self.options})
        wanted = {"device": self.device, "random_state": self.seed, "seed": self.seed}
        if self.penalties:
            wanted["alphas"] = tuple(self.penalties)
        has = made.get_params()
        return made.set_params(**{name: value for name, value in wanted.items() if name in has})


def choice_of(head: Any) -> HeadChoice:
    """A `HeadChoice`, from one, a name, an estimator, or None, which is the linear head."""
    if head is None or isinstance(head, str):
        return HeadChoice(head or "ridge")
    if isinstance(head, HeadChoice):
        return head
    options = {name: value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
               for name, value in head.get_params().items() if name != "device"}  # fmt: skip
    return HeadChoice(type(head).__name__, options=options, estimator=head)


def fitted(
    head: Any, cells: Cells, truths: Any, validation: tuple[Cells, Any] | None = None,
    classes: Sequence[str] = (), ignore: int = 255,
) -> Any:  # fmt: skip
    """A copy of a head, fitted.

    Args:
        truths: as many label or depth maps as cells have rows.
        validation: (cells, truths) that choose its setting.
        classes: names; () of depth.

    Raises:
        SpecError: what the head refuses: masks of another size, unknown labels, nothing known.
    """
    from probes.dense import Segmenter

    copy = clone(head)
    more = {"classes": list(classes), "ignore": ignore} if isinstance(copy, Segmenter) else {}
    if validation is None and is_trained(copy):  # which would hold pictures back by itself
        validation = 0
        copy.set_params(patience=None)  # which needs pictures to be patient with
    try:
        return copy.fit(cells, truths, validation, **more)
    except DiffeatError:
        raise
    except ValueError as error:
        raise SpecError(str(error)) from error


def is_trained(head: Any) -> bool:
    """Whether it is trained in epochs, of which validation keeps the best."""
    return "patience" in head.get_params()


def has_choice(head: Any) -> bool:
    """Whether validation chooses something of a head: a penalty, or by `patience` an epoch."""
    return "alphas" in head.get_params() or (is_trained(head) and head.patience is not None)


def setting_of(head: Any) -> float | None:
    """What validation chose of a fitted head: its penalty, or the steps (or epochs) up to the
    epoch that was kept; None where it had nothing to choose."""
    if (found := getattr(head, "alpha_", None)) is not None:
        return float(found)
    epoch = getattr(head, "best_epoch_", None)
    if not epoch or not has_choice(head):
        return None
    steps = getattr(head, "steps", None)
    return float(epoch if steps is None else epoch * -(-steps // head.epochs))


def with_setting(head: Any, setting: float | None) -> Any:
    """A copy that is fitted with this setting alone."""
    copy = clone(head)
    if setting is None or not has_choice(copy):
        return copy
    if "alphas" in copy.get_params():
        return copy.set_params(alphas=(setting,))
    if getattr(copy, "steps", None) is None:
        return copy.set_params(epochs=int(setting))
    return copy.set_params(steps=int(setting), epochs=1)
