"""`diffeat search --frequency`, `--free` of pictures without labels: a guess is all there is."""

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
    if context.params["free"] and context.params["spec_path"]:
        raise click.UsageError("--spec: several numbers choose several cells; take --frequency "
                               "alone, or write the spec by hand")  # fmt: skip
    if given:
        raise click.UsageError(
            f"{', '.join(given)}: {name} has no labels, so there are no scores, only the guess of "
            "--frequency, --free"
        )


def print_guess(guess, what: str, spec, as_json: bool, spec_path: Path | None) -> None:
    """The guess alone, and its cell as a spec."""
    from diffeat.noise import shown_t
    from diffeat.search.best_spec import write_best_spec

    if guess.key == "free":
        return _print_free(guess, what, as_json)
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


def _print_free(guess, what: str, as_json: bool) -> None:
    """Several numbers, each of which would choose its own cell."""
    if as_json:
        print_json(guess.numbers.to_dict())
        return
    click.echo(f"{what}: label-free numbers of {guess.numbers.pictures} pictures; no labels, so "
               "nothing to compare them with")  # fmt: skip
    click.echo("\n".join(guess.numbers.lines()))


def stored_guesses(values: dict, store, timesteps) -> list:
    """The guess that was asked for, of all pictures of a file; --free has --frequency in it."""
    from diffeat.progress import track
    from diffeat.search.frequency import frequency_guess
    from diffeat.search.label_free import FreeOptions, free_scores
    from diffeat.search.label_free.guess import FreeGuess
    from diffeat.search.stored import cells_of
    from diffeat.search.tasks import choose_cells

    cutoff, blocks = values["cutoff"], values["blocks"] or None
    if values["free"]:
        found = free_scores(
            store, None, None, FreeOptions(cutoff), blocks, timesteps,
            progress=lambda cells: track(cells, desc="free", unit="cells"),
        )  # fmt: skip
        return [FreeGuess(numbers=found)]
    cells = choose_cells(str(store.path), cells_of(store), blocks, timesteps)
    return [frequency_guess(store, track(cells, desc="frequency", unit="cells"), cutoff)]


def live_guesses(values: dict, backbone, source, spec, run: dict) -> list:
    """The guesses that were asked for, from maps that are kept nowhere."""
    from diffeat.search.label_free import FreeOptions, live_free_scores
    from diffeat.search.label_free.guess import FreeGuess
    from diffeat.search.live import live_frequency

    found = []
    if values["frequency"]:
        found.append(live_frequency(backbone, source, spec, values["cutoff"], **run))
    if values["free"]:
        options = FreeOptions(values["cutoff"])
        numbers = live_free_scores(backbone, source, spec, None, options, **run)
        found.append(FreeGuess(numbers=numbers))
    return found
