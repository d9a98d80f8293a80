"""python -m benchmarks list | run | report"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from diffeat.cli.options import comma_list, pixel_size
from diffeat.errors import DiffeatError

RESULTS = Path(__file__).parent / "results"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Measure what diffusion features are worth, and how fast they are extracted."""


@cli.command("list")
def list_() -> None:
    """List the benchmarks."""
    from benchmarks.recipes import Recipe, recipe_names

    for name in recipe_names():
        click.echo(f"{name:<14} {Recipe.open(name).title}")
    click.echo(f"{'faults':<14} Kills, full disks and lost workers, and what is left of them")
    click.echo(f"{'speed':<14} What the engine costs above the least work possible")


@cli.command()
@click.argument("name")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for features and tables "
              "(default runs/NAME).")  # fmt: skip
@click.option("--record", is_flag=True, help="Also copy table and pictures to benchmarks/results/.")
@click.option("--device", default="auto", show_default=True)
@click.option("--part", "parts", callback=comma_list, help="speed: letters such as a,d "
              "(default: all).")  # fmt: skip
@click.option("--quick", is_flag=True, help="speed, faults: everything small, to see that it "
              "works.")  # fmt: skip
@click.option("--kills", type=click.IntRange(1), help="faults: kills at random times (default 20).")
@click.option("--model", help="speed: another model, such as sd15@random; part a then needs -t "
              "and -b.")  # fmt: skip
@click.option("-t", "--timesteps", callback=comma_list, help="speed, part a: noise levels.")
@click.option("-b", "--blocks", callback=comma_list, help="speed, part a: tensors.")
@click.option("--size", callback=pixel_size, help="speed: picture size of a, b, c and f.")
@click.option("--pictures", type=click.IntRange(1), help="speed: how many in a, b and c.")
@click.option("--features", type=click.Path(path_type=Path, exists=True), help="speed, part h: a "
              "feature file in place of an extraction.")  # fmt: skip
@click.option("--batch-size", "batch", type=click.IntRange(1), help="speed: rows of one forward "
              "in a, b and c.")  # fmt: skip
def run(name: str, out: Path | None, record: bool, device: str, kills: int | None, **speed) -> None:
    """Run the benchmark NAME; `list` shows the names."""
    out = out or Path("runs") / name
    if name == "speed" and kills is None:
        _run_speed(out, device, record, **speed)
    elif name == "faults" and not any(v for key, v in speed.items() if key != "quick"):
        _run_faults(out, device, record, kills, speed["quick"])
    elif kills or any(speed.values()):
        raise click.UsageError(f"--part, --kills, --model, … are not for {name}; see --help")
    else:
        from benchmarks.recipes import Recipe
        from benchmarks.surface import run_recipe, summary
        from diffeat.search import Cell, Surface

        result = run_recipe(Recipe.open(name), out, device)
        click.echo(f"\n{result['recipe']['title']}")
        for stored in result["surfaces"][:2]:
            cells = [Cell(**cell) for cell in stored["cells"]]
            surface = Surface(stored["name"], cells, tuple(stored["counts"]), stored["classes"])
            click.echo(f"\n{surface.name}: linear probe, validation accuracy in %\n")
            click.echo(surface.table())
        click.echo("\n" + summary(result))
        for line in result["recipe"]["published"]:
            click.echo(f"published, other weights and set-up: {line}")
        click.echo(f"\nwrote {', '.join(str(path) for path in sorted(out.glob(name + '*')))}")
    if record:
        RESULTS.mkdir(parents=True, exist_ok=True)
        for path in out.glob(f"{name}*"):
            if path.suffix in (".json", ".csv", ".png"):
                (RESULTS / path.name).write_bytes(path.read_bytes())


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
@click.option("--results", type=click.Path(path_type=Path, exists=True), default=RESULTS,
              help="Folder with the JSON files of earlier runs.")  # fmt: skip
def report(results: Path) -> None:
    """Print the recorded results as Markdown."""
    from benchmarks.report import markdown

    click.echo(markdown(results))


def main() -> None:
    try:
        cli(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (DiffeatError, OSError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(getattr(error, "exit_code", 1))
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted: run the same command again to continue", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
