"""What stands beside the score of what was chosen: what a constant scores, and further numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffeat.search.finding import Choice, cell_text
from diffeat.search.judge import Judge, cells_in
from diffeat.search.measure import short


def beside(judge: Judge, choice: Choice) -> dict[str, Any]:
    """Plain values: "floor" with its "of", "aside", and "aside_of" where several cells were
    chosen, each where there is any.

    What is aside is learnt once more, so it is left out where the features of one t drive out
    those of another.
    """
    found: dict[str, Any] = {}
    if (floor := judge.floor) is not None:
        found["floor"] = {"value": floor[0], "of": floor[1]}
    if choice.test is not None and len(judge.together) < 2:
        found["aside"] = judge.aside(choice.candidate, choice.setting)
        cells = cells_in(choice.candidate)  # several are not the best cell, which is said above
        if found["aside"] and len(cells) > 1:
            found["aside_of"] = " + ".join(map(cell_text, cells))
    return {name: values for name, values in found.items() if values}


def beside_lines(judge: Judge, found: Mapping[str, Any]) -> list[str]:
    """The same for people."""
    lines = []
    if aside := found.get("aside"):
        text = ", ".join(f"{name} {short(value)}" for name, value in aside.items())
        of = f" of {found['aside_of']}" if "aside_of" in found else ""
        lines.append(f"on test also{of}: {text}")
    if floor := found.get("floor"):
        said = judge.number.say(floor["value"])
        lines.append(f"a constant ({floor['of']}): {judge.name} {said} on test")
    return lines
