"""`diffeat info`."""

from __future__ import annotations

import math
from pathlib import Path

import click

from diffeat.cli.options import feature_file, json_option, print_json
from diffeat.cli.outputs import command
from diffeat.cli.progress import NOT_PLACED, is_unfinished, show_progress


@command()
@feature_file
@json_option
def info(file: Path, as_json: bool) -> None:
    """Show what a feature FILE holds and how it was made.

    Where only FILE.parts is there, show how far the extraction is.
    """
    if is_unfinished(file):
        show_progress(file, as_json, thorough=False)
        return

    facts = _facts(file)
    if as_json:
        print_json(facts)
        return
    from diffeat.cells import spec_text

    model, pictures = facts["model"], facts["pictures"]
    click.echo(f"{file}: {len(facts['features'])} feature sets of {pictures['rows']} pictures")
    click.echo(f"  pictures  {pictures['name']}, {len(pictures['classes'])} classes")
    for name, text in facts["targets"].items():
        click.echo(f"  target    {name}: {text}")
    if prefixes := pictures.get("prefixes"):
        click.echo(f"  ids       begin with {'/, '.join(prefixes)}/, put there by merge, after "
                   "the noise was seeded")  # fmt: skip
    changes = "".join(f" with {change}" for change in model.get("changes", ()))
    click.echo(f"  model     {model['name']} ({model['family']}, {model['dtype']}){changes}")
    click.echo(f"  spec      {spec_text(facts['spec'])}")
    how = facts["how"]
    made = {name: value for name, value in how.items() if not isinstance(value, (list, dict))}
    if made:
        click.echo("  made by   " + ", ".join(f"{k}={v}" for k, v in made.items()))
    for one in how.get("of", ()):
        click.echo(f"  made of   {one['file']} ({one['fingerprint'][:12]}): {one['cells']}")
    for later in how.get("added", ()):
        other = {k: v for k, v in later.items() if made.get(k) != v and k != "pictures"}
        by = "".join(f", {k}={v}" for k, v in other.items())
        click.echo(f"  added     {later['pictures']} pictures later{by}")
    click.echo(f"  stored    compression={facts['compression']}")
    if not facts["placements"]:
        click.echo(f"  placed    {NOT_PLACED}")
    for name, reason in list(facts["skipped"].items())[:10]:
        click.echo(f"  skipped   {name}: {reason}")
    for asked in facts["asked"].values():
        click.echo(f"  asked     {asked}")
    _tell_cells(facts["features"])


def _facts(file: Path) -> dict:
    """What the file says, as plain values."""
    from diffeat.cells import asked_text
    from diffeat.images.found import column_text
    from diffeat.noise import format_t
    from diffeat.store import FeatureStore

    shown = ("alpha", "sigma", "log_snr", "stride")
    with FeatureStore(file) as store:
        cells = [
            {"block": block, "t": t, "shape": list(store[block, t].shape),
             "dtype": store.stored_dtype(block, t),
             **{name: _finite(store[block, t].attrs[name]) for name in shown}}
            for block in store.blocks for t in store.timesteps
        ]  # fmt: skip
        return {
            "file": str(file),
            "pictures": {**store.pictures, "rows": len(store), "classes": store.class_names},
            "targets": {
                name: column_text(one.kind, one.names, one.values)
                for name, one in ((name, store.targets[name]) for name in store.targets)
            },
            "model": store.model,
            "spec": store.spec.to_dict(),
            "how": store.how,
            "compression": store.compression,
            "fingerprint": store.fingerprint,
            "skipped": store.skipped,
            "asked": {
                format_t(one.level.t): asked_text(one.asked, one.level)
                for one in store.levels
                if one.asked
            },
            "placements": store.sizes is not None and store.placements is not None,
            "features": cells,
        }


def _tell_cells(cells: list[dict]) -> None:
    """A line for each (block, t)."""
    from diffeat.noise import shown_t

    width = max(14, *(len(cell["block"]) for cell in cells))
    click.echo(f"  {'block':<{width}} {'t':>6} {'alpha':>7} {'sigma':>7} {'log SNR':>8}  shape")
    for cell in cells:
        shape = "×".join(map(str, cell["shape"]))
        pure = "inf" if cell["alpha"] else "-inf"  # no noise, or nothing else
        snr = pure if cell["log_snr"] is None else f"{cell['log_snr']:.2f}"
        level = f"{cell['alpha']:7.4f} {cell['sigma']:7.4f} {snr:>8}"
        name = f"{cell['block']:<{width}} {shown_t(cell['t']):>6}"
        click.echo(f"  {name} {level}  {shape} {cell['dtype']}")


def _finite(value) -> int | float | None:
    """A plain number, or None for inf, which JSON does not have."""
    return value.item() if math.isfinite(value) else None
