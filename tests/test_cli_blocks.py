"""`diffeat models` and `diffeat blocks`."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

import diffeat as package
from diffeat.backbones import FAMILIES
from diffeat.backbones.locate import known_models
from diffeat.cli import cli
from diffeat.vision.backbone import Vision
from tests.pipelines import EACH_PATH, TALL, levels, pictures, prompt_and_label, save_pixel

MODEL = "unet-cifar10"
COLUMNS = ["order", "block", "kind", "channels", "stride", "heads", "shape"]


def table(text: str) -> list[dict[str, str]]:
    """The rows of `diffeat blocks`, below the line of the columns."""
    lines = [line.split() for line in text.splitlines()]
    start = lines.index(COLUMNS)
    return [dict(zip(COLUMNS, line, strict=True)) for line in lines[start + 1 :]]


# --- models ---------------------------------------------------------------------------------


def test_bundled_models(diffeat):
    answer = diffeat("models")
    assert answer.code == 0
    assert re.search(rf"^  {MODEL} +UNet2DModel +5\.9 M parameters  32×32  epsilon$", answer.out,
                     re.MULTILINE)  # fmt: skip
    found = json.loads(diffeat("models", "--json").out)
    assert set(found) == {"bundled", "known", "families"}
    bundled = {model["name"]: model for model in found["bundled"]}[MODEL]
    weights = Path(package.__file__).parent / "backbones/zoo" / MODEL
    # fp16: two bytes a weight, behind a small header
    size = sum(path.stat().st_size for path in weights.glob("*/*.safetensors"))
    assert 0 <= size / 2 - bundled["parameters"] < 50_000
    assert bundled["size"] == 32


def test_known_models(diffeat):
    text, found = diffeat("models").out, json.loads(diffeat("models", "--json").out)["known"]
    assert [model["name"] for model in found] == sorted(known_models())
    for model in found:
        index = json.loads((known_models()[model["name"]] / "model_index.json").read_text("utf-8"))
        assert model == {
            "name": model["name"],
            "hub_id": index["_hub_id"],
            "parameters": index["_parameters"],
            "source": index["_source"],
        }
        millions = f"{index['_parameters'] / 1e6:,.1f}"
        where = index["_hub_id"] or "no hub; convert the checkpoint with scripts/convert.py"
        assert re.search(
            rf"^  {model['name']} +{millions} M parameters  {re.escape(where)}$", text, re.MULTILINE
        )
    assert {model["hub_id"] is None for model in found} == {True, False}


def test_families_are_those_that_load(diffeat):
    text, found = diffeat("models").out, json.loads(diffeat("models", "--json").out)["families"]
    by_name = {family.family: family for family in (*FAMILIES, Vision)}
    assert [family["family"] for family in found] == sorted(by_name)
    assert len(found) == 12
    for each in found:
        family = by_name[each["family"]]
        assert (each["covers"], each["example"]) == (family.covers, family.example)
        line = re.escape(f"{family.covers}, such as {family.example}")
        assert re.search(rf"^  {family.family} +{line}$", text, re.MULTILINE)


# --- blocks ---------------------------------------------------------------------------------


def test_a_table_of_blocks(diffeat):
    answer = diffeat("blocks", MODEL)
    assert answer.code == 0
    first = answer.out.splitlines()[0]
    assert first == f"{MODEL}: pixel-unet, 5.9 M parameters, shapes for 32×32 pictures"
    rows = table(answer.out)
    assert [int(row["order"]) for row in rows] == list(range(len(rows)))
    found = {row["block"]: row for row in rows}
    assert list(found) == [block.name for block in package.load(MODEL, "meta").blocks]
    assert found["mid"] == {
        "order": found["mid"]["order"], "block": "mid", "kind": "stage",
        "channels": "192", "stride": "4", "heads": "-", "shape": "192×8×8",
    }  # fmt: skip


@pytest.mark.parametrize("options", [(), ("--tensors",), ("-b", "up.*:pre", "--size", "64")])
def test_what_weights_and_features_take(diffeat, options):
    answer = diffeat("blocks", MODEL, *options)
    rows = json.loads(diffeat("blocks", MODEL, *options, "--json").out)
    weights = re.search(r"weights ([\d.,]+) GB in bfloat16", answer.out)
    features = re.search(r"([\d.,]+) MB per picture and t in float16", answer.out)
    assert float(weights[1]) == pytest.approx(2 * 5.9e6 / 1e9, abs=0.005)
    values = sum(math.prod(row["shape"]) for row in rows)
    assert float(features[1].replace(",", "")) == pytest.approx(2 * values / 1e6, abs=0.0051)


def test_table_and_json_agree(diffeat, folder_of):
    options = ("blocks", folder_of("sdxl"), "--tensors", "--size", "48x32")
    rows = table(diffeat(*options).out)
    found = json.loads(diffeat(*options, "--json").out)
    assert len(rows) == len(found)
    for row, block in zip(rows, found, strict=True):
        assert row == {
            "order": str(block["order"]),
            "block": block["name"],
            "kind": block["kind"],
            "channels": str(block["channels"]),
            "stride": str(block["stride"]),
            "heads": str(block["heads"] or "-"),
            "shape": "×".join(map(str, block["shape"])),
        }


@pytest.mark.parametrize("name", EACH_PATH)
def test_shapes_are_those_of_real_features(name, diffeat, folder_of, backbone_of):
    size = "x".join(map(str, TALL))
    answer = diffeat("blocks", folder_of(name), "--tensors", "--size", size, "--json")
    listed = {block["name"]: block for block in json.loads(answer.out)}
    backbone = backbone_of(name)
    assert list(listed) == [block.name for block in backbone.tensors]
    spec = package.ExtractSpec(levels(name)[1], list(listed), **prompt_and_label(name))
    features = package.extract(backbone, pictures(1, TALL), spec)
    for (block, _), value in features.items():
        row = listed[block]
        assert row["shape"] == list(value.shape[1:]), block
        if row["layout"] == "text":
            assert (row["stride"], row["channels"]) == (0, value.shape[2]), block
        else:
            assert row["channels"] == value.shape[1], block
            cells = [side // row["stride"] for side in TALL]
            assert list(value.shape[2:]) == cells, block
    kinds = [block for block, row in listed.items() if row["tensor"]]
    assert kinds == [block for block in listed if ":" in block]


def test_shapes_need_no_weights(diffeat, copy_of):
    folder = copy_of("flux")
    before = diffeat("blocks", folder, "--tensors", "--json").out
    for path in folder.rglob("*.safetensors"):
        path.unlink()
    assert diffeat("blocks", folder, "--tensors", "--json").out == before


def test_the_native_size_is_the_default(diffeat, folder_of):
    folder = folder_of("sd1")
    plain = diffeat("blocks", folder, "--json").out
    assert diffeat("blocks", folder, "--size", 32, "--json").out == plain
    assert diffeat("blocks", folder, "--size", "32x32", "--json").out == plain
    assert diffeat("blocks", folder, "--size", "32x48", "--json").out != plain


def test_a_model_without_a_size_of_its_own(diffeat, tmp_path):
    save_pixel(tmp_path / "any", sample_size=None)
    answer = diffeat("blocks", tmp_path / "any")
    assert answer.code == 2
    assert "names no size of its own; give one (--size)" in answer.err
    rows = table(diffeat("blocks", tmp_path / "any", "--size", "16x24").out)
    assert {row["block"]: row["shape"] for row in rows}["conv_in"] == "8×16×24"


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ("mid,up.0", ["mid", "up.0"]),
        ("up.1, mid", ["mid", "up.1"]),
        (
            "up.1.attn.0:cross.*",
            [f"up.1.attn.0:cross.{k}" for k in ("q", "k", "v", "z", "out", "map")],
        ),
        ("up.1.attn.0:cross.q.h*", [f"up.1.attn.0:cross.q.h{head}" for head in (0, 1)]),
        ("dift:1,uscsd:0", ["up.1.attn.0:cross.map", "up.1"]),
        ("decoder:skip", [f"up.{i}.res.{j}:skip" for i in (0, 1) for j in (0, 1, 2)]),
        ("net:*,vae", ["vae", "net:in", "net:out", "net:x0"]),
    ],
)
@pytest.mark.parametrize("more", [(), ("--tensors",)])
def test_chosen_tensors(diffeat, folder_of, patterns, expected, more):
    folder = folder_of("sd1")
    rows = table(diffeat("blocks", folder, "-b", patterns, *more).out)
    assert [row["block"] for row in rows] == expected
    found = json.loads(diffeat("blocks", folder, "--blocks", patterns, *more, "--json").out)
    assert [block["name"] for block in found] == expected


@pytest.mark.parametrize("model", ["sd1", "adm", "flux"])
def test_names_of_papers(diffeat, folder_of, backbone_of, model):
    found = json.loads(diffeat("blocks", folder_of(model), "--aliases", "--json").out)
    assert found == backbone_of(model).aliases
    lines = diffeat("blocks", folder_of(model), "--aliases").out.splitlines()
    assert [line.split() for line in lines] == [list(pair) for pair in found.items()]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("-b", "up.9"), ["'up.9' selects nothing", "did you mean 'up."]),
        (("-b", "up.1.attn.0:cross.x"), ["up.1.attn.0 has block, self.q, self.k"]),
        (("-b", "dift:9"), ["of dift this model has dift:0, dift:1"]),
        (("--size", "big"), ["--size", "480x640"]),
        (("--size", "1x2x3"), ["--size", "480x640"]),
        (("--size", "-32"), ["--size"]),
        (("--size", "33"), ["33×33", "multiples of 4"]),
        (("--size", "32x30"), ["32×30", "multiples of 4"]),
    ],
)
def test_wrong_options(diffeat, folder_of, options, words):
    answer = diffeat("blocks", folder_of("sd1"), *options)
    assert answer.code == 2
    for word in words:
        assert word in answer.err


def test_an_unknown_model_suggests_one(diffeat):
    answer = diffeat("blocks", "unet-cifar1")
    assert answer.code == 1
    assert "'unet-cifar1'" in answer.err
    assert "did you mean 'unet-cifar10'" in answer.err


def test_options_are_those_that_are_documented():
    names = {name for option in cli.commands["blocks"].params for name in option.opts}
    assert {"--tensors", "-b", "--blocks", "--aliases", "--size", "--json"} <= names


def test_shapes_agree_with_a_file(diffeat, tmp_path):
    found = {b["name"]: b for b in json.loads(diffeat("blocks", MODEL, "--tensors", "--json").out)}
    names = ("mid", "up.0", "up.0.res.1:skip", "mid.attn.0:self.map")
    done = diffeat("extract", MODEL, "digits", "--limit", 2, "-o", tmp_path / "f.h5", "-t", 20,
                   "-b", ",".join(names), "--json")  # fmt: skip
    assert done.code == 0
    facts = json.loads(diffeat("info", tmp_path / "f.h5", "--json").out)
    assert {row["block"]: row["shape"] for row in facts["features"]} == {
        name: [2, *found[name]["shape"]] for name in names
    }
    with package.FeatureStore(tmp_path / "f.h5") as store:
        assert np.isfinite(store["mid.attn.0:self.map", 20][:]).all()
