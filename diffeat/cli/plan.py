"""`diffeat plan`, which is `diffeat extract --dry-run`."""

from __future__ import annotations

from pathlib import Path

import click

from diffeat.cli.job_options import asked_job, job_options
from diffeat.cli.options import json_option, model_fields, option, print_json, threads_option
from diffeat.cli.outputs import command


@command()
@click.argument("model")
@click.argument("pictures")
@job_options
@option("--gpu", help="Time by the published peak of this GPU, such as h100, in place of this "
        "machine.")  # fmt: skip
@option("--fraction", type=float, default=0.3, show_default=True,
        help="With --gpu: the share of its peak that is reached.")  # fmt: skip
@option("--measure/--no-measure", default=None, help="Run the model for two seconds to find its "
        "rate (default: where none is remembered), or never.")  # fmt: skip
@json_option
@threads_option
def plan(model, pictures, recipe, spec_file, limit, gpu, fraction, measure, as_json, **values):
    """Say what `diffeat extract` would take, before anything runs.

    Forwards, operations, time, the size of the file, memory and disk. Nothing is downloaded, and
    nothing is written but the rate of this machine, into the cache.
    """
    asked = model, pictures, recipe, spec_file, limit, values
    how = {"gpu": gpu, "fraction": fraction, "measure": measure}
    show_plan(*asked, as_json=as_json, **how)


def show_plan(
    model: str, pictures: str, recipe: str | None, spec_file: Path | None, limit: int | None,
    values: dict, output: Path | None = None, as_json: bool = False, **how,
) -> None:  # fmt: skip
    """Print the plan of a job; see `diffeat.planning.estimate`."""
    from diffeat.backbones import ModelRequest
    from diffeat.planning.estimate import estimate
    from diffeat.planning.offline import offline
    from diffeat.planning.report import report_lines

    with offline():
        spec, source = asked_job(model, pictures, recipe, spec_file, limit, values)
    request = ModelRequest(model, **model_fields(values))
    names = ("batch_size", "processes", "compression", "overwrite")
    found = estimate(request, source, spec, output, **{n: values[n] for n in names}, **how)
    if as_json:
        print_json(found.to_dict())
        return
    click.echo("\n".join(report_lines(found)))
