"""Options of `diffeat search --policy`, and what the policy looks at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from diffeat.cli.ending import note
from diffeat.cli.options import option
from diffeat.cli.outputs import PICTURES, OutputPath
from diffeat.errors import PictureError, SourceError, StoreError

if TYPE_CHECKING:
    from diffeat.search import Judge, SearchOptions, SearchReport, Seen

SEES = ("pictures", "features")
"""What a policy may look at."""


def policy_options(function: Any) -> Any:
    """--policy, --policy-sees and --policy-png."""
    for add in (
        option("--policy-png", type=OutputPath(PICTURES, strict=True), help="--policy: draw how "
               "it learnt, and which t it chooses for which class."),
        option("--policy-sees", type=click.Choice(SEES), help="--policy: thumbnails of the "
               "pictures (no forward), or the features of the smallest t (one more); default: "
               "pictures where they are found."),
        option("--policy", is_flag=True, help="Also an agent that looks at each picture and "
               "chooses its t, against the best fixed t, a random t and an oracle."),
    ):  # fmt: skip
        function = add(function)
    return function


def check_policy_options(values: dict[str, Any]) -> None:
    """UsageError for what only --policy means something to."""
    for name in ("policy_sees", "policy_png"):
        if values[name] and not values["policy"]:
            raise click.UsageError(f"--{name.replace('_', '-')} is of --policy, which is not given")


def with_seen(
    options: SearchOptions, judge: Judge, files: Sequence[str | None], values: dict[str, Any]
) -> SearchOptions:
    """With what a policy looks at, if one is asked for; SpecError where there can be none.

    Args:
        files: feature files, where features were not computed now.
        values: of the command; `sources` are the pictures of features that were.
    """
    from diffeat.search.policy import check_policy

    if not options.policy:
        return options
    check_policy(judge)  # before pictures are read
    files = [file for file in files if file]
    return replace(options, seen=_seen(files, values.get("sources"), values["policy_sees"]))


def _seen(files: Sequence[str], sources: Sequence[Any] | None, wanted: str | None) -> Seen | None:
    """Thumbnails of all rows, or None for features.

    Args:
        files: feature files whose pictures are looked for, if there are no `sources`.
        wanted: of `SEES`; None takes pictures where they are found, and says where they are not.

    Raises:
        SourceError, StoreError, PictureError: the pictures that were asked for are not there.
    """
    from diffeat.search import Seen, thumbnails
    from diffeat.store import FeatureStore, find_originals

    if wanted == "features":
        return None
    try:
        if sources is None:
            sources = []
            for file in files:
                with FeatureStore(file) as store:
                    source, places = find_originals(store, store.ids)
                sources.append(source.take(places))
        return Seen(thumbnails(sources), "pictures of 32×32")
    except (SourceError, StoreError, PictureError) as error:
        if wanted:
            raise
        note(f"the policy sees features: {error}")
        return None


def write_policy(report: SearchReport, judge: Judge, path: Path | None) -> None:
    """The picture of --policy-png."""
    from diffeat.viz.policy import policy_picture

    if path is None:
        return
    found = report.findings["policy"]
    title = f"{judge.source}: a t of {found.block} per picture"
    policy_picture(
        found.history, found.epoch, found.chosen, found.names, found.timesteps, path, found.fixed,
        found.what, title,
    )  # fmt: skip
