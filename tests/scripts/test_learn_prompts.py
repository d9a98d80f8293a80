"""Prompts that are learned from a shell."""

from __future__ import annotations

import csv
import json

import diffeat
from diffeat.adapt import PromptTuning
from scripts.learn_prompts import main
from tests.adapt.toys import shifted_pairs


def listed(pairs, folder):
    """The same pairs as a list of key points beside their pictures."""
    folder.mkdir()
    source = pairs.pictures()
    for index, name in enumerate(source.ids):
        source.load(index).save(folder / f"{name}.png")
    with open(folder / "pairs.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["source", "target", "source_x", "source_y", "target_x", "target_y"])
        for pair in range(len(pairs)):
            truth = pairs.truth(pair)
            both = zip(truth.source_points.tolist(), truth.target_points.tolist(), strict=True)
            names = f"{pairs.source[pair]}.png", f"{pairs.target[pair]}.png"
            writer.writerows([*names, *here, *there] for here, there in both)
    return folder / "pairs.csv"


def test_a_prompt_from_a_shell(folder_of, tmp_path, capsys):
    train = listed(shifted_pairs(4, 1), tmp_path / "train")
    held = listed(shifted_pairs(2, 2), tmp_path / "held")
    out = tmp_path / "p.safetensors"
    given = [folder_of("sd2"), train, "-b", "down.0.attn.1", "-t", "20", "--noise", "none",
             "--epochs", "1", "--device", "cpu", "--dtype", "float32"]  # fmt: skip
    assert main([*map(str, [*given, "-o", out, "--validation", held])]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["epoch"] for line in lines] == [0, 1]
    backbone = diffeat.load(str(folder_of("sd2")), device="cpu", dtype="float32")
    loaded = PromptTuning.load(out, backbone)
    assert loaded.t == "20"
    assert loaded.options == {"noise": "none"}


def test_what_cannot_be_learned_is_said(folder_of, tmp_path, capsys):
    given = [str(folder_of("sd2")), str(tmp_path / "none.csv")]
    assert main([*given, "-o", str(tmp_path / "p.safetensors")]) == 1
    assert "none.csv" in capsys.readouterr().err
    assert main([*given, "-o", str(tmp_path / "p.pt")]) == 1
    assert "ends in .safetensors" in capsys.readouterr().err
