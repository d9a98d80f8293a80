"""`diffeat view`."""

from __future__ import annotations

from pathlib import Path

import click

from diffeat.cli.options import cell_options, comma_list, feature_file, option
from diffeat.cli.outputs import PICTURES, OutputPath, command
from diffeat.errors import SourceError, StoreError


@command()
@feature_file
@option("-o", "--output", type=OutputPath(PICTURES, strict=True), default=Path("view.png"),
        show_default=True, help="The picture: .png, .jpg, .webp, .tif, .pdf or .svg.")  # fmt: skip
@option("-n", "--number", type=click.IntRange(1), default=4, show_default=True,
        help="How many pictures.")  # fmt: skip
@option("--ids", callback=comma_list, help="Which pictures, by id.")
@cell_options
@option("--pictures", help="Where the originals lie, if not where they were extracted from.")
def view(file: Path, output: Path, number: int, ids, timesteps, blocks, pictures) -> None:
    """Show feature maps of FILE as colours beside the originals.

    The first three principal components over all cells of the shown pictures become red,
    green and blue. FILE must hold maps (extracted without --pool).
    """
    from diffeat.store import FeatureStore
    from diffeat.viewer import view_maps

    with FeatureStore(file) as store:
        try:
            left_out = view_maps(store, output, ids or number, blocks, timesteps, pictures)
        except SourceError as error:
            raise StoreError(f"{error}. Say with --pictures where the originals lie") from error
    for block in left_out:
        click.echo(f"left out: {block} holds text tokens, which have no picture")
    click.echo(f"wrote {output}")
