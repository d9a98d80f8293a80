"""`diffeat match` of a clip: a mask or points of its first frame, carried to all its frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np

import diffeat.companions  # noqa: F401 - before anything imports `probes`
from diffeat.cli.ending import note
from diffeat.cli.extracted import extracted, features_folder
from diffeat.cli.match_cells import (
    cells_words,
    check_one,
    named,
    refuse_options_of_models,
    spec_of_maps,
)
from diffeat.cli.match_drawn import read_mask
from diffeat.cli.match_options import CARRYING, Points, matcher_of, points_of, propagator_of, told
from diffeat.cli.options import model_fields, print_json
from diffeat.cli.outputs import make_ready
from diffeat.errors import PictureError, SourceError, SpecError, StoreError


@dataclass
class Followed:
    """A clip, and what was found in its frames.

    Attributes:
        what: the features' file or model.
        clip: for people.
        frames: F ids.
        cells: `probes.cells.Cells` of the frames.
        load: place of a frame → its pixels.
        rows: of the CSV.
        drawn: place → mask, or (n, 2) points, of the frames that a strip shows.
    """

    what: str
    clip: str
    frames: Sequence[str]
    cells: Any
    load: Any
    rows: list[dict[str, Any]] = field(default_factory=list)
    drawn: dict[int, np.ndarray] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Of what is drawn."""
        return f"{self.what}: {cells_words(self.cells.keys)}"


def match_frames(what: str, frames: str, from_file: bool, values: dict[str, Any]) -> None:
    """Follow a mask or points through a clip, and write what is asked for."""
    by_mask = values["mask"] is not None
    how = propagator_of(values) if by_mask else matcher_of(values)
    if by_mask and values["output"]:
        make_ready(values["output"], folder=True)
    source = _clip_at(frames)
    if by_mask and values["output"]:
        _check_output(values["output"], values, source)
    with ExitStack() as stack:
        one = (_of_file if from_file else _of_model)(stack, what, frames, source, values)
        report = (_follow_mask if by_mask else _follow_points)(one, how, values)
        _draw(one, values)
    if values["as_json"]:
        print_json({"features": what, "clip": one.clip, "frames": len(one.frames), "cells": [
            {"block": block, "t": t} for block, t in one.cells.keys
        ], "with": _how_text(how), **report.pop("json"), "rows": one.rows})  # fmt: skip
    else:
        click.echo(f"{one.title}; {_how_text(how)}")
        click.echo(f"{one.clip}: {len(one.frames)} frames; {report['text']}")


def _how_text(how: Any) -> str:
    """A matcher, or a propagator with what it goes by."""
    from diffeat.search.matching.rules import matcher_text

    if not hasattr(how, "top_k"):
        return matcher_text(how)
    shown = {name: value for name, value in how.get_params().items() if name in CARRYING}
    return f"LabelPropagator({', '.join(f'{k}={v}' for k, v in shown.items() if v is not None)})"


def _check_output(folder: Path, values: dict[str, Any], source: Any) -> None:
    """SpecError where masks would be written over what they are made of or compared with."""
    inputs = {"the first mask": values["mask"].parent, "the true masks": values["truth"]}
    if source is not None:
        inputs["the frames"] = source.frames[0][0].parent
    for name, place in inputs.items():
        if place is not None and place.resolve() == folder.resolve():
            raise SpecError(f"-o {folder} holds {name}, which could be written over; name another "
                            "folder for the masks")  # fmt: skip


def _of_file(
    stack: ExitStack, what: str, frames: str, source: Any, values: dict[str, Any]
) -> Followed:
    """The clip in a feature file: by its name there, or by where it lies."""
    from diffeat.search.clips import clip_cells, frame_rows, frames_in
    from diffeat.store import FeatureStore, find_originals

    refuse_options_of_models(what, values)
    store = stack.enter_context(FeatureStore(what))
    if source is None:
        ids, names = frames_in(store, frames), ()
    else:
        ids, names = source.ids, [path.name for path, _ in source.frames]
    rows = frame_rows(store, ids, values["missing"], names)
    if lost := int((rows < 0).sum()):
        note(f"{lost} of {len(rows)} frames are left out, which {what} lacks")
    places = np.flatnonzero(rows >= 0)
    ids, rows = [ids[place] for place in places], rows[places]
    cells = clip_cells(store, rows, values["blocks"], store.native(values["timesteps"]))
    check_one(what, cells.keys, values)

    def load(place: int) -> np.ndarray:
        if source is not None and values["pictures_at"] is None:
            return np.asarray(source.load(int(places[place])))
        try:
            name = store.ids[int(rows[place])]
            found, (row,) = find_originals(store, [name], values["pictures_at"])
        except (SourceError, StoreError) as error:
            raise StoreError(f"{error}, or leave --png out") from error
        return np.asarray(found.load(row))

    return Followed(what, frames, ids, cells, load)


def _of_model(
    stack: ExitStack, what: str, frames: str, source: Any, values: dict[str, Any]
) -> Followed:
    """The clip, whose features are computed now."""
    from diffeat.backbones import ModelRequest
    from diffeat.extraction import Plan
    from diffeat.loading import load
    from diffeat.noise import plain_t
    from diffeat.search.clips import clip_cells, frame_rows

    if source is None:
        raise SpecError(f"{frames!r} is no folder of frames, video or named set with one clip")
    spec = named(spec_of_maps(what, values), values["category"])
    plan = Plan(load(what, "meta"), spec)
    keys = [(block.name, plain_t(level.t)) for block in plan.blocks for level in plan.levels]
    check_one(what, keys, values)  # before minutes of work
    path = values["cache"] or features_folder(stack, None, "--cache F.h5") / "maps.h5"
    request = ModelRequest(what, **model_fields(values))
    try:
        store = extracted(stack, request, source, spec, path, values, kept=bool(values["cache"]))
    except PictureError as error:
        raise click.ClickException(
            f"{error}; or leave such out with --on-error skip --missing leave-out"
        ) from error
    rows = frame_rows(store, source.ids, values["missing"])
    places = np.flatnonzero(rows >= 0)
    ids = [source.ids[place] for place in places]
    return Followed(what, frames, ids, clip_cells(store, rows[places]),
                    lambda place: np.asarray(source.load(int(places[place]))))  # fmt: skip


def _clip_at(name: str) -> Any:
    """The one clip that a folder, a video or a named set is; None where there is nothing.

    Raises:
        SpecError: several clips.
    """
    from diffeat.images import clip_of, open_source
    from diffeat.images.clips import PREFIX, from_clips
    from diffeat.images.datasets import DATASETS

    place = Path(name.removeprefix(PREFIX))
    if place.exists():
        source = from_clips(name if name.startswith(PREFIX) else f"{PREFIX}{name}")
    elif name.partition(":")[0] in DATASETS:
        source = open_source(name)
    else:
        return None
    clips = tuple(dict.fromkeys(map(clip_of, source.ids)))
    if len(clips) != 1 or clips[0] is None:
        shown = ", ".join(map(str, clips[:12]))
        raise SpecError(f"{name} holds {len(clips)} clips ({shown}); name one of them")
    return source


def _follow_mask(one: Followed, propagator: Any, values: dict[str, Any]) -> dict[str, Any]:
    """The labels of the first frame in all others: PNGs, areas, and how good they are."""
    from probes.metrics import VideoScores

    size = tuple(int(side) for side in one.cells.sizes[0])
    mask, palette = read_mask(values["mask"], size, one.frames[0])
    truth = _truth_of(values["truth"], one) if values["truth"] else None
    objects = [int(k) for k in np.unique(mask) if k]
    if truth and objects and not _of_objects(truth[0], objects, size).any():
        raise SpecError(f"{truth[0]} shows none of the objects {objects} of {values['mask']}; "
                        "expected a true mask with the same numbers")  # fmt: skip
    scores, places = VideoScores(), set(_shown(one, values))
    with told():
        for place, labels in enumerate(_counted(propagator.propagate(one.cells, mask), one)):
            if values["output"]:
                _write_mask(values["output"], one.frames[place], place, labels, palette)
            if place in places:
                one.drawn[place] = labels
            if truth is not None:
                scores.update(one.clip, labels, _of_objects(truth[place], objects, size))
            one.rows += [{"frame": one.frames[place], "object": k, "area": int((labels == k).sum())}
                         for k in objects]  # fmt: skip
        if truth is not None:
            _with_scores(one.rows, scores, one.clip, objects)
        found = scores.by_object() if truth is not None else {}
    if values["csv_path"]:
        _write_rows(values["csv_path"], one.rows)
    lines = [f"object{'s' * (len(objects) > 1)} {', '.join(map(str, objects))}"]
    lines += [f"object {k}: J {100 * two['J']:.1f}, F {100 * two['F']:.1f}, J&F "
              f"{100 * two['J&F']:.1f} % (without the first and the last frame)"
              for (_, k), two in found.items()]  # fmt: skip
    if values["output"]:
        lines[0] += f"; masks in {values['output']}"
    scored = {str(k): two for (_, k), two in found.items()}
    return {"text": "\n".join(lines), "json": {"objects": objects, "scores": scored}}


def _follow_points(one: Followed, matcher: Any, values: dict[str, Any]) -> dict[str, Any]:
    """Points of the first frame in all others, by matching."""
    from probes.propagation import track_points

    points: Points = points_of(values, one.cells.maps(0), one.frames[0])
    names = points.names or tuple(str(k + 1) for k in range(len(points.at)))
    places, cosine = set(_shown(one, values)), matcher.metric == "cosine"
    with told():
        tracks = track_points(one.cells, points.at, matcher, chained=values["chained"],
                              check=values["check"])  # fmt: skip
        for place, found in enumerate(_counted(tracks, one)):
            if place in places:
                one.drawn[place] = np.where(found.valid[:, None], found.points, np.nan)
            each = zip(names, found.points.tolist(), found.score.tolist(), found.valid.tolist(),
                       strict=True)  # fmt: skip
            one.rows += [{"frame": one.frames[place], "point": name, "x": x, "y": y,
                          "score": min(score, 1.0) if cosine else score, "valid": valid}
                         for name, (x, y), score, valid in each]  # fmt: skip
    if values["output"]:
        rows = [{**row, "valid": int(row["valid"])} for row in one.rows]
        _write_rows(values["output"], rows)
    valid = sum(row["valid"] for row in one.rows)
    where = f" in {values['output']}" if values["output"] else ""
    text = f"{len(names)} points, {valid} of {len(one.rows)} places valid{where}"
    return {"text": text, "json": {}}


def _counted(found: Iterator[Any], one: Followed) -> Iterator[Any]:
    from diffeat.progress import counted

    with counted(len(one.frames), desc="follow", unit="frames") as bar:
        for each in found:
            yield each
            bar.update()


def _shown(one: Followed, values: dict[str, Any]) -> list[int]:
    """Places of the frames that are drawn."""
    from diffeat.viz.frames import strip_places

    return strip_places(len(one.frames)).tolist() if values["png_path"] else []


def _draw(one: Followed, values: dict[str, Any]) -> None:
    if not values["png_path"]:
        return
    from diffeat.viz import frame_strip

    places = sorted(one.drawn)
    pictures = [one.load(place) for place in places]
    for place, picture in zip(places, pictures, strict=True):
        if picture.shape[:2] != (size := tuple(one.cells.sizes[place])):
            raise SpecError(
                f"{one.frames[place]} has {picture.shape[1]}×{picture.shape[0]} pixels by now; its "
                f"features are of {size[1]}×{size[0]}: extract it again"
            )
    kind = "masks" if values["mask"] else "points"
    frame_strip(pictures, values["png_path"], heads=[one.frames[place] for place in places],
                title=one.title, **{kind: [one.drawn[place] for place in places]})  # fmt: skip


def _write_mask(folder: Path, frame: str, place: int, labels: np.ndarray, palette: Any) -> None:
    """One label a pixel, with the first mask's palette where it has one."""
    from PIL import Image

    from diffeat.images import clip_of, number_of

    number = place if clip_of(frame) is None else number_of(frame)
    image = Image.fromarray(labels)
    if palette is not None:
        image.putpalette(palette)
    image.save(folder / f"{number:05d}.png")


def _truth_of(folder: Path, one: Followed) -> list[Path]:
    """The true masks of the frames: by the numbers of the frames, else all of a folder in order.

    Raises:
        SourceError: no such folder, or other masks than one for each frame.
    """
    from diffeat.images import clip_of, number_of
    from diffeat.images.clips import in_order
    from diffeat.images.walk import is_picture

    if not folder.is_dir():
        raise SourceError(f"{folder} is no folder; expected one with a true mask for each frame")
    found = sorted((path for path in folder.iterdir() if is_picture(path.name)),
                   key=lambda path: in_order(path.name))  # fmt: skip
    if len(found) == len(one.frames):
        return found
    by_number = {int(path.stem): path for path in found if path.stem.isdecimal()}
    numbers = [number_of(frame) if clip_of(frame) else -1 for frame in one.frames]
    if any(number not in by_number for number in numbers):
        raise SourceError(
            f"{folder} holds {len(found)} masks for {len(one.frames)} frames; expected as many in "
            "their order, or masks called by the frames' numbers"
        )
    return [by_number[number] for number in numbers]


def _of_objects(path: Path, objects: list[int], size: tuple[int, int]) -> np.ndarray:
    """A true mask, with the objects of the first one alone."""
    labels, _ = read_mask(path, size, "its frame")
    return np.where(np.isin(labels, objects), labels, 0)


def _with_scores(rows: list[dict[str, Any]], scores: Any, clip: str, objects: list[int]) -> None:
    """Add J and F of each frame and object; the first and the last frame have none."""
    each = scores.frames(clip)
    for place, row in enumerate(rows):
        frame, k = place // len(objects) - scores.skip[0], row["object"]
        known = k in each and 0 <= frame < len(each[k])
        row["J"], row["F"] = each[k][frame].tolist() if known else (None, None)


def _write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    from diffeat.search.grid import write_rows

    write_rows(path, rows)
