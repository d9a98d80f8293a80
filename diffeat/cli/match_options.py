"""Options of `diffeat match` that say how is matched, and the points that are looked for."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from diffeat.cli.options import option
from diffeat.errors import SpecError

if TYPE_CHECKING:
    import numpy as np

MATCHERS = {
    "nearest": "NearestMatcher",
    "mutual": "MutualMatcher",
    "soft-argmax": "SoftArgmaxMatcher",
    "kernel": "KernelSoftArgmaxMatcher",
    "window": "WindowSoftArgmaxMatcher",
}
"""--matcher → its class in `probes.matching`."""
SETTINGS = ("combine", "metric", "resolution", "normalise", "temperature", "radius", "sigma",
            "ratio", "low_pass", "refine")  # fmt: skip
"""Options that are parameters of matchers, of those that have them."""
CARRYING = ("last", "radius", "top_k", "temperature", "low_pass")
"""Options that are parameters of the propagator of masks."""
COUNTED = ("alphas", "reference", "aggregate", "preset", "csv_path", "by_class")
"""Those that need a truth."""
GRID = 8
"""Points along the longer side of a picture, where none are named."""
WRITTEN = re.compile(r"\s*([^\s,;]+)\s*,\s*([^\s,;]+)\s*;?")
"""One x,y of --points."""


class Points(NamedTuple):
    """Points of a picture: (n, 2) float64 x, y in its pixels, and n names or ()."""

    at: np.ndarray
    names: tuple[str, ...] = ()


def matcher_options(command: Callable) -> Callable:
    """--matcher and what each of them can be told."""
    for each in (
        option("--refine", type=click.Choice(("bilinear",)), help="Match the four sites around a "
               "point, and take the weighted mean of their places."),
        option("--low-pass", type=click.FloatRange(0, min_open=True), metavar="SITES",
               help="Smooth maps by a Gaussian of so many sites first."),
        option("--ratio", type=click.FloatRange(0, 1, min_open=True), metavar="R",
               help="nearest, mutual: not valid where the next best is nearly as good (Lowe)."),
        option("--sigma", type=click.FloatRange(0, min_open=True), metavar="SITES",
               help="kernel: of its Gaussian (default 7)."),
        option("--radius", type=click.IntRange(1), metavar="SITES",
               help="window: how far from the best place (default 5); FRAMES --mask: how far "
               "from its own place each site looks (default 15)."),
        option("--temperature", type=click.FloatRange(0, min_open=True), metavar="T",
               help="soft-argmax, kernel, window: of the softmax (default 0.04; FRAMES --mask "
               "0.2)."),
        option("--normalise", type=click.Choice(("after", "before")), help="Vectors are brought "
               "to length 1 after maps are upsampled (default, as DIFT), or before."),
        option("--resolution", type=click.Choice(("picture", "similarity", "site")),
               help="picture (default of nearest and mutual): features as if upsampled to the "
               "picture; similarity: the similarity map upsampled; site (default of the others): "
               "the nearest site of the map."),
        option("--metric", type=click.Choice(("cosine", "l2")), help="Default: cosine."),
        option("--matcher", type=click.Choice(tuple(MATCHERS)), default="nearest",
               show_default=True, help="nearest: the best place; mutual: valid where it leads "
               "back; soft-argmax: the mean place, weighted; kernel, window: that near the best."),
    ):  # fmt: skip
        command = each(command)
    return command


def points_options(command: Callable) -> Callable:
    """--points, --points-file and --grid: what is looked for."""
    for each in (
        option("--grid", type=click.IntRange(1), metavar="N", help="A grid of points, N along "
               f"the longer side of the first picture (default, {GRID})."),
        option("--points-file", type=click.Path(path_type=Path, dir_okay=False), metavar="P.csv",
               help="A table x,y or x,y,point."),
        option("--points", callback=_written_points, metavar='"X,Y X,Y …"', help="In pixels of the "
               "first picture, upright; 0,0 is the centre of its first pixel."),
    ):  # fmt: skip
        command = each(command)
    return command


def given(names: tuple[str, ...]) -> list[str]:
    """The options among these that stand on the command line."""
    from click.core import ParameterSource

    context = click.get_current_context()
    return [
        one.opts[0]
        for one in context.command.params
        if one.name in names
        and context.get_parameter_source(one.name) is ParameterSource.COMMANDLINE
    ]


def box_of(_context: click.Context, _option: click.Parameter, value: str | None):
    """Callback: "10,20,300,200" → (x1, y1, x2, y2)."""
    if value is None:
        return None
    try:
        box = tuple(float(part) for part in value.split(","))
    except ValueError:
        box = ()
    if len(box) != 4 or not all(map(math.isfinite, box)) or box[0] > box[2] or box[1] > box[3]:
        raise click.BadParameter(f"{value!r}; expected x1,y1,x2,y2 in pixels: 10,20,300,200")
    return box


def stride_of(_context: click.Context, _option: click.Parameter, value: str):
    """Callback: "4" → 4; "site" stays."""
    if value != "site" and not (value.isdecimal() and int(value) > 0):
        raise click.BadParameter(f"{value!r}; expected pixels such as 4, or site")
    return value if value == "site" else int(value)


def matcher_of(values: dict[str, Any]) -> Any:
    """The matcher of the options.

    Raises:
        click.UsageError: an option that this matcher has no use for.
    """
    import diffeat.companions  # noqa: F401 - before anything imports `probes`
    from diffeat.backbones.devices import pick_device
    from probes import matching

    kind = getattr(matching, MATCHERS[values["matcher"]])
    given = {name: values[name] for name in SETTINGS if values[name] is not None}
    if unused := [name for name in given if name not in kind().get_params()]:
        able = [
            word
            for word, name in MATCHERS.items()
            if unused[0] in getattr(matching, name)().get_params()
        ]
        raise click.UsageError(
            f"--matcher {values['matcher']} has no use for --{unused[0].replace('_', '-')}; "
            f"it is of {', '.join(able) or 'no matcher'}"
        )
    return kind(**given, device=str(pick_device(values["device"])))


def frames_options(command: Callable) -> Callable:
    """How the mask or the points of a clip's first frame go through it."""
    for each in (
        option("--truth", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
               help="FRAMES --mask: a folder with the true mask of each frame, for J and F."),
        option("--chained", is_flag=True, help="FRAMES: points from frame to frame, in place of "
               "each frame with the first."),
        option("--top-k", type=click.IntRange(1), metavar="K", help="FRAMES --mask: so many sites "
               "of earlier frames count for each (default 15)."),
        option("--last", type=click.IntRange(0), metavar="N", help="FRAMES --mask: compare with so "
               "many frames before, beside the first (default 28)."),
    ):  # fmt: skip
        command = each(command)
    return command


def propagator_of(values: dict[str, Any]) -> Any:
    """The `LabelPropagator` of the options.

    Raises:
        click.UsageError: an option of matchers that it has no use for.
    """
    import diffeat.companions  # noqa: F401 - before anything imports `probes`
    from diffeat.backbones.devices import pick_device
    from probes.propagation import LabelPropagator

    others = ("matcher", "check", *(name for name in SETTINGS if name not in CARRYING))
    if unused := given(tuple(name for name in others if name != "combine")):
        raise click.UsageError(f"{', '.join(unused)}: a mask is carried through a clip by --last, "
                               "--radius, --top-k and --temperature; leave it away")  # fmt: skip
    asked = {name: values[name] for name in CARRYING if values[name] is not None}
    return LabelPropagator(**asked, device=str(pick_device(values["device"])))


@contextmanager
def told() -> Iterator[None]:
    """What `probes` refuses, as an error of the command: it names no options."""
    try:
        yield
    except SpecError:
        raise
    except ValueError as error:
        raise SpecError(str(error)) from error


def points_of(values: dict[str, Any], maps: Any, name: str) -> Points:
    """The points that are looked for, all of them where the features show something.

    Args:
        maps: `probes.maps.Maps` of the first picture.
        name: of that picture, for messages.

    Raises:
        click.UsageError: several options that say where.
        SpecError: nan, points outside the picture or outside what its input shows.
    """
    import numpy as np

    from diffeat.coords import grid_points

    given = [one for one in ("points", "points_file", "grid") if values[one] is not None]
    if len(given) > 1:
        names = " and ".join(f"--{one.replace('_', '-')}" for one in given)
        raise click.UsageError(f"{names}; expected one of them")
    if values["points"] is not None:
        found = Points(np.array(values["points"], np.float64))
    elif values["points_file"] is not None:
        found = read_points(values["points_file"])
    else:
        grid = grid_points(maps.size, values["grid"] or GRID)
        return Points(grid[maps.valid(grid)])
    check_shown(found.at, maps, name)
    return found


def check_shown(points: np.ndarray, maps: Any, name: str) -> None:
    """SpecError unless all points lie in the picture, and where its input shows it."""
    import numpy as np

    (height, width), shown = maps.size, maps.valid(points)
    if shown.all():
        return
    x, y = points.T
    inside = (x >= -0.5) & (x <= width - 0.5) & (y >= -0.5) & (y <= height - 0.5)
    out = ~inside if not inside.all() else ~shown
    first = ",".join(f"{number:g}" for number in points[np.flatnonzero(out)[0]])
    count = f"{int(out.sum())} of {len(points)} points, the first {first},"
    if not inside.all():
        raise SpecError(
            f"{name} has {width}×{height} pixels (x from -0.5 to {width - 0.5:g}, y from -0.5 to "
            f"{height - 0.5:g}); {count} lie outside"
        )
    raise SpecError(
        f"{name}: {count} lie where the crop shows nothing of the picture; choose others, or "
        "features with --fit squash or pad"
    )


def read_points(path: Path) -> Points:
    """The points of a table with the columns x and y, and point, their names, where there is one.

    Raises:
        SpecError: what is no number; says in which line.
        SourceError: no table that can be read, or one without these columns.
    """
    import numpy as np

    from diffeat.images.tables import TABLES, read_columns, text_of

    expected = "columns x,y or x,y,point"
    if path.suffix.lower() not in TABLES:
        raise SpecError(f"{path}: expected a table {', '.join(TABLES)} with the {expected}")
    text = text_of(path, f"a table with the {expected}")
    named = re.search(r"\bpoint\b", text.split("\n", 1)[0]) is not None
    wanted = (("x",), ("y",), ("point",))[: 2 + named]
    rows = list(read_columns(path, text, wanted, expected))
    if not rows:
        raise SpecError(f"{path} has no points below its first line")
    points = [_number_pair(x, y, f"{path}, line {line}") for line, (x, y, *_) in rows]
    names = tuple(str(row[2] or "").strip() for _, row in rows) if named else ()
    return Points(np.array(points, np.float64), names)


def _number_pair(x: Any, y: Any, where: str) -> tuple[float, float]:
    try:
        found = float(x), float(y)
    except (TypeError, ValueError):
        found = math.nan, math.nan
    if not all(map(math.isfinite, found)):
        raise SpecError(f"{where}: {x!r}, {y!r} is no point; expected x and y in pixels")
    return found


def _written_points(_context: click.Context, _option: click.Parameter, value: str | None):
    """Callback: "120,80 30,40" → ((120, 80), (30, 40))."""
    if value is None:
        return None
    parts = WRITTEN.findall(value)
    try:
        if not parts or WRITTEN.sub("", value).strip():
            raise SpecError(f'{value!r}; expected x,y in pixels, such as "120,80 30,40"')
        return tuple(_number_pair(x, y, value) for x, y in parts)
    except SpecError as error:
        raise click.BadParameter(str(error)) from None
