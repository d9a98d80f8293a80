"""`diffeat aggregate --fit`: training, and what is shown of it."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from diffeat.cli.ending import warn
from diffeat.cli.options import target_choice

SETTINGS = {
    "width": "width", "grid": "size", "steps": "steps", "epochs": "epochs",
    "batch_rows": "batch_size", "learning_rate": "learning_rate", "patience": "patience",
    "checkpoint": "checkpoint", "seed": "random_state", "sharpness": "sharpness",
}  # fmt: skip
"""Option → parameter of the aggregator."""
PATIENCE, PASSES = 5, 20
ROWS = {"matching": 1}
"""Rows of a step, by the task; 16 of others."""


def fitted(
    stack: ExitStack, stores: list[Any], values: dict[str, Any]
) -> tuple[Any, Any, dict[str, Any]]:
    """Train what --fit names, keep and draw it.

    Returns:
        The sources, what `diffeat.aggregation` calls an `Asked`, and plain facts.
    """
    from diffeat.aggregation.methods import Asked
    from diffeat.aggregation.sources import open_sources
    from diffeat.aggregation.trained import about_aggregator, keep, train

    sources = open_sources(stores, values["blocks"], values["timesteps"], values["missing"])
    learned = _learned(sources, values)
    for why, count in learned.left_out.items():
        warn(f"{count} {learned.what} in no part: {why}")
    made = train(values["fit"], learned, **_settings(learned, values))
    if values["save_path"]:
        keep(made, sources, values["save_path"], learned)
    made.about_ = about_aggregator(sources, made, learned)
    facts = _facts(made, learned, values)
    _draw(made, learned, values)
    return sources, Asked(made, "", True, made.about_), facts


def _learned(sources: Any, values: dict[str, Any]) -> Any:
    from diffeat.aggregation.trained import from_labels, from_pairs

    if values["task"] == "matching":
        return from_pairs(
            sources, values["pair_list"], values["split"], values["seed"], values["missing"]
        )
    given = {name: values[name] for name in ("labels", "columns", "groups")}
    return from_labels(
        sources, values["task"], target_choice(given), values["split"], values["seed"]
    )


def _settings(learned: Any, values: dict[str, Any]) -> dict[str, Any]:
    """Parameters of the aggregator; what nothing is said of is its own, or that of the task."""
    from diffeat.backbones.devices import pick_device
    from diffeat.progress import counted

    found = {name: values[option] for option, name in SETTINGS.items()}
    found["batch_size"] = found["batch_size"] or ROWS.get(learned.task, 16)
    found["patience"] = found["patience"] or PATIENCE
    if found["steps"] is None and learned.task != "matching":
        found["steps"] = PASSES * -(-learned.counts[0] // found["batch_size"])
    return {**found, "device": str(pick_device(values["device"])), "progress": counted}


def _facts(made: Any, learned: Any, values: dict[str, Any]) -> dict[str, Any]:
    """What was learned, as plain values, and as lines for people."""
    from diffeat.aggregation.trained import best_score
    from diffeat.noise import shown_t
    from diffeat.search.measure import Measure

    train, held, test = learned.counts
    score, weights = best_score(made), getattr(made, "weights_", {})
    lines = [f"{values['fit']} for {learned.task}: {train:,} training and {held:,} validation "
             f"{learned.what}, {test:,} of the test are not looked at"]  # fmt: skip
    if score is not None:
        unit = "" if score[0] == "r2" else "%"
        lines.append(f"  epoch {made.best_epoch_} of {made.n_epochs_}: validation {score[0]} "
                     f"{Measure(score[0], unit).say(score[1])}")  # fmt: skip
    first = sorted(weights.items(), key=lambda item: -item[1])[:3]
    if first:
        said = ", ".join(f"{b}{shown_t(t, ' t=')} {100 * w:.1f} %" for (b, t), w in first)
        lines.append(f"  most of {said}")
    found = {
        "fit": values["fit"], "task": learned.task, "counts": list(learned.counts),
        "epochs": made.n_epochs_, "best_epoch": made.best_epoch_,
        "validation": score and {"name": score[0], "value": score[1]},
        "weights": [{"block": b, "t": float(t), "weight": w} for (b, t), w in weights.items()],
        "lines": lines,
    }  # fmt: skip
    if values["save_path"]:
        found["saved"] = str(values["save_path"])
    return found


def _draw(made: Any, learned: Any, values: dict[str, Any]) -> None:
    """The pictures that were asked for."""
    from diffeat.aggregation.trained import weights_grid
    from diffeat.viz import heat_map, learning_curve

    title = f"{values['fit']}, {learned.task}"
    if path := values["weights_png"]:
        heat_map([weights_grid(made, title)], path, title="softmax weights of the cells")
    if path := values["history_png"]:
        learning_curve(made.history_, path, made.best_epoch_, title)
