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
@option("--channel", type=click.IntRange(0), help="One channel of each map, from 0, in place of "
              "its principal components.")  # fmt: skip
@option("--smooth", is_flag=True, help="Interpolate maps between their cells.")
@option("--pictures", help="Where the originals lie, if not where they were extracted from.")
def view(
    file: Path, output: Path, number: int, ids, timesteps, blocks, pictures, channel, smooth
) -> None:
    """Show feature maps of FILE as colours on the pictures, or the learning curve of a head.

    A row per picture: as it is, as the network saw it, and each map where its cells lie in the
    picture. The first three principal components over all cells of the shown pictures become red,
    green and blue. FILE must hold maps (extracted without --pool). Of a trained head that was kept,
    HEAD.safetensors, the learning curve is drawn.
    """
    from diffeat.store import FeatureStore
    from diffeat.viewer import view_maps

    if file.suffix == ".safetensors":
        return _curve(file, output)
    with FeatureStore(file) as store:
        try:
            notes = view_maps(
                store, output, ids or number, blocks, timesteps, pictures, smooth, channel
            )
        except SourceError as error:
            raise StoreError(f"{error}. Say with --pictures where the originals lie") from error
    for note in notes:
        click.echo(note)
    click.echo(f"wrote {output}")


def _curve(file: Path, output: Path) -> None:
    """The learning curve of a kept head."""
    import diffeat.companions  # noqa: F401 - before anything imports `probes`
    from diffeat.viz import learning_curve
    from probes import HeadError, load

    try:
        head = load(file, "cpu")
    except HeadError as error:
        raise StoreError(str(error)) from error
    history = getattr(head, "history_", None)
    if not history:
        raise StoreError(
            f"{file}: a {type(head).__name__} is not trained epoch by epoch, so it has no learning "
            "curve; give a feature file, or a head that is"
        )
    learning_curve(history, output, getattr(head, "best_epoch_", None), file.name)
    click.echo(f"wrote {output}")
