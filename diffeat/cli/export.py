"""`diffeat export`."""

from __future__ import annotations

from pathlib import Path

import click

from diffeat.cli.options import cell_options, feature_file, json_option, option, print_json
from diffeat.cli.outputs import OutputPath, command


@command()
@feature_file
@option("-o", "--output", required=True, type=OutputPath((".npz", ".zarr"), strict=True),
              help="NAME.npz, or NAME.zarr (a folder; Zarr format 3).")  # fmt: skip
@cell_options
@option("--keep-int8", is_flag=True,
              help="Give int8 features as int8 and scales, not as float32.")  # fmt: skip
@option("--overwrite", is_flag=True, help="Replace an existing output.")
@json_option
def export(file: Path, output: Path, timesteps, blocks, keep_int8, overwrite, as_json) -> None:
    """Write the features of FILE for other programs, as .npz or .zarr.

    The arrays are features/BLOCK/tT, ids, labels and class_names; spec, model and pictures are
    JSON: texts in .npz, attributes in .zarr. The output appears only when it is whole.
    """
    from diffeat.progress import track
    from diffeat.store import FeatureStore

    with FeatureStore(file) as store:
        steps = store.native(timesteps)
        store.export(
            output,
            blocks=blocks or None,
            timesteps=steps,
            keep_int8=keep_int8,
            overwrite=overwrite,
            progress=lambda items: track(items, desc="export", unit="arrays"),
        )
        arrays = len(blocks or store.blocks) * len(steps or store.timesteps)
        facts = {"path": str(output), "pictures": len(store), "features": arrays}
    if as_json:
        print_json(facts)
    else:
        click.echo(f"wrote {output}: {arrays} feature sets of {facts['pictures']} pictures")
