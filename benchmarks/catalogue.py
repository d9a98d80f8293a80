"""The benchmarks that there are, and those of your own, by name."""

from __future__ import annotations

import tomllib
from pathlib import Path

from benchmarks.files import Benchmark, made
from benchmarks.tasks import task_named
from diffeat.errors import SpecError, nearest

FOLDER = Path(__file__).parent / "recipes"
SUITES = ("speed", "faults")
"""What `run` knows beside benchmark files."""


def benchmark_names() -> list[str]:
    """Names of the benchmarks that come with diffeat, in order."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def open_benchmark(name: str) -> Benchmark:
    """Read a benchmark by its name, or one of your own by the path of its .toml file.

    Returns:
        It, as an instance of the dataclass of its task.

    Raises:
        SpecError: no such benchmark (names the nearest ones), a file that is none, or a task that
            is unknown.
    """
    path = _path_of(name)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecError(f"{path} is no TOML: {error}") from error
    if "name" in values:
        raise SpecError(f"{path}: a benchmark has no field 'name'; it goes by the name of its file")
    try:
        kind = task_named(values.get("task", Benchmark.task)).fields
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from error
    return made(kind, {"name": path.stem, **values}, path)


def _path_of(name: str) -> Path:
    """The file of a bundled benchmark, or one of your own, which must not take another's name."""
    if not name.endswith(".toml"):
        if name not in benchmark_names():
            raise SpecError(
                f"benchmark {name!r} is unknown{nearest(name, benchmark_names())}; "
                f"expected one of {', '.join((*benchmark_names(), *SUITES))}"
            )
        return FOLDER / f"{name}.toml"
    path = Path(name)
    if not path.is_file():
        raise SpecError(f"{path}: no such benchmark file; check the path")
    taken = path.stem in (*benchmark_names(), *SUITES)
    if taken and path.resolve().parent != FOLDER.resolve():
        raise SpecError(
            f"{path}: results go by the name of the file, and {path.stem!r} is that of another "
            "benchmark; rename it"
        )
    return path
