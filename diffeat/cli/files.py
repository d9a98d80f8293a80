"""`diffeat info`, `diffeat verify` and `diffeat view`."""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path

import click
import numpy as np

from diffeat.cli.options import comma_list, json_option, option, print_json
from diffeat.cli.outputs import PICTURES, OutputPath, command
from diffeat.errors import SourceError, SpecError, StoreError

feature_file = click.argument("file", type=click.Path(path_type=Path))


@command()
@feature_file
@json_option
def info(file: Path, as_json: bool) -> None:
    """Show what a feature FILE holds and how it was made.

    Where only FILE.parts is there, show how far the extraction is.
    """
    from diffeat.noise import shown_t
    from diffeat.specs import ExtractSpec
    from diffeat.store import FeatureStore

    if _unfinished(file):
        _show_progress(file, as_json, thorough=False)
        return
    shown_attrs = ("alpha", "sigma", "log_snr", "stride")
    with FeatureStore(file) as store:
        rows = [
            {"block": block, "t": t, "shape": list(store[block, t].shape),
             "dtype": store.stored_dtype(block, t),
             **{name: _finite(store[block, t].attrs[name]) for name in shown_attrs}}
            for block in store.blocks for t in store.timesteps
        ]  # fmt: skip
        facts = {
            "file": str(file),
            "pictures": {**store.pictures, "rows": len(store), "classes": store.class_names},
            "model": store.model,
            "spec": store.spec.to_dict(),
            "how": store.how,
            "compression": store.compression,
            "fingerprint": store.fingerprint,
            "skipped": store.skipped,
            "features": rows,
        }
    if as_json:
        print_json(facts)
        return
    model, spec = facts["model"], facts["spec"]
    click.echo(f"{file}: {len(rows)} feature sets of {facts['pictures']['rows']} pictures")
    click.echo(
        f"  pictures  {facts['pictures']['name']}, {len(facts['pictures']['classes'])} classes"
    )
    changes = "".join(f" with {change}" for change in model.get("changes", ()))
    click.echo(f"  model     {model['name']} ({model['family']}, {model['dtype']}){changes}")
    shown = ("pool", "size", "fit", "resample", "noise", "ensemble", "seed", "latent", "dtype")
    apart = ("blocks", "timesteps", *shown)
    defaults = {field.name: field.default for field in fields(ExtractSpec)}
    defaults["discard"] = []  # as JSON has it
    further = [name for name in spec if name not in apart and spec[name] != defaults[name]]
    click.echo("  spec      " + ", ".join(f"{name}={spec[name]}" for name in (*shown, *further)))
    made = {name: value for name, value in facts["how"].items() if not isinstance(value, list)}
    if made:
        click.echo("  made by   " + ", ".join(f"{k}={v}" for k, v in made.items()))
    click.echo(f"  stored    compression={facts['compression']}")
    for name, reason in list(facts["skipped"].items())[:10]:
        click.echo(f"  skipped   {name}: {reason}")
    width = max(14, *(len(row["block"]) for row in rows))
    click.echo(f"  {'block':<{width}} {'t':>6} {'alpha':>7} {'sigma':>7} {'log SNR':>8}  shape")
    for row in rows:
        shape = "×".join(map(str, row["shape"]))
        pure = "inf" if row["alpha"] else "-inf"  # no noise, or nothing else
        snr = pure if row["log_snr"] is None else f"{row['log_snr']:.2f}"
        level = f"{row['alpha']:7.4f} {row['sigma']:7.4f} {snr:>8}"
        name = f"{row['block']:<{width}} {shown_t(row['t']):>6}"
        click.echo(f"  {name} {level}  {shape} {row['dtype']}")


def _unfinished(file: Path) -> bool:
    """Whether parts lie there in place of the file."""
    return not file.exists() and file.with_name(file.name + ".parts").is_dir()


def _show_progress(file: Path, as_json: bool, thorough: bool) -> bool:
    """Say how far an extraction is; returns whether what is there is sound."""
    from diffeat.store import look_at_parts

    found = look_at_parts(file, thorough)
    note = found.note
    facts = {
        "file": str(file),
        "complete": False,
        "finished": found.finished,
        "pictures": note.request.pictures,
        "shards": found.shards,
        "model": note.request.model,
        "spec": note.request.spec,
        "how": note.request.how,
        "fingerprint": note.request.fingerprint,
        "problems": found.problems,
    }
    if as_json:
        print_json(facts)
        return not found.problems
    for problem in found.problems:
        click.echo(f"{file}: {problem}")
    checked = ", checksums compared" if thorough else ""
    click.echo(
        f"{file}: unfinished, {found.finished} of {note.count} pictures are in {found.shards} "
        f"shards{checked}"
    )
    spec = note.request.spec
    for name, value in (
        ("pictures", note.request.pictures["name"]),
        ("model", note.request.model["name"]),
        ("blocks", ", ".join(map(str, spec["blocks"]))),
        ("t", ", ".join(map(str, spec["timesteps"]))),
        ("dtype", spec.get("dtype", "float16")),
    ):
        click.echo(f"  {name:<9} {value}")
    then = "diffeat merge" if found.finished == note.count else "the same diffeat extract again"
    click.echo(f"to go on, run {then}" + (f" {file}" if then == "diffeat merge" else ""))
    return not found.problems


def _finite(value) -> int | float | None:
    """A plain number, or None for inf, which JSON does not have."""
    return value.item() if np.isfinite(value) else None


@command()
@feature_file
@json_option
def verify(file: Path, as_json: bool) -> None:
    """Read the whole FILE: checksums, shapes, attributes, inf and nan.

    Exit code 0 if it is sound, 1 if it is not, or not finished. Where only FILE.parts is
    there, the checksums of its shards are compared, and the exit code is 1.
    """
    from diffeat.store import verify as check

    if _unfinished(file):
        _show_progress(file, as_json, thorough=True)
        sys.exit(1)
    problems = check(file)
    if as_json:
        print_json({"file": str(file), "sound": not problems, "problems": problems})
    else:
        for problem in problems:
            click.echo(f"{file}: {problem}")
        click.echo(f"{file}: " + (f"{len(problems)} problems" if problems else "sound"))
    sys.exit(1 if problems else 0)


@command()
@feature_file
@option(
    "-o",
    "--output",
    type=OutputPath(PICTURES, strict=True),
    default=Path("view.png"),
    show_default=True,
    help="The picture: .png, .jpg, .webp, .tif, .pdf or .svg.",
)
@option(
    "-n",
    "--number",
    type=click.IntRange(1),
    default=4,
    show_default=True,
    help="How many pictures.",
)
@option("--ids", callback=comma_list, help="Which pictures, by id.")
@option("-t", "--timesteps", callback=comma_list, help="Only these t.")
@option("-b", "--blocks", callback=comma_list, help="Only these blocks.")
@option("--pictures", help="Where the originals lie, if not where they were extracted from.")
def view(file: Path, output: Path, number: int, ids, timesteps, blocks, pictures) -> None:
    """Show feature maps of FILE as colours beside the originals.

    The first three principal components over all cells of the shown pictures become red,
    green and blue. FILE must hold maps (extracted without --pool).
    """
    from diffeat.noise import format_t, shown_t
    from diffeat.store import FeatureStore
    from diffeat.viz import feature_sheet

    with FeatureStore(file) as store:
        rows = _chosen_rows(store.ids, ids, number)
        steps = [t for t in store.timesteps if not timesteps or format_t(t) in timesteps]
        wanted = [b for b in store.blocks if not blocks or b in blocks]
        missing = set(blocks or ()) - set(wanted) | set(timesteps or ()) - set(map(format_t, steps))
        if missing:
            raise SpecError(
                f"{file} has no {', '.join(sorted(missing))}; see `diffeat info {file}`"
            )
        columns = {}
        for block in wanted:
            for t in steps:
                data = store[block, t]
                if data.ndim == 3:
                    click.echo(f"left out: {block} holds text tokens, which have no picture")
                    continue
                if data.ndim != 4:
                    raise SpecError(
                        f"{file} holds pooled vectors, which have no picture; extract with "
                        "--pool none (into another file)"
                    )
                columns[block + shown_t(t, ", t=")] = np.stack([data[row] for row in rows])
        if not columns:
            raise SpecError(f"{file} holds nothing that has a picture; choose other blocks")
        names = [store.ids[row] for row in rows]
        originals = _originals(store, names, pictures)
        feature_sheet(
            originals, columns, names, output, title=f"{store.model['name']}: {file.name}"
        )
    click.echo(f"wrote {output}")


def _chosen_rows(known: list[str], ids, number: int) -> list[int]:
    if not ids:
        return list(range(min(number, len(known))))
    index = {name: row for row, name in enumerate(known)}
    missing = [name for name in ids if name not in index]
    if missing:
        raise SpecError(f"no picture {missing[0]!r} in the file; ids look like {known[0]!r}")
    return [index[name] for name in ids]


def _trusted(name: str) -> str:
    """The recorded source, if it is a data set or lies below the current folder.

    The name comes from the file, which anybody may have written: it must not make us read
    whatever it likes.
    """
    from diffeat.images.datasets import DATASETS
    from diffeat.images.huggingface import PREFIX

    named = name.startswith(PREFIX)  # of the hub, or of any folder
    inside = not named and Path(name).resolve().is_relative_to(Path.cwd())
    if name.partition(":")[0] in DATASETS or inside:
        return name
    raise StoreError(
        f"the file says that its pictures lie in {name!r}, outside the current folder; if that "
        "is right, say so with --pictures"
    )


def _originals(store, names: list[str], pictures: str | None) -> list[np.ndarray]:
    """The shown pictures as the model saw them."""
    from diffeat.images import fit_picture, open_source, rule_of

    where = pictures or _trusted(store.pictures["name"])
    try:
        source = open_source(where).by_rule(rule_of(store.pictures))
    except SourceError as error:
        raise StoreError(f"{error}. Say with --pictures where the originals lie") from error
    index = {name: i for i, name in enumerate(source.ids)}
    missing = [name for name in names if name not in index]
    if missing:
        raise StoreError(
            f"{where} has no picture {missing[0]!r}; say with --pictures where it lies"
        )
    spec = store.spec
    shown = [source.load(index[name]) for name in names]
    return [
        fit_picture(picture, spec.size, spec.fit, spec.resample, spec.mirror).transpose(1, 2, 0)
        for picture in shown
    ]
