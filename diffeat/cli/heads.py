"""`diffeat heads`."""

from __future__ import annotations

from dataclasses import replace

import click

from diffeat.cli.options import (
    batch_size_option,
    comma_list,
    json_option,
    model_fields,
    model_options,
    open_pictures,
    option,
    print_json,
    speed_options,
    threads_option,
    workers_option,
)
from diffeat.cli.outputs import PICTURES, OutputPath, command
from diffeat.cli.spec_options import spec_of, spec_options

RUN = ("batch_size", "workers")
"""Options that go to the computation as they are."""
SORTED = ("agreement", "lds", "rank", "frequency", "massive")
"""What the table is sorted by: the first of them that there is."""


@command()
@click.argument("model")
@click.argument("pictures")
@option("-t", "--timesteps", callback=comma_list, help="Noise levels.")
@option("-b", "--blocks", callback=comma_list, help="Places with attention (up.**, block.3, "
        "decoder), of which all tensors of --kinds are taken, or tensors by their names "
        "(block.3:self.q). Default: all.")  # fmt: skip
@option("--kinds", callback=comma_list, help="q, k, v, z (what a head gives), map. Default: "
        "q,k,v,z.")  # fmt: skip
@option("--scores", callback=comma_list, help="frequency, lds, rank, massive, agreement. Default: "
        "all that can be had.")  # fmt: skip
@option("--sort", help="Score that the table is sorted by (default: agreement, or else lds).")
@option("--top", type=click.IntRange(1), default=20, show_default=True,
        help="Lines of the table; --csv and --json have all heads.")  # fmt: skip
@option("--limit", type=click.IntRange(2), default=128, show_default=True,
        help="About so many pictures, spread over the set.")  # fmt: skip
@option("--near", type=click.IntRange(1), help="lds: sites up to this Manhattan distance are near "
        "(default: 1/16 of the longer side).")  # fmt: skip
@option("--far", type=click.IntRange(2), help="lds: from this one on they are far (default: 6/16 "
        "of the longer side).")  # fmt: skip
@option("--cutoff", type=float, default=0.5, show_default=True,
        help="frequency: its cut-off radius in Nyquist frequencies.")  # fmt: skip
@option("--ratio", type=float, default=10.0, show_default=True,
        help="massive: above so many times the median channel's magnitude.")  # fmt: skip
@option("--csv", "csv_path", type=OutputPath((".csv",)), help="Write all heads as CSV.")
@option("--png", "png_path", type=OutputPath(PICTURES, strict=True), help="Write heat maps: a row "
        "of panels for each score, a panel for each t.")  # fmt: skip
@spec_options("ensemble", "noise", "seed", "steps", "prompt", "captions", "label", "label_map",
              "latent", "size", "fit", "mirror")  # fmt: skip
@batch_size_option()
@workers_option()
@model_options
@speed_options
@json_option
@threads_option
def heads(model, pictures, csv_path, png_path, as_json, **values) -> None:
    """Look at every head of MODEL's attention on its own, without labels.

    \b
    diffeat heads unet-cifar10 digits -t 20,100 --png heads.png
    diffeat heads dit-cifar10 cifar10 -t 60 -b block.3,block.4 --kinds q,z --sort lds

    For each head, block and t: the high-frequency ratio, how much more alike near sites are than
    far ones (lds), the effective rank, the share of the energy in massive channels, and how well
    two noisings of a picture agree above two pictures (agreement). Which of these numbers goes
    with which task is another question (docs/label-free.md); none of them needs a label, and none
    is a score of a task.
    """
    from diffeat.backbones import ModelRequest
    from diffeat.extraction import load_for
    from diffeat.loading import load
    from diffeat.search.label_free.heads import USUAL, head_scores, head_tensors
    from diffeat.search.label_free.scores import FreeOptions, chosen_scores
    from diffeat.viz.heads import head_map

    wanted, sort = chosen_scores(values["scores"] or None), values["sort"]
    if sort and sort not in wanted:
        raise click.UsageError(f"--sort {sort}; expected one of {', '.join(wanted)}")
    if not values["timesteps"] and ":" not in model:  # a vision model has one level
        raise click.UsageError("no timesteps given; expected -t 20,100")
    spec = spec_of(None, None, {**values, "blocks": values["blocks"] or ("all",)})
    options = FreeOptions(values["cutoff"], values["near"], values["far"], ratio=values["ratio"])
    source = open_pictures(pictures)
    kinds = values["kinds"] or USUAL
    named = head_tensors(load(model, "meta"), spec.blocks, kinds)  # told before weights are read
    spec = replace(spec, blocks=tuple(block.name for block in named), pool="none")
    backbone = load_for(ModelRequest(model, **model_fields(values)), spec)
    table = head_scores(
        backbone, source, spec, kinds, values["scores"] or None, options, values["limit"],
        **{name: values[name] for name in RUN},
    )  # fmt: skip
    if sort not in table.scores:
        sort = next(score for score in SORTED if score in table.scores)
    if as_json:
        print_json(table.to_dict())
    else:
        click.echo(_headline(model, table))
        click.echo("\n".join(table.lines(sort, values["top"])))
        if len(table.cells) > values["top"]:
            click.echo(f"… {len(table.cells) - values['top']} more heads (--top, --csv); "
                       f"sorted by {sort}")  # fmt: skip
    if csv_path:
        table.write_csv(csv_path)
    if png_path:
        head_map(table, png_path, title=_headline(model, table))


def _headline(model: str, table) -> str:
    steps = len({t for _, t in table.cells})
    heads = len({block for block, _ in table.cells})
    return f"{model}: {heads} heads at {steps} t, without labels, on {table.pictures} pictures"
