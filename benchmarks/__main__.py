"""python -m benchmarks list | run | report | redraw"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from diffeat.cli import ending
from diffeat.cli.options import byte_count, comma_list, option, pixel_size, threads_option
from diffeat.cli.outputs import OutputPath, outputs_ready

RESULTS = Path(__file__).parent / "results"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Measure what diffusion features are worth, and how fast they are extracted."""


@cli.command("list")
def list_() -> None:
    """List the benchmarks."""
    from benchmarks.catalogue import benchmark_names, open_benchmark

    width = max(map(len, benchmark_names()))
    for name in benchmark_names():
        click.echo(f"{name:<{width}} {open_benchmark(name).title}")
    click.echo(f"{'faults':<{width}} Kills, full disks and lost workers, and what is left of them")
    click.echo(f"{'speed':<{width}} What the engine costs above the least work possible")


@cli.command()
@ending.interruptible
@ending.resumable("run the same command again to continue")
@outputs_ready
@click.argument("name")
@option("--out", type=OutputPath(folder=True), help="Folder for features and tables "
              "(default runs/NAME).")  # fmt: skip
@option("--record", is_flag=True, help="Also copy table and pictures to benchmarks/results/.")
@option("--device", default="auto", show_default=True)
@option("--part", "parts", callback=comma_list, help="speed: letters such as a,d "
              "(default: all).")  # fmt: skip
@option("--quick", is_flag=True, help="speed, faults: everything small, to see that it "
              "works.")  # fmt: skip
@option("--kills", type=click.IntRange(1), help="faults: kills at random times (default 20).")
@option("--model", help="speed: another model, such as sd15@random; part a then needs -t "
              "and -b.")  # fmt: skip
@option("-t", "--timesteps", callback=comma_list, help="speed, part a: noise levels.")
@option("-b", "--blocks", callback=comma_list, help="speed, part a: tensors.")
@option("--size", callback=pixel_size, help="speed: picture size of a, b, c and f.")
@option("--pictures", type=click.IntRange(1), help="speed: how many in a, b and c.")
@option("--features", type=click.Path(path_type=Path), help="Folder for feature files "
              "and finished cells, which benchmarks may share (default: that of --out); speed, "
              "part h: a feature file in place of an extraction.")  # fmt: skip
@option("--processes", type=click.IntRange(1), help="Copies of the model while features are "
              "extracted.")  # fmt: skip
@option("--memory", callback=byte_count, default="2G", show_default=True, help="For features "
              "while they are fitted.")  # fmt: skip
@option("--vision", multiple=True, help="Another vision model to measure beside it, such as "
              "timm:NAME@WEIGHTS.safetensors or a folder; may be repeated.")  # fmt: skip
@option("--batch-size", "batch", type=click.IntRange(1), help="speed: rows of one forward "
              "in a, b and c.")  # fmt: skip
@threads_option
def run(
    name: str, out: Path | None, record: bool, device: str, kills: int | None,
    processes: int | None, memory: int, vision: tuple[str, ...], **speed,
) -> None:  # fmt: skip
    """Run the benchmark NAME; `list` shows the names, and FILE.toml is one of your own.

    Features and finished results stay in the folder of --out: run again, the command computes
    only what is missing.
    """
    label = Path(name).name.removesuffix(".toml")
    out = out or Path("runs") / label
    others = {key: value for key, value in speed.items() if key not in ("quick", "features")}
    if name in ("speed", "faults") and (processes or vision):
        raise click.UsageError(f"--processes and --vision are not for {name}; see --help")
    if name == "speed" and kills is None:
        _run_speed(out, device, record, **speed)
    elif name == "faults" and not any(others.values()) and speed["features"] is None:
        _run_faults(out, device, record, kills, speed["quick"])
    elif kills or speed["quick"] or any(others.values()):
        raise click.UsageError(f"--part, --kills, --model, … are not for {name}; see --help")
    else:
        _run_benchmark(name, out, device, speed["features"], processes, memory, vision)
    if record:
        RESULTS.mkdir(parents=True, exist_ok=True)
        ends = (".json", ".csv", ".png", "-maps.png", "-curves.png", "-weights.png")
        for path in (out / f"{label}{end}" for end in ends):
            if path.is_file():
                (RESULTS / path.name).write_bytes(path.read_bytes())


@cli.command()
@option("--results", type=click.Path(exists=True, file_okay=False, path_type=Path),
        default=RESULTS, help="Folder of recorded results.")  # fmt: skip
def redraw(results: Path) -> None:
    """Draw the heat maps and learning curves of recorded results again, from their JSON."""
    from benchmarks.report import results_in
    from benchmarks.searching import redraw as draw
    from benchmarks.searching import write_curves, write_weights

    for path, result in results_in(results):
        if "benchmark" not in result:  # speed, faults
            continue
        title = result["benchmark"]["title"]
        if result.get("surfaces"):
            draw(result["surfaces"], path.with_suffix(".png"), title)
            click.echo(f"wrote {path.with_suffix('.png')}")
        curves = path.with_name(f"{path.stem}-curves.png")
        if write_curves(result.get("systems", []), curves, title):
            click.echo(f"wrote {curves}")
        weights = path.with_name(f"{path.stem}-weights.png")
        if write_weights(result.get("rows", []), weights, title):
            click.echo(f"wrote {weights}")


def _run_benchmark(
    name: str, out: Path, device: str, features: Path | None, processes: int | None, memory: int,
    vision: tuple[str, ...],
) -> None:  # fmt: skip
    from benchmarks.catalogue import open_benchmark
    from benchmarks.published import left_out, published_line
    from benchmarks.run import run_benchmark
    from benchmarks.tasks import task_named

    benchmark = open_benchmark(name)
    if vision:
        benchmark = _with_vision(benchmark, vision)
    result = run_benchmark(benchmark, out, device, features, processes, memory)
    click.echo(f"\n{result['benchmark']['title']}")
    click.echo(task_named(benchmark.task).summary(result))
    for one in result["benchmark"]["published"]:
        click.echo(f"published: {published_line(one)}")
    for line in left_out(result):
        click.echo(line)
    written = sorted(out.glob(benchmark.name + "*"))
    click.echo(f"\nwrote {', '.join(map(str, written))}")


def _with_vision(benchmark, vision: tuple[str, ...]):
    """A benchmark with further vision models; an error for a task that compares with none."""
    if not hasattr(benchmark, "vision"):
        raise click.UsageError(f"--vision: {benchmark.task} compares with no vision models")
    return replace(benchmark, vision=(*benchmark.vision, *vision))


def _run_speed(out: Path, device: str, record: bool, parts: tuple[str, ...], **given) -> None:
    from benchmarks.speed import PARTS, run_speed
    from benchmarks.speed.settings import Settings
    from benchmarks.speed.table import markdown

    unknown = set(parts or ()) - set(PARTS)
    if unknown:
        raise click.UsageError(
            f"part {', '.join(sorted(unknown))} is unknown; expected some of {', '.join(PARTS)}"
        )
    if record and given["quick"]:
        raise click.UsageError("--quick figures mean little; leave --quick or --record out")
    if given["features"] is not None and not given["features"].is_file():
        raise click.UsageError(f"--features {given['features']} is no file")
    settings = Settings(
        parts=tuple(sorted(parts or PARTS)),
        device=device,
        alone=bool(parts),
        **{name: value for name, value in given.items() if value is not None},
    )
    result = run_speed(out, settings, lambda line: click.echo(line, err=True))
    click.echo(markdown(result))
    click.echo(f"\nwrote {out / 'speed.json'}")


def _run_faults(out: Path, device: str, record: bool, kills: int | None, quick: bool) -> None:
    from benchmarks.faults import run_faults
    from benchmarks.faults.table import markdown
    from diffeat.errors import StoreError

    if record and quick:
        raise click.UsageError("--quick figures mean little; leave --quick or --record out")
    result = run_faults(out, kills, quick, device, lambda line: click.echo(line, err=True))
    click.echo(markdown(result))
    click.echo(f"\nwrote {out / 'faults.json'}")
    if not result["equal"]:
        raise StoreError("an end was not equal to the undisturbed run; see the table")


@cli.command()
@ending.interruptible
@outputs_ready
@option("--results", type=click.Path(path_type=Path, exists=True), default=RESULTS,
              help="Folder with the JSON files of earlier runs.")  # fmt: skip
@option("--html", type=OutputPath((".html", ".htm")), help="Also write one HTML page with heat "
              "maps and learning curves, which needs nothing beside it.")  # fmt: skip
def report(results: Path, html: Path | None) -> None:
    """Print the recorded results as Markdown."""
    from benchmarks.page import page
    from benchmarks.report import markdown

    click.echo(markdown(results))
    if html is not None:
        html.write_text(page(results), encoding="utf-8")
        click.echo(f"wrote {html}", err=True)


def main() -> None:
    """Run the command; see `diffeat.cli.ending` for its exit codes."""
    ending.run(cli)


if __name__ == "__main__":
    main()
