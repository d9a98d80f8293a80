"""A VPD that is trained from a shell."""

from __future__ import annotations

import json

import diffeat
from diffeat.adapt import VPD
from scripts.train_vpd import main
from tests.adapt.named_masks import draw


def test_a_vpd_from_a_shell(folder_of, tmp_path, capsys):
    draw(tmp_path / "train", 4, 0)
    draw(tmp_path / "held", 2, 1)
    out, folder = tmp_path / "v.safetensors", folder_of("sd1")
    given = [folder, tmp_path / "train", "--validation", tmp_path / "held", "-b", "vpd:1,vpd:4",
             "--attention", "up.*.attn.*:cross.map", "--size", 32, "--width", 8, "--epochs", 1,
             "--templates", "plain", "--device", "cpu", "--dtype", "float32"]  # fmt: skip
    assert main([*map(str, [*given, "-o", out])]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["epoch"] for line in lines] == [0, 1]
    assert all("validation_mean_iou" in line for line in lines)
    backbone = diffeat.load(str(folder), device="cpu", dtype="float32")
    assert VPD.load(out, backbone).vocabulary_.names == ("cat", "dog", "sky")
    assert main([*map(str, [*given, "-o", tmp_path / "v.pt"])]) == 1
    assert "ends in .safetensors" in capsys.readouterr().err
