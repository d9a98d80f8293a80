"""The table of a run of the fault tests."""

from __future__ import annotations

from typing import Any


def markdown(result: dict[str, Any]) -> str:
    """What was done, what it cost, and whether the end was the same; from the JSON alone."""
    machine, whole = result["environment"], result["reference"]
    lines = [
        f"{whole['pictures']} pictures, {whole['bytes'] / 2**20:.0f} MiB of features; seed "
        f"{result['seed']}; {machine['cores']} cores ({machine['processor']}). Full disk: "
        f"{result['disk']}. Equal: ids, labels and every data set bit for bit those of an "
        f"undisturbed run, sha256 {whole['sha256'][:16]}….",
        "",
        "| scenario | what was done | runs needed | pictures computed again | equal |",
        "|---|---|---|---|---|",
    ]
    for one in result["scenarios"]:
        again = "–" if one["again"] is None else one["again"]
        lines.append(
            f"| {one['name']} | {one['did']} | {one['runs']} | {again} | "
            f"{'yes' if one['equal'] else 'NO'} |"
        )
    bad = sum(not one["equal"] for one in result["scenarios"])
    lines += ["", f"{len(result['scenarios'])} scenarios, {bad} of them unequal; "
              f"{result['seconds']:.0f} s."]  # fmt: skip
    return "\n".join(lines)
