"""What a run of segmentation or depth prints and the report shows, from the JSON alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.published import Notes
from benchmarks.sections import Beside, Heat, Picture, Section, Table, Text, padded_lines
from benchmarks.tasks.matching.tables import cells_text
from diffeat.noise import format_t

POLICIES = {
    "standard": "a class that neither truth nor prediction has is left out, ignored pixels do not "
    "count",
    "ddpm-seg": "a class that neither truth nor prediction has counts 0, predictions on ignored "
    "pixels are false (DDPM-Seg's code)",
}
FLOORS = ("floor", "pixels", "twin", "vision")
KINDS = {"floor": "floor", "pixels": "pixels", "twin": "random weights", "vision": "vision model"}


def summary(result: dict[str, Any]) -> str:
    """The grid of every surface, then all tables."""
    from benchmarks.searching import surface_text

    lines = []
    for stored in result["surfaces"]:
        what = f"{_first(result)} on the pictures that choose{_unit(result)}"
        lines += ["", f"{stored['name']}: {what}", "", surface_text(stored)]  # fmt: skip
    for section in sections(result):
        if isinstance(section, Table):
            # papers' figures in rows of their own come below the tables of a run
            own = [row for row in section.rows if not row[0].startswith("*")]
            lines += ["", section.text, "", *padded_lines(Table(section.heading, own))]
    return "\n".join(lines)


def set_up(result: dict[str, Any]) -> str:
    """Pictures, protocol and cost in a few sentences."""
    one, machine, sets = result["benchmark"], result["environment"], result["sets"]
    train, test = sets["train"], sets["test"]
    frame = "×".join(map(str, sets["frame"])) or "each picture's own size"
    told = sorted({about["told"] for about in result["about"].values() if about.get("told")})
    parts = [
        f"{train['pictures']:,} training pictures of {train['groups']:,} groups "
        f"({train['name']}), {test['pictures']:,} test pictures of {test['groups']:,} groups "
        f"({test['name']}); trained and scored at {frame}, truth moved by nearest.",
        f"{sum(sets['apart'].values()):,} further training pictures are of groups that test has "
        f"({', '.join(sets['apart'])}), and are left out."
        if sets["apart"] else "",
        "Labelled pictures are drawn in orders that show every class early; those of fewer labels "
        "are among those of more. Settings are chosen within the labelled pictures, block and t by "
        f"{one['chooser']} on {min(one['select'], train['pictures'])} training pictures, some of "
        "which choose; test is scored once.",
        f"{_measure_text(result)} Means over draws of labels, with 95 % intervals, draws and "
        f"{result['drawn']} of test drawn anew.",
        *(f"The model was told: {text}." for text in told),
        f"{result['seconds']:.0f} s on {machine['cores']} cores ({machine['processor']}).",
    ]  # fmt: skip
    return " ".join(part for part in parts if part)


def _measure_text(result: dict[str, Any]) -> str:
    one = result["benchmark"]
    if result["kind"] == "masks":
        return (f"mIoU of {len(result['sets']['classes'])} classes, over sums of all test "
                f"pictures: {POLICIES[one['policy']]}.")  # fmt: skip
    cap = f"below {one['cap']:g} m" if one["cap"] else "without a cap"
    aligned = f"aligned by {one['align']}, with the truth" if one["align"] else "not aligned"
    crop = f"crop {one['crop']}" if one["crop"] else "whole pictures"
    return f"Errors of each picture, then their mean: true depth {cap}, {crop}, {aligned}."


def sections(result: dict[str, Any]) -> Iterator[Section]:
    """By labels, what the leading row gains, all measures, uncertainty, cells, papers."""
    notes = Notes(result["benchmark"]["published"])
    yield _label_table(result, notes)
    yield _gains_table(result)
    for line in plain_lines(result):
        yield Text(line)
    yield _measures_table(result)
    if table := _uncertainty_table(result):
        yield table
    yield Beside([_heat(stored, result) for stored in result["surfaces"]])
    yield Picture(f"{_first(result)} on the pictures that choose, by block and t")
    yield from notes.ending(result)


def _counts(result: dict[str, Any]) -> list[int]:
    return sorted({score["labels"] for row in result["rows"] for score in row["scores"]})


def _of(row: dict[str, Any], labels: int) -> dict[str, Any] | None:
    return next((one for one in row["scores"] if one["labels"] == labels), None)


def _label_table(result: dict[str, Any], notes: Notes) -> Table:
    """The first number by labelled pictures."""
    counts = _counts(result)
    heading = ["system", "block and t", *(_labels(count) for count in counts)]
    rows = []
    for row in result["rows"]:
        line = [row["label"], _cells(row)]
        for count in counts:
            score = _of(row, count)
            line.append("" if score is None else _value(result, score["numbers"][0], 0))
        rows.append([*line, notes.beside(row["published"])])
    heading, rows = notes.column(heading, rows, "paper")
    test = result["sets"]["test"]
    text = f"{_first(result)}{_unit(result)} on {test['name']}, by labelled pictures:"
    return Table(heading, rows, text, f"{_first(result)} by labels")


def _labels(count: int) -> str:
    return f"{count:,} label{'s' * (count != 1)}"


def _gains_table(result: dict[str, Any]) -> Table:
    """By how much the leading row is better than every other one, on the same draws."""
    counts, lead = _counts(result), _lead(result)
    rows = []
    for row in result["rows"]:
        if row["label"] == lead:
            continue
        line = [row["label"], KINDS.get(row["kind"], "")]
        for count in counts:
            score = _of(row, count)
            gain = None if score is None else score.get("lead_gains")
            line.append("" if gain is None else f"{_signed(result, gain)} {_verdict(result, gain)}")
        rows.append(line)
    text = (f"{lead}, {_first(result)}{_unit(result)} minus that of other rows, on the same draws "
            f"of labels and of test{'; below 0 is better' * _falls(result)}:")  # fmt: skip
    return Table(["against", "", *map(_labels, counts)], rows, text, f"What {lead} gains")


def plain_lines(result: dict[str, Any]) -> Iterator[str]:
    """Which rows without diffusion features the leading one is above, at the most labels."""
    lead, most = _lead(result), _counts(result)[-1]
    sides: dict[str, list[str]] = {"better than": [], "worse than": [], "no different from": []}
    for row in result["rows"]:
        score = _of(row, most)
        if row["kind"] in FLOORS and score is not None and "lead_gains" in score:
            word = _verdict(result, score["lead_gains"])
            side = {"better": "better than", "worse": "worse than"}.get(word, "no different from")
            sides[side].append(row["label"])
    said = [f"{side} {', '.join(labels)}" for side, labels in sides.items() if labels]
    if said:
        yield (f"With {_labels(most)}, by the interval of the difference, {lead} is "
               f"{'; '.join(said)}.")  # fmt: skip


def _measures_table(result: dict[str, Any]) -> Table:
    """All numbers at each row's most labels."""
    masks = result["kind"] == "masks"
    policy = result["benchmark"]["policy"]
    heading = ["system", "labels", *result["measures"]]
    if masks:
        other = "ddpm-seg" if policy == "standard" else "standard"
        heading += [f"mIoU, {other} policy", "boundary F"]
    heading += ["sd of draws", "s to fit"]
    rows = []
    for row in result["rows"]:
        if not row["scores"]:
            continue
        score = row["scores"][-1]
        line = [row["label"], f"{score['labels']:,}"]
        line += [_value(result, one, place, interval=False)
                 for place, one in enumerate(score["numbers"])]  # fmt: skip
        if masks:
            edge = score["boundary"]
            line += [_number(result, score["other_policy"], 0),
                     "" if edge is None else _number(result, edge, 0)]  # fmt: skip
        spread = score["spread"]
        line.append("" if spread is None else _number(result, spread[0], 0))
        line.append(f"{sum(one[0] for one in score['seconds']) / len(score['seconds']):.1f}")
        rows.append(line)
    how = " (contours within .008 of the diagonal)" if masks else ""
    return Table(heading, rows, f"All numbers at the most labels of each row{_unit(result)}{how}:",
                 "All numbers")  # fmt: skip


def _uncertainty_table(result: dict[str, Any]) -> Table | None:
    """Area under risk-coverage in three orders of the same pixels with the same errors."""
    rows = []
    for row in result["rows"]:
        told = row["scores"][-1]["uncertainty"] if row["scores"] else None
        if not told:
            continue
        ends = told.get("gain_ends")
        line = [row["label"], *(f"{100 * told[name]:.2f}" for name in ("aurc", "random", "oracle"))]
        line.append("" if ends is None else _ends(ends, 2))
        line.append(f"{100 * told['single']:.2f}" if "single" in told else "")
        against = told.get("against_single")
        line.append("" if against is None else _ends(against, 100, 2, "+"))
        line.append("" if "ranks" not in told else _ends(told["ranks"], 2))
        rows.append(line)
    if not rows:
        return None
    heading = ["system", "its uncertainty %", "random order %", "best order %", "gain",
               "one member's 1 − max softmax %", "difference",
               "rank correlation with a picture's mIoU"]  # fmt: skip
    text = ("Area under the risk-coverage curve (mean share of errors among the surest pixels; "
            "lower is better); the gain is 0 of a random order and 1 of the best:")  # fmt: skip
    return Table(heading, rows, text, "Uncertainty")


def _ends(one: dict[str, float], *digits: int | str) -> str:
    """ "0.61 (0.55 to 0.66)"; `digits` may begin with a factor and end with a sign."""
    factor, places, sign = (*digits, "")[:3] if len(digits) > 1 else (1, digits[0], "")
    value, low, high = (f"{factor * one[name]:{sign}.{places}f}" for name in
                        ("value", "low", "high"))  # fmt: skip
    return f"{value} ({low} to {high})"


def _lead(result: dict[str, Any]) -> str:
    one = result["benchmark"]
    return one["lead"] or one["systems"][0]["name"]


def _first(result: dict[str, Any]) -> str:
    return result["measures"][0]


def _falls(result: dict[str, Any]) -> bool:
    """Whether less is better."""
    return result["kind"] == "depth"


def _unit(result: dict[str, Any]) -> str:
    return ", in %" if result["kind"] == "masks" else ""


def _verdict(result: dict[str, Any], gain: dict[str, float]) -> str:
    low, high = (gain["low"], gain["high"]) if not _falls(result) else (
        -gain["high"], -gain["low"])  # fmt: skip
    return "better" if low > 0 else "worse" if high < 0 else "neither"


def _number(result: dict[str, Any], value: float, place: int) -> str:
    return f"{100 * value:.1f}" if result["kind"] == "masks" else f"{value:.3f}"


def _value(result: dict[str, Any], one: dict[str, Any], place: int, interval: bool = True) -> str:
    text = _number(result, one["value"], place)
    if interval:
        ends = (_number(result, one[name], place) for name in ("low", "high"))
        text += f" ({' to '.join(ends)})"
    return text


def _signed(result: dict[str, Any], gain: dict[str, float]) -> str:
    factor, digits = (100, 1) if result["kind"] == "masks" else (1, 3)
    return _ends(gain, factor, digits, "+")


def _cells(row: dict[str, Any]) -> str:
    """What was looked at."""
    if row["kind"] == "floor" or row["kind"] == "pixels":
        return ""
    if row["kind"] == "vision":  # which has no t
        return " + ".join(block for block, _ in row["cells"])
    return cells_text(row["cells"])


def _heat(stored: dict[str, Any], result: dict[str, Any]) -> Heat:
    """The surface of one row; all of a result share a scale."""
    factor = 1 if _falls(result) else 100
    values = [factor * cell["validation"] for one in result["surfaces"] for cell in one["cells"]]
    best = stored["best"]
    return Heat(
        f"{stored['name']}: {_first(result)} on the pictures that choose{_unit(result)}",
        {_place(cell): factor * cell["validation"] for cell in stored["cells"]},
        _place(best), min(values), max(values),
    )  # fmt: skip


def _place(cell: dict[str, Any]) -> tuple[str, str]:
    return cell["block"], f"t={format_t(cell['t'])}"
