"""A trained VPD straight over pictures: `diffeat segment PICTURES --head V.safetensors`; of depth,
`diffeat predict V.safetensors PICTURES`."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from diffeat.cli.ending import warn
from diffeat.cli.options import model_fields, open_pictures, print_json


def is_vpd(head: Any) -> bool:
    """Whether a file holds a trained VPD."""
    from diffeat.adapt.saved_networks import kind_of
    from diffeat.adapt.vpd import FORMAT

    return kind_of(head) == FORMAT


def run(what: str, pictures: str | None, values: dict[str, Any]) -> None:
    """Masks straight from pictures."""
    from diffeat.adapt.vpd_applied import pieces_of_source
    from diffeat.cli.dense import DenseRun, begun_folder, loader, refuse_nothing
    from diffeat.cli.segment_head import print_masks, tally_of

    given, head = (pictures or what), values["head"]
    refuse_nothing({"-o masks/": values["output"], "--csv P.csv": values["csv_path"],
                    "--truth": values["truth"], "--json": values["as_json"]})  # fmt: skip
    for name in ("overlay", "uncertainty", "overwrite"):
        if values[name] and not values["output"]:
            raise click.UsageError(f"--{name} is for -o masks/")
    _refuse_features(head, given, values)
    applied, source = _opened(head, given, what if pictures else None, "masks", values)
    ids = list(source.ids)
    tally = tally_of(applied, source, ids, values["truth"])
    load = loader(source, len(source), None) if values["overlay"] else None
    folder = values["output"] and begun_folder(
        applied, ids, values, given, {"the pictures": given, "true masks": values["truth"]},
        _made_by(applied), values["overlay"], uncertain=values["uncertainty"],
    )  # fmt: skip
    uncertain = bool(values["uncertainty"] or values["csv_path"] or values["truth"])
    work = DenseRun(applied, ids, folder, load, tally, uncertain, values["on_error"] == "skip")
    with _said_of_pictures():
        work.run(len(source), pieces_of_source(source, values["on_error"]), values["csv_path"],
                 "segment")  # fmt: skip
    work.warn_of_skipped(given, len(source))
    known = applied.vpd.known_among(source)
    if known.count and tally is not None:
        which = "a sample of" if known.sampled else "these"
        warn(f"the VPD was trained on {known.count:,} of {which} {known.compared:,} pictures, or "
             "its epoch was chosen on them, so no score of them is a test")  # fmt: skip
    paths = {name: values[name] and str(values[name]) for name in ("output", "csv_path")}
    facts = {"head": str(head), "of": given, **paths, **work.facts(len(source)),
             "fitted_on_these": bool(known.count), "fitted_on": known._asdict()}  # fmt: skip
    if values["as_json"]:
        print_json(facts)
    else:
        print_masks(facts, tally)


def predict_by_vpd(
    head: Path, what: str, output: Path | None, as_json: bool, values: dict[str, Any]
) -> None:
    """Depth maps straight from pictures."""
    from diffeat.adapt.vpd_applied import pieces_of_source
    from diffeat.cli.depth import refuse_of_classes, say, written

    refuse_of_classes(values)
    _refuse_features(head, what, values)
    applied, source = _opened(head, what, values["model"], "depth", values)
    with _said_of_pictures():
        done = written(applied, source.ids, pieces_of_source(source, values["on_error"]), what,
                       output, values, _made_by(applied))  # fmt: skip
    say(done, head, what, output, as_json)


def _refuse_features(head: Any, given: str, values: dict[str, Any]) -> None:
    """UsageError for stored features, and for options of them."""
    from diffeat.cli.applying import is_file

    if is_file(given) or values.get("pictures_at"):
        raise click.UsageError(f"{head} is a trained VPD, which tells its model the classes, so it "
                               "takes pictures and no features")  # fmt: skip
    if values["batch_size"] is not None:
        raise click.UsageError("a trained VPD takes its pictures one by one; leave --batch-size "
                               "out")  # fmt: skip


def _opened(
    head: Any, given: str, model: str | None, kind: str, values: dict[str, Any]
) -> tuple[Any, Any]:
    """The VPD as what is applied, and the pictures.

    Args:
        model: its name; None: as the file says it.
        kind: what is wanted: "masks" or "depth".
    """
    from diffeat.adapt.saved_networks import read_said
    from diffeat.adapt.vpd import FORMAT, VPD
    from diffeat.adapt.vpd_applied import AppliedVPD
    from diffeat.backbones import ModelRequest
    from diffeat.loading import load_model

    said = read_said(head, FORMAT, "a trained VPD")
    gives = "depth" if said.settings.get("task") == "depth" else "masks"
    if gives != kind:
        way = (f"diffeat predict {head} {given} -o depth/" if gives == "depth" else
               f"diffeat segment {given} --head {head} -o masks/")  # fmt: skip
        raise click.UsageError(f"{head} holds a VPD, which gives {gives}; apply it with: {way}")
    source = open_pictures(given, limit=values["limit"])
    if values["on_error"] == "fail":
        with _said_of_pictures():
            source.check_readable()
    request = ModelRequest(model or said.names["denoiser"], **model_fields(values))
    return AppliedVPD(VPD.load(head, load_model(request))), source


def _made_by(applied: Any) -> dict[str, Any]:
    return {"head": "VPD", "weights": applied.vpd.fingerprint}


@contextmanager
def _said_of_pictures():
    """Pictures that cannot be read end the command, with what to do."""
    from diffeat.errors import PictureError

    try:
        yield
    except PictureError as error:
        raise click.ClickException(f"{error}; or leave such out with --on-error skip") from error
