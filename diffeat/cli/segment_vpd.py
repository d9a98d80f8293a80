"""`diffeat segment PICTURES --head V.safetensors`: what every pixel shows, by a trained VPD."""

from __future__ import annotations

from typing import Any

import click

from diffeat.cli.options import model_fields, open_pictures, print_json


def is_vpd(head: Any) -> bool:
    """Whether a file holds a trained VPD."""
    from diffeat.adapt.saved_networks import kind_of
    from diffeat.adapt.vpd import FORMAT

    return kind_of(head) == FORMAT


def run(what: str, pictures: str | None, values: dict[str, Any]) -> None:
    """Masks straight from pictures; a VPD takes no stored features."""
    from diffeat.adapt.saved_networks import read_said
    from diffeat.adapt.vpd import FORMAT, VPD
    from diffeat.adapt.vpd_applied import AppliedVPD, pieces_of_source
    from diffeat.backbones import ModelRequest
    from diffeat.cli.applying import is_file
    from diffeat.cli.dense import DenseRun, begun_folder, loader
    from diffeat.cli.segment_head import print_masks, tally_of
    from diffeat.errors import PictureError
    from diffeat.loading import load_model

    given, head = (pictures or what), values["head"]
    if is_file(given) or values["pictures_at"]:
        raise click.UsageError(f"{head} is a trained VPD, which tells its model the classes, so it "
                               "takes pictures and no features")  # fmt: skip
    name = what if pictures else read_said(head, FORMAT, "a trained VPD").names["denoiser"]
    source = open_pictures(given, limit=values["limit"])
    applied = AppliedVPD(VPD.load(head, load_model(ModelRequest(name, **model_fields(values)))))
    ids = list(source.ids)
    tally = tally_of(applied, source, ids, values["truth"])
    load = loader(source, len(source), None)
    folder = values["output"] and begun_folder(
        applied, ids, values, given, {"the pictures": given, "true masks": values["truth"]},
        {"head": "VPD", "weights": applied.vpd.fingerprint}, values["overlay"],
        uncertain=values["uncertainty"],
    )  # fmt: skip
    uncertain = bool(values["uncertainty"] or values["csv_path"] or values["truth"])
    shown = load if values["overlay"] else None
    work = DenseRun(applied, ids, folder, shown, tally, uncertain, values["on_error"] == "skip")
    try:
        work.run(len(source), pieces_of_source(source, values["on_error"]), values["csv_path"],
                 "segment")  # fmt: skip
    except PictureError as error:
        raise click.ClickException(f"{error}; or leave such out with --on-error skip") from error
    work.warn_of_skipped(given, len(source))
    paths = {name: values[name] and str(values[name]) for name in ("output", "csv_path")}
    facts = {"head": str(head), "of": given, **paths, **work.facts(len(source))}
    if values["as_json"]:
        print_json(facts)
    else:
        print_masks(facts, tally)
