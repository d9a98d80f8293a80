"""`diffeat segment`: which of its ways is meant, and which options go with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffeat.cli.segment import WAYS

HEAD, WORDS = ("--head", "h.safetensors"), ("--words", "cat,dog")
PARTS, PROPOSALS = ("--parts", "diffcut"), ("--proposals", "m2f")


def refused(diffeat, *options: object) -> str:
    answer = diffeat("segment", "model", "pictures", *options, "-o", "masks")
    assert answer.code == 2, answer
    assert not answer.out
    assert not Path("masks").exists()
    return " ".join(answer.err.split())


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch, tmp_path) -> None:
    """Whatever gets beyond the dispatch fails the test."""
    monkeypatch.chdir(tmp_path)
    for way in ("head", "vpd", "words", "parts", "proposals"):
        monkeypatch.setattr(
            f"diffeat.cli.segment_{way}.run",
            lambda *_, way=way: pytest.fail(f"it went on to {way}"),
        )


def test_none_of_them(diffeat) -> None:
    said = refused(diffeat)
    assert "none of them; expected one: --head" in said
    for way in WAYS:
        assert f"--{way} " in said


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ((*HEAD, *WORDS), "--head and --words"),
        ((*WORDS, *PARTS), "--words and --parts"),
        ((*HEAD, *PARTS, *WORDS), "--head and --words and --parts"),
        ((*WORDS, *PROPOSALS), "--words and --proposals"),
        (("--words", "", *PARTS), "--words and --parts"),
    ],
)
def test_several_of_them(diffeat, options, named) -> None:
    assert f"{named}; expected one" in refused(diffeat, *options)


def test_a_way_that_there_is_not(diffeat) -> None:
    assert "'difcut' is not one of" in refused(diffeat, "--parts", "difcut")


@pytest.mark.parametrize(
    ("way", "option", "owner"),
    [
        (HEAD, ("--background", "otsu"), "words"),
        (HEAD, ("--heat",), "words"),
        (HEAD, ("--each-picture",), "parts"),
        (HEAD, ("--stuff", "sky"), "proposals"),
        (WORDS, ("--uncertainty",), "head"),
        (WORDS, ("--clusters", "3"), "parts"),
        (WORDS, ("--threshold", "0"), "parts"),
        (WORDS, ("--vocabulary", "cat"), "proposals"),
        (PARTS, ("--uncertainty",), "head"),
        (PARTS, ("--guidance", "0"), "words"),
        (PARTS, ("--rescale",), "words"),
        (PARTS, ("--object-threshold", "0"), "proposals"),
        (PROPOSALS, ("--weights", "even"), "words"),
        (PROPOSALS, ("--clusters", "0"), "parts"),
        ((*HEAD, *PROPOSALS), ("--uncertainty",), "head"),
    ],
)
def test_options_of_another_way(diffeat, way, option, owner) -> None:
    """They are refused by their names, with 0 as with any number."""
    said = refused(diffeat, *way, *option)
    assert f"{option[0]} is for --{owner}, not for --" in said


@pytest.mark.parametrize(
    "option",
    [("-t", "20"), ("-t", "0"), ("-b", "up.1"), ("--recipe", "dift-sd21"), ("--size", "32"),
     ("--seed", "0"), ("--prompt", "a cat"), ("--raw-latent",), ("--heads", "0")],
)  # fmt: skip
def test_features_of_a_head_are_not_asked_for(diffeat, option) -> None:
    name = {"-t": "--timesteps", "-b": "--blocks", "--raw-latent": "--scale-latent"}
    said = refused(diffeat, *HEAD, *option)
    assert f"{name.get(option[0], option[0])} is for --words and --parts; a head knows" in said
    assert "is for --words and --parts; proposals need none" in refused(
        diffeat, *PROPOSALS, *option
    )


@pytest.mark.parametrize("way", [WORDS, PARTS, PROPOSALS, (*HEAD, *PROPOSALS), HEAD])
def test_each_goes_its_own_way(diffeat, way, monkeypatch) -> None:
    taken = []
    for one in ("head", "vpd", "words", "parts", "proposals"):
        monkeypatch.setattr(f"diffeat.cli.segment_{one}.run", lambda *_, one=one: taken.append(one))
    monkeypatch.setattr("diffeat.cli.segment_vpd.is_vpd", lambda path: False)
    assert diffeat("segment", "model", "pictures", *way).code == 0
    assert taken == [way[-2].removeprefix("--")]


def test_a_trained_vpd_is_told_from_a_head(diffeat, monkeypatch) -> None:
    taken = []
    monkeypatch.setattr("diffeat.cli.segment_vpd.run", lambda *_: taken.append("vpd"))
    monkeypatch.setattr("diffeat.cli.segment_vpd.is_vpd", lambda path: True)
    assert diffeat("segment", "model", "pictures", *HEAD).code == 0
    assert taken == ["vpd"]


def test_a_head_that_is_not_there(diffeat, monkeypatch) -> None:
    monkeypatch.undo()
    answer = diffeat("segment", "pictures", "--head", "nowhere.safetensors", "-o", "masks")
    assert answer.code in (1, 2)
    assert "nowhere.safetensors" in answer.err


def test_help_has_a_line_for_each_way(diffeat) -> None:
    lines = [line for line in diffeat("segment", "--help").out.splitlines()
             if line.strip().startswith("diffeat segment ")]  # fmt: skip
    for way in WAYS:
        assert any(f" --{way} " in line for line in lines), way
