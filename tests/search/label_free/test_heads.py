"""Each head on its own, against numbers of the channels that belong to it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from diffeat.errors import SpecError
from diffeat.extraction import extract
from diffeat.search.label_free import head_scores, head_tensors
from diffeat.specs import ExtractSpec
from probes.metrics import effective_rank, local_distant_similarity
from tests.command import command
from tests.search.label_free.test_scores import pictures


@pytest.fixture
def diffeat(monkeypatch, capsys):
    with command(monkeypatch, capsys) as run:
        yield run


class TestTensors:
    def test_places_and_kinds(self, backbone_of):
        backbone = backbone_of("dit")
        found = head_tensors(backbone, ["block.1"], ["q", "z"])
        assert [block.name for block in found] == ["block.1:self.q", "block.1:self.z"]
        everything = head_tensors(backbone)
        heads = backbone.denoiser.config.num_attention_heads
        assert {block.heads for block in everything} == {heads}
        assert {block.tensor for block in everything} == {"self.q", "self.k", "self.v", "self.z"}

    def test_maps_come_head_by_head(self, backbone_of):
        backbone = backbone_of("dit")
        heads = backbone.denoiser.config.num_attention_heads
        expected = [f"block.0:self.map.h{k}" for k in range(heads)]
        for patterns, kinds in ((["block.0"], ["map"]), (["block.0:self.map"], ["q"])):
            assert [b.name for b in head_tensors(backbone, patterns, kinds)] == expected

    def test_text_has_no_site(self, backbone_of):
        names = {block.tensor for block in head_tensors(backbone_of("sd1"))}
        assert {"self.q", "self.k", "self.v", "cross.q"} <= names
        assert not names & {"cross.k", "cross.v"}

    def test_what_is_not_there(self, backbone_of):
        backbone = backbone_of("dit")
        with pytest.raises(SpecError, match="kind 'w' is unknown; expected some of q, k, v"):
            head_tensors(backbone, ["all"], ["w"])
        with pytest.raises(SpecError, match=r"block 'blok.1' selects nothing"):
            head_tensors(backbone, ["blok.1"])
        with pytest.raises(SpecError, match="no such head"):
            head_tensors(backbone, ["block.0:self.q.h99"])
        with pytest.raises(SpecError, match=r"conv_in: no tensor of the kinds q.*with attention"):
            head_tensors(backbone_of("pixel"), ["conv_in"], ["q"])


def test_a_head_is_its_channels(backbone_of):
    backbone, source = backbone_of("dit"), pictures(5)
    spec = ExtractSpec(timesteps=(40,), blocks=("block.1:self.q", "block.0:self.map"), size=16)
    table = head_scores(backbone, source, spec, scores=["lds", "rank", "agreement"])
    heads = backbone.denoiser.config.num_attention_heads
    names = [*(f"block.0:self.map.h{k}" for k in range(heads)),
             *(f"block.1:self.q.h{k}" for k in range(heads))]  # fmt: skip
    assert [block for block, _ in table.cells] == names
    plain = ExtractSpec(**{**vars(spec), "pool": "none", "dtype": "float32",
                           "blocks": ("block.1:self.q",)})  # fmt: skip
    whole = extract(backbone, source, plain)["block.1:self.q", 40].double()
    other = extract(backbone, source, ExtractSpec(**{**vars(plain), "seed": 1}))
    other = other["block.1:self.q", 40].double()
    for head, (mine, again) in enumerate(zip(whole.chunk(heads, 1), other.chunk(heads, 1),
                                             strict=True)):  # fmt: skip
        found = table.cells[f"block.1:self.q.h{head}", 40]
        assert found["rank"] == pytest.approx(effective_rank(mine.numpy()))
        assert found["lds"] == pytest.approx(local_distant_similarity(mine.numpy()).mean())
        assert found["same"] == pytest.approx(float(torch.cosine_similarity(mine, again, 1).mean()))


class TestCommand:
    def test_bundled_model(self, diffeat, tmp_path):
        png, table = tmp_path / "h.png", tmp_path / "h.csv"
        run = ("heads", "unet-cifar10", "digits", "-b", "up.0.**", "--kinds", "q,z",
               "--limit", 4, "--threads", 1)  # fmt: skip
        answer = diffeat(*run, "-t", "20,100", "--png", png, "--csv", table, "--top", 3)
        assert answer.code == 0, answer.err
        first, head, *lines = answer.out.splitlines()
        assert first == "unet-cifar10: 24 heads at 2 t, without labels, on 4 pictures"
        assert head.split()[:3] == ["block", "head", "t"]
        assert lines[-1] == "… 45 more heads (--top, --csv); sorted by agreement"
        assert len(lines) == 4
        assert len(table.read_text().splitlines()) == 1 + 48
        with Image.open(png) as picture:
            assert min(picture.size) > 300
            assert len(np.unique(np.asarray(picture.convert("L")))) > 50
        answer = diffeat(*run, "-t", 20, "--json", "--scores", "lds")
        found = json.loads(answer.out)
        assert found["scores"] == ["lds"]
        assert {(row["block"], row["head"]) for row in found["cells"]} == {
            (f"up.0.attn.{place}:self.{kind}", head)
            for place in range(2) for kind in "qz" for head in range(6)
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("more", "told"),
        [
            (("-t", 20, "-b", "up.1"), "places with attention are down.2.attn.0"),
            (("-t", 20, "--kinds", "x"), "kind 'x' is unknown"),
            (("-t", 20, "--scores", "sharpness"), "score 'sharpness' is unknown"),
            (("-t", 20, "--scores", "lds", "--sort", "rank"), "--sort rank; expected one of lds"),
            (("-t", 20, "--noise", "none", "--scores", "agreement"), "noise that a seed changes"),
            (("-t", 20, "--ratio", 1, "--limit", 2), "ratio=1"),
            ((), "no timesteps given"),
        ],
    )
    def test_what_cannot_be_meant(self, diffeat, more, told):
        answer = diffeat("heads", "unet-cifar10", "digits", *more)
        assert answer.code in (1, 2)
        assert answer.out == ""
        assert told in " ".join(answer.err.split())
