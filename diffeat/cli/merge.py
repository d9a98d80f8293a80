"""`diffeat merge`."""

from __future__ import annotations

from pathlib import Path

import click

from diffeat.cli.ending import resumable
from diffeat.cli.options import json_option, option, print_json
from diffeat.cli.outputs import OutputPath, command


@command()
@click.argument("file", type=OutputPath((".h5", ".hdf5")))
@click.argument("inputs", nargs=-1, type=click.Path(path_type=Path))
@option("--compression", type=click.Choice(["none", "lzf", "gzip", "zstd"]), default="none",
              show_default=True, help="Of the features in FILE.")  # fmt: skip
@option("--prefix", "prefixes", multiple=True, metavar="NAME", help="Once for each of INPUTS: its "
              "ids become NAME/id, so that train/0.png and test/0.png are told apart.")  # fmt: skip
@option("--overwrite", is_flag=True, help="Replace an existing FILE.")
@json_option
def merge(file: Path, inputs: tuple[Path, ...], compression: str, prefixes: tuple[str, ...],
          overwrite: bool, as_json: bool) -> None:  # fmt: skip
    """Finish FILE from its parts, or join INPUTS into FILE.

    \b
    diffeat merge features.h5              from features.h5.parts, without model and pictures
    diffeat merge all.h5 one.h5 two.h5     other pictures, or other blocks and t
    diffeat merge all.h5 a.h5 b.h5 --prefix train --prefix test    ids train/…, test/…
    diffeat merge small.h5 big.h5 --compression zstd

    Files that are joined come from one model and differ at most in blocks and t. Those of
    different pictures are put below each other, in the order given, and their class names are
    united; those of the same pictures side by side. FILE appears only when it is whole.
    """
    from diffeat.progress import track
    from diffeat.store import merge_files, merge_parts

    def shown(items):
        return track(items, desc="merge", unit="data sets" if inputs else "shards")

    if prefixes and len(prefixes) != len(inputs):
        raise click.UsageError(
            f"{len(prefixes)} --prefix for {len(inputs)} files; expected one for each, in order"
        )
    with resumable("what is merged is as it was; run the same command again"):
        if inputs:
            merge_files(inputs, file, compression, overwrite, shown, prefixes or None)
        else:
            merge_parts(file, compression, overwrite, shown)
    _tell(file, compression, as_json)


def _tell(file: Path, compression: str, as_json: bool) -> None:
    """What the finished file holds."""
    from diffeat.store import FeatureStore

    with FeatureStore(file) as store:
        facts = {
            "path": str(file),
            "pictures": len(store),
            "skipped": len(store.skipped),
            "blocks": store.blocks,
            "timesteps": store.timesteps,
            "compression": compression,
            "fingerprint": store.fingerprint,
        }
    if as_json:
        print_json(facts)
        return
    skipped = f", {facts['skipped']} skipped" if facts["skipped"] else ""
    click.echo(
        f"{file}: {facts['pictures']} pictures{skipped}, {len(facts['blocks'])} blocks at "
        f"{len(facts['timesteps'])} t"
    )
