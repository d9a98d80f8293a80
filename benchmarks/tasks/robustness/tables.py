"""What a run of robustness prints and the report shows, from the JSON alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.published import Notes
from benchmarks.sections import Picture, Section, Table, printed
from benchmarks.tasks.matching.tables import cells_text


def summary(result: dict[str, Any]) -> str:
    """All tables."""
    return "\n".join(printed(sections(result)))


def set_up(result: dict[str, Any]) -> str:
    """Pictures, protocol and cost in a few sentences."""
    one, machine, counts = result["benchmark"], result["environment"], result["counts"]
    return (
        f"{counts[0]:,} training and {counts[1]:,} validation pictures ({one['train']}), "
        f"{counts[2]:,} test pictures ({one['test']}). Linear probes on clean pictures; penalty, "
        "and at each t the block, by clean validation pictures; then tested on the same test "
        "pictures, clean and made worse before anything else (names and strengths of ImageNet-C; "
        "after \"cifar:\" those of CIFAR-10-C). 95 % intervals, test pictures drawn anew. "
        f"{result['seconds']:.0f} s on {machine['cores']} cores ({machine['processor']})."
    )  # fmt: skip


def sections(result: dict[str, Any]) -> Iterator[Section]:
    """Accuracy by corruption, what is lost, what the first row gains."""
    notes = Notes(result["benchmark"]["published"])
    tests = [score["test"] for score in result["rows"][0]["scores"]]
    yield Table(["features", "block and t", *map(_shown, tests)],
                [[row["label"], _cell(row), *(f"{100 * score['value']:.1f}"
                                              for score in row["scores"])]
                 for row in result["rows"]],
                "Test accuracy in %, trained on clean pictures:", "Accuracy")  # fmt: skip
    yield Table(["features", *map(_shown, tests[1:])],
                [[row["label"], *(f"{100 * (row['scores'][0]['value'] - score['value']):.1f}"
                                  for score in row["scores"][1:])] for row in result["rows"]],
                "Points of accuracy lost to each corruption:", "Lost")  # fmt: skip
    yield Table(["against", *(_shown(name) for name in (tests[0], tests[-1]))],
                [[row["label"], *(_gain(row["scores"][k]["lead_gains"]) for k in (0, -1))]
                 for row in result["rows"] if row["label"] != result["lead"]],
                f"{result['lead']} minus other rows, points of accuracy on the same test pictures:",
                "What the first row gains")  # fmt: skip
    yield Picture("Validation accuracy on clean pictures, by block and t")
    yield from notes.ending(result)


def _shown(name: str) -> str:
    return "mean of all corruptions" if name == "mean" else name


def _cell(row: dict[str, Any]) -> str:
    if row["kind"] in ("vision", "pixels"):
        return row["cell"][0]
    return cells_text([row["cell"]])


def _gain(one: dict[str, float]) -> str:
    value, low, high = (f"{100 * one[key]:+.1f}" for key in ("value", "low", "high"))
    word = "better" if one["low"] > 0 else "worse" if one["high"] < 0 else "neither"
    return f"{value} ({low} to {high}) {word}"
