"""`diffeat search --frequency` of pictures without labels: a guess is all there is."""

from __future__ import annotations

from pathlib import Path

import click
from click.core import ParameterSource

from diffeat.cli.options import print_json

SCORED = ("score", "penalties", "split", "seed", "repeats", "sets", "pairs", "halving", "bandit",
          "agent", "selectors", "mixer", "policy", "policy_sees", "policy_png", "out", "csv_path",
          "png_path", "html_path", "save_path", "test", "test_labels", "groups")  # fmt: skip
"""Options that need scores, hence labels."""


def check_guess(name: str) -> None:
    """UsageError, before anything is computed, for what needs scores; `name` has no labels."""
    context = click.get_current_context()
    given = [
        option.opts[0]
        for option in context.command.params
        if option.name in SCORED
        and context.get_parameter_source(option.name) is ParameterSource.COMMANDLINE
    ]
    if given:
        raise click.UsageError(
            f"{', '.join(given)}: {name} has no labels, so there are no scores, only the guess of "
            "--frequency"
        )


def print_guess(guess, what: str, spec, as_json: bool, spec_path: Path | None) -> None:
    """The guess alone, and its cell as a spec."""
    from diffeat.noise import shown_t
    from diffeat.search.best_spec import write_best_spec

    block, t = guess.best
    if as_json:
        print_json(guess.to_dict())
    else:
        click.echo(
            f"{what}: energy above {guess.cutoff:g} Nyquist in % of all, mean of "
            f"{guess.pictures} pictures; no labels, so nothing to compare it with"
        )
        click.echo(guess.table())
        click.echo(f"highest: {block}{shown_t(t, ' at t=')}")
    if spec_path:
        note = f"highest of {len(guess.ratios)} cells of {what} by high-frequency ratio, a guess"
        write_best_spec(spec_path, spec, [guess.best], [note])
