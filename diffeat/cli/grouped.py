"""A command whose help shows its options by what they are for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click


class Grouped(click.Command):
    """A command with headings among its options.

    Args:
        groups: heading → names of parameters, in the order of the help; what no group names stands
            at the end, under "Options".
    """

    def __init__(self, *args: Any, groups: Mapping[str, Sequence[str]], **values: Any):
        super().__init__(*args, **values)
        self.groups = groups

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        found = [one for one in self.get_params(ctx) if isinstance(one, click.Option)]
        records = {one.name: one.get_help_record(ctx) for one in found}
        for heading, names in self.groups.items():
            lines = [record for name in names if (record := records.pop(name, None))]
            if lines:
                with formatter.section(heading):
                    formatter.write_dl(lines)
        if rest := [record for record in records.values() if record]:
            with formatter.section("Options"):
                formatter.write_dl(rest)
