"""What a report is made of, apart from how it is written: tables, texts, heat maps, curves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """A heading and rows of text; `title` and `text` stand above, the title on web pages alone."""

    heading: Sequence[str]
    rows: Sequence[Sequence[str]]
    text: str = ""
    title: str = ""


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Picture:
    """The PNG beside the result, if there is one; web pages have heat maps instead."""

    about: str


@dataclass(frozen=True)
class Heat:
    """A heat map of numbers, for web pages.

    Attributes:
        title: what is shown, with its unit.
        values: (row, column) → number, in table order.
        best: (row, column) that is framed.
        low, high: ends of the colour scale, which maps may share.
    """

    title: str
    values: Mapping[tuple[str, str], float]
    best: tuple[str, str]
    low: float
    high: float


@dataclass(frozen=True)
class Curve:
    """A number by epoch, for web pages.

    Attributes:
        title, what: whose curve, of what.
        values: one per epoch.
        best: the epoch that is marked, counted from 1.
        shown: how the highest and the lowest value are written.
    """

    title: str
    what: str
    values: Sequence[float]
    best: int
    shown: tuple[str, str]


@dataclass(frozen=True)
class Beside:
    """Heat maps or curves side by side."""

    parts: Sequence[Heat | Curve]


Section = Table | Text | Picture | Beside


def printed(sections: Iterable[Section], texts: bool = False) -> list[str]:
    """Lines of the tables, each below its text; and of the paragraphs, if they are wanted."""
    lines = []
    for section in sections:
        if isinstance(section, Table):
            lines += ["", section.text, "", *padded_lines(section)]
        elif texts and isinstance(section, Text):
            lines += ["", section.text]
    return lines


def table_lines(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    lines = [f"| {' | '.join(heading)} |", f"|{'|'.join('---' for _ in heading)}|"]
    return lines + [f"| {' | '.join(row)} |" for row in rows]


def padded_lines(table: Table) -> list[str]:
    """Lines of a table whose columns stand under each other, for a terminal."""
    rows = [list(table.heading), *map(list, table.rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
            for row in rows]  # fmt: skip


def markdown_lines(section: Section, picture: str | None) -> list[str]:
    """A section as Markdown, an empty line before it; none for what only web pages have.

    Args:
        picture: name of the PNG beside the result, if there is one.
    """
    match section:
        case Table(heading, rows, text):
            return [*(["", text] if text else []), "", *table_lines(heading, rows)]
        case Text(text):
            return ["", text]
        case Picture(about) if picture:
            return ["", f"![{about}]({picture})"]
    return []
