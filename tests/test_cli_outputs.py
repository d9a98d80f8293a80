"""Outputs are checked before work begins, and folders are made."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffeat.backbones import weights
from diffeat.cli import cli
from diffeat.cli.outputs import OutputPath
from tests.store.conftest import Job

WRITERS = {
    "extract": {"output"}, "merge": {"file"}, "export": {"output"}, "view": {"output"},
    "match": {"output", "png_path", "heat_path", "warp_path", "sheet_path", "out", "cache",
              "csv_path", "by_class", "html_path"},
    "probe": {"csv_path", "png_path", "html_path", "save_path", "confusion"},
    "predict": {"output", "page", "confusion"},
    "cluster": {"csv_path", "png_path", "save_path", "page_path"},
    "explain": {"output", "csv_path", "png_path"},
    "segment": {"output", "csv_path"},
    "align": {"csv_path", "png_path", "keep"},
    "search": {"csv_path", "png_path", "html_path", "spec_path", "out", "save_path", "policy_png"},
    "aggregate": {"output", "save_path", "weights_png", "history_png", "checkpoint", "cache"},
    "compare": {"csv_path", "png_path", "out"}, "heads": {"csv_path", "png_path"},
}  # fmt: skip


def test_every_output_is_one():
    found = {
        name: {each.name for each in verb.params if isinstance(each.type, OutputPath)}
        for name, verb in cli.commands.items()
    }
    assert {name: names for name, names in found.items() if names} == WRITERS


@pytest.fixture
def labelled(tmp_path):
    labels = np.arange(60) % 2
    return Job(tmp_path / "f.h5", 60, shape=(3,), labels=labels, class_names=("a", "b")).write()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("extract", "unet-cifar10", "digits", "-o", "a.npz"), "diffeat export F.h5 -o F.npz"),
        (("extract", "unet-cifar10", "digits", "-o", "a.pt"), "says PyTorch"),
        (("view", "f.h5", "-o", "a.npz"), "says NumPy"),
        (("view", "f.h5", "-o", "a"), "says no format"),
        (("probe", "f.h5", "--png", "a.csv"), "says CSV"),
        (("probe", "f.h5", "--csv", "/dev/null/a.csv"), "nothing can be written there"),
        (("probe", "f.h5", "--save", "a.pkl"), "says pickle"),
        (("predict", "h.safetensors", "f.h5", "-o", "a.json"), "says JSON"),
        (("predict", "h.safetensors", "f.h5", "--page", "a.png"), "says PNG"),
        (("probe", "f.h5", "--confusion", "a.html"), "says HTML"),
        (("merge", "a.npz", "f.h5"), "says NumPy"),
        (("export", "f.h5", "-o", "a.csv"), ".npz or .zarr"),
        (("search", "f.h5", "--out", "/dev/null/a"), "nothing can be written there"),
    ],
)
def test_a_place_or_name_that_will_not_do_is_told_first(diffeat, arguments, told):
    """f.h5 is not there: had work begun, that would be the error."""
    answer = diffeat(*arguments)
    assert answer.code == 2
    assert told in " ".join(answer.err.split())


def test_links_to_nowhere_and_files_that_must_not_change(diffeat, labelled, tmp_path, monkeypatch):
    link, held = tmp_path / "link.csv", tmp_path / "held.csv"
    link.symlink_to(tmp_path / "nowhere/t.csv")
    held.write_text("kept")
    whole = Path.open

    def refuse(path, mode="r", *rest, **options):  # root may write everywhere
        if path == held and mode != "r":
            raise PermissionError(13, "Permission denied", str(path))
        return whole(path, mode, *rest, **options)

    monkeypatch.setattr(Path, "open", refuse)
    for out in (link, held):
        answer = diffeat("probe", labelled, "--csv", out)
        assert (answer.code, answer.out) == (2, "")
        assert "nothing can be written there" in " ".join(answer.err.split())
    assert held.read_text() == "kept"


def test_folders_are_made_and_names_are_meant(diffeat, labelled, tmp_path):
    for suffix, kind in ((".jpg", "JPEG"), (".png", "PNG"), (".webp", "WEBP")):
        out = tmp_path / "new/deep" / f"map{suffix}"
        answer = diffeat("probe", labelled, "-C", 1, "--png", out)
        assert answer.code == 0, answer.err
        with Image.open(out) as picture:
            assert picture.format == kind


def test_help_makes_nothing(diffeat, tmp_path):
    diffeat("probe", "f.h5", "--png", tmp_path / "new/a.png", "--help")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("-t", "abc", "-b", "mid"), "t='abc'"),
        (("-t", "2000", "-b", "mid"), "2000"),
        (("-t", "20", "-b", "middle"), "middle"),
        (("-t", "20", "-b", "mid", "--size", "31"), "31"),
    ],
)
@pytest.mark.parametrize("verb", ["extract", "search"])
def test_what_cannot_be_is_told_before_weights_are_read(
    diffeat, monkeypatch, tmp_path, verb, options, told
):  # fmt: skip
    def read(*args, **kwargs):
        raise AssertionError("weights were read")

    monkeypatch.setattr(weights, "_weight_files", read)
    output = ("-o", tmp_path / "a.h5") if verb == "extract" else ()
    answer = diffeat(verb, "unet-cifar10", "digits", *output, *options)
    assert answer.code == 2
    assert told in answer.err


def test_what_was_found_is_printed_before_it_is_written(diffeat, labelled, monkeypatch, tmp_path):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("diffeat.viz.heat_map", full)
    answer = diffeat("probe", labelled, "--png", tmp_path / "a.png")
    assert answer.code == 1
    assert "best on validation" in answer.out
    assert "No space left" in answer.err


def test_few_test_pictures_are_said_with_json_too(diffeat, tmp_path):
    labels = np.arange(12) % 2
    names = ("a", "b")
    few = Job(tmp_path / "few.h5", 12, shape=(3,), labels=labels, class_names=names).write()
    for verb in ("probe", "search"):
        answer = diffeat(verb, few, "--json")
        assert answer.code == 0, answer.err
        json.loads(answer.out)
        assert "test pictures say little" in answer.err
