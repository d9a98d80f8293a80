"""What a run of geometry prints and the report shows, from the JSON alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.published import Notes
from benchmarks.sections import Beside, Picture, Section, Table, Text, padded_lines
from benchmarks.tasks.classification.tables import percent
from benchmarks.tasks.matching.tables import cells_text, heat

READ_OUT = {
    "depth": (
        "All rows with features are read out in one way: the pixel whose feature, interpolated to "
        "the picture's own size, has the largest cosine with that of the point. A point is found "
        "if it lies within a share of the larger side of its true place, which follows from depth "
        "and poses; intervals draw the frames anew, and say nothing of other rooms."
    ),
    "flow": (
        "Every {stride}th pixel of the source is matched along x and y, by all rows with features "
        "in one way: the pixel whose feature, interpolated to the picture's own size, has the "
        "largest cosine; displacements are interpolated between. A pixel of the object is right "
        "within a share of the larger side of the target; both directions of a pair count, the "
        "mean is over them, and intervals draw pairs of pictures anew."
    ),
    "homography": (
        "All rows have the same key points (SIFT's, at most {key_points:,} of a picture); matches "
        "are those that are each other's nearest by the cosine of features at them; OpenCV fits a "
        "homography by RANSAC at 3 px. A pair is right if the mean distance of the four corners is "
        "within the limit; where no homography is found it is wrong. Intervals draw scenes anew."
    ),
}
SIFT_OF_SURFACES = (
    "SIFT's own key points say nothing of most points: each of them goes along with the mutual "
    "match that is nearest to it in the source. Dense rows have SIFT's descriptors, upright and of "
    "one scale, at the points themselves, matched with those of every fourth pixel of the target."
)


def summary(result: dict[str, Any]) -> str:
    """The grid of every surface, then the table."""
    from benchmarks.searching import surface_text

    lines = []
    for stored in result["surfaces"]:
        what = f"{stored['measure']['name']} on the pairs that choose, in %"
        lines += ["", f"{stored['name']}: {what}", "", surface_text(stored)]
    for table in _tables(result, Notes(())):
        lines += ["", table.text, *padded_lines(table)]
    return "\n".join(lines)


def set_up(result: dict[str, Any]) -> str:
    """Pairs, protocol and cost in a few sentences."""
    machine, chosen, about = result["environment"], result["chosen_on"], result["pairs"]
    of = {"depth": "frames", "flow": "folders"}.get(result["kind"], "scenes")
    text = f"{about['pairs']:,} pairs of {about['groups']:,} {of} ({about['name']}). "
    if "angles" in about:
        low, middle, high = about["angles"]
        text += (f"The angle between the optical axes is {low:.0f} to {high:.0f}°, half of them "
                 f"below {middle:.0f}°. ")  # fmt: skip
    if chosen:
        text += (f"Block and t chosen by {chosen['pairs']:,} pairs of {chosen['groups']:,} other "
                 f"{of}. ")  # fmt: skip
    text += READ_OUT[result["kind"]].format(**result["benchmark"])
    told = sorted({row["told"] for row in result["rows"] if row.get("told")})
    text += "".join(f" The model was told: {one}." for one in told)
    return (f"{text} {result['seconds']:.0f} s on {machine['cores']} cores "
            f"({machine['processor']}).")  # fmt: skip


def sections(result: dict[str, Any]) -> Iterator[Section]:
    """The tables, the surfaces, papers."""
    notes = Notes(result["benchmark"]["published"])
    yield from _tables(result, notes)
    if result["kind"] != "homography" and any(row["kind"] == "sift" for row in result["rows"]):
        yield Text(SIFT_OF_SURFACES)
    yield Beside([heat(stored, result, stored["measure"]["name"]) for stored in result["surfaces"]])
    yield Picture("validation by block and t")
    yield from notes.ending(result)


def _tables(result: dict[str, Any], notes: Notes) -> Iterator[Table]:
    if result["kind"] == "depth":
        yield _recall_table(result, notes)
        yield _angle_table(result)
    elif result["kind"] == "flow":
        yield _flow_table(result, notes)
    else:
        yield _corner_table(result, notes)


def _recall_table(result: dict[str, Any], notes: Notes) -> Table:
    shares = sorted(result["benchmark"]["shares"])
    rows = []
    for row in result["rows"]:
        values = {one["share"]: one for one in row["scores"]["shares"]}
        rows.append([*_head(row, result), *(_value(values[share]) for share in shares)])
    heading = [*_heading(result), *(f"within {100 * share:g} % of the side" for share in shares)]
    return _with_papers(heading, rows, result, notes, "Recall of true correspondences, %:")


def _flow_table(result: dict[str, Any], notes: Notes) -> Table:
    """Shares of all pairs and of each part, at every share; smoothness."""
    shares = result["benchmark"]["shares"]
    parts = sorted({part for row in result["rows"] for part in row["scores"]["parts"]})
    heading = [*_heading(result), *(f"within {100 * share:g} % of the side" for share in shares),
               *(f"{part} {100 * share:g} %" for part in parts for share in shares),
               "smoothness"]  # fmt: skip
    rows = []
    for row in result["rows"]:
        scores = row["scores"]
        line = [_value(one) for one in scores["shares"]] or [""] * len(shares)
        for part in parts:
            line += list(map(percent, scores["parts"].get(part, []))) or [""] * len(shares)
        rows.append([*_head(row, result), *line, f"{scores['smoothness']:.3g}"])
    text = (
        "Share of the object's pixels whose flow is right, %, and how much the flow changes from "
        "pixel to pixel on the object (lower is smoother; compare with the truth's):"
    )
    return _with_papers(heading, rows, result, notes, text)


def _angle_table(result: dict[str, Any]) -> Table:
    """Recall at the share that chooses, by the angle between the viewpoints."""
    share = result["benchmark"]["shares"][0]
    bins = next(row["scores"]["bins"] for row in result["rows"] if row["scores"]["bins"])
    heading = ["features", *(f"{one['from']:g} to {one['to']:g}°" for one in bins)]
    rows = [[row["label"], *(percent(one["values"][0]) for one in row["scores"]["bins"])]
            for row in result["rows"] if row["scores"]["bins"]]  # fmt: skip
    text = f"Recall within {100 * share:g} % of the side, by the angle of the optical axes, %:"
    return Table(heading, rows, text, "By viewpoint")


def _corner_table(result: dict[str, Any], notes: Notes) -> Table:
    limits = result["benchmark"]["limits"]
    within = result["benchmark"]["chooses_within"]
    heading = [*_heading(result), *(f"≤ {limit:g} px" for limit in limits),
               *(f"≤ {limit:g} %" for limit in limits), "none found", "matches",
               "right ≤ 3 px, %", f"right ≤ {within:g} %, %"]  # fmt: skip
    rows = []
    for row in result["rows"]:
        scores = row["scores"]
        line = [str(one["right"]) for unit in ("pixels", "percent") for one in scores[unit]]
        line.append(str(scores["failures"]))
        known = "matches" in scores
        line.append(f"{scores['matches']:.0f}" if known else "")
        line += [percent(scores[name]) if known else "" for name in ("right", "right_percent")]
        rows.append([*_head(row, result), *line])
    text = (f"Of {result['pairs']['pairs']} pairs, how many have their corners found within "
            "pixels, and within per cent of the target's larger side; the median of mutual matches "
            "of a pair, and the mean share of them that are right:")  # fmt: skip
    return _with_papers(heading, rows, result, notes, text)


def _with_papers(
    heading: list[str], rows: list[list[str]], result: dict[str, Any], notes: Notes, text: str
) -> Table:
    """With the figures of papers beside and below, where there are any."""
    beside = [notes.beside(row.get("published") or row["label"]) for row in result["rows"]]
    others = notes.rows()
    if any(beside) or others:
        rows = [[*row, figure] for row, figure in zip(rows, beside, strict=True)]
        rows += [[f"*{what}*", *[""] * (len(heading) - 1), figure] for what, figure in others]
        heading = [*heading, "paper %"]
    return Table(heading, rows, text)


def _heading(result: dict[str, Any]) -> list[str]:
    return ["features", "block and t", *(["chosen at %"] if result["chosen_on"] else [])]


def _head(row: dict[str, Any], result: dict[str, Any]) -> list[str]:
    cell = cells_text([row["cell"]]) if row["cell"] else ""
    if row["kind"] == "vision":  # which has no t
        cell = row["cell"][0]
    selected = "" if row["selected"] is None else percent(row["selected"])
    return [row["label"], cell, *([selected] if result["chosen_on"] else [])]


def _value(one: dict[str, Any]) -> str:
    text = percent(one["value"])
    return f"{text} ({percent(one['low'])} to {percent(one['high'])})" if "low" in one else text
