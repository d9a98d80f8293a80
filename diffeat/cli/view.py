"""`diffeat view`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
    HEAD.safetensors, the learning curve is drawn, and the weights of what mixes its cells.
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
    """The learning curve of a kept head, and the weights of what mixes its cells."""
    import diffeat.companions  # noqa: F401 - before anything imports `probes`
    from diffeat.viz import learning_curve
    from probes import HeadError, load
    from probes.dense import DenseHead

    try:
        head = load(file, "cpu")
    except HeadError as error:
        raise StoreError(str(error)) from error
    history, weights = (getattr(head, name, None) for name in ("history_", "mixer_weights_"))
    dense = isinstance(head, DenseHead)
    if dense:
        _say(head, file)
    if history:
        learning_curve(history, output, getattr(head, "best_epoch_", None), file.name)
        click.echo(f"wrote {output}")
    elif not dense:
        raise StoreError(
            f"{file}: a {type(head).__name__} is not trained epoch by epoch, so it has no learning "
            "curve; give a feature file, or a head that is"
        )
    else:
        click.echo("it is not trained epoch by epoch, so there is no learning curve to draw")
    if weights:
        from diffeat.search.grid import Grid
        from diffeat.search.mixing import WEIGHT
        from diffeat.viz import heat_map

        beside = output.with_name(f"{output.stem}-weights{output.suffix}")
        heat_map([Grid(file.name, weights, WEIGHT, "softmax weight")], beside)
        click.echo(f"wrote {beside}: the weight of each cell in the mix")


def _say(head: Any, file: Path) -> None:
    """What a dense head is for, in a few lines."""
    from diffeat.search.kept import HeadNote
    from diffeat.search.tasks import cell_name

    names = [str(one) for one in getattr(head, "classes_", ())]
    what = f"{len(names)} classes: {', '.join(names[:8])}{', …' * (len(names) > 8)}"
    click.echo(f"{file.name}: {type(head).__name__}, {what if names else 'depth in metres'}")
    try:
        note = HeadNote.of(head.about_, file)
    except StoreError:  # kept by hand, without saying what its features are
        return
    click.echo(f"{note.model['name']}: {', '.join(map(cell_name, note.cells))}")
