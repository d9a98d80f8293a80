"""`diffeat extract` with prompts, labels, maps and views, and `diffeat channels`, on tiny models.

What lies in the files is compared with `diffeat.extract` on the same pictures.
"""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import diffeat as package
from diffeat import ExtractSpec, FeatureStore, massive_channels
from tests.pipelines import NATIVE, save_pixel

LEAST = ("-t", "20", "--dtype", "float32")
CAPTIONS = {"cat/0.png": "a cat", "cat/1.png": "a dog", "dog/2.png": ""}
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture
def folder(tmp_path):
    """Two cats and a dog."""
    rng = np.random.default_rng(0)
    for name in CAPTIONS:
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*NATIVE, 3), np.uint8)).save(path)
    return tmp_path / "in"


@pytest.fixture
def run(diffeat, folder, folder_of, tmp_path):
    """Runs `diffeat extract` on the pictures; its answer, or the features if it did well."""

    def extract(model, *options):
        out = tmp_path / f"{len(list(tmp_path.glob('*.h5')))}.h5"
        command = ("extract", folder_of(model), folder, "-o", out, *LEAST, *options)
        answer = diffeat(*command)
        if answer.code:
            assert not out.exists()
            return answer
        assert diffeat("verify", out).code == 0
        assert "already complete" in diffeat(*command).out
        with FeatureStore(out) as store:
            return {block: torch.from_numpy(store[block, 20][:]) for block in store.blocks}

    return extract


@pytest.fixture
def in_memory(folder, backbone_of):
    """The same pictures through `diffeat.extract`."""

    def extract(model, blocks, spec=(), **options):
        asked = ExtractSpec(20, blocks, dtype="float32", **dict(spec))
        images = [folder / name for name in CAPTIONS]
        found = package.extract(backbone_of(model), images, asked, ids=list(CAPTIONS), **options)
        return {block: value for (block, _), value in found.items()}

    return extract


def assert_same(found, wanted):
    assert list(found) == list(wanted)
    for block, value in wanted.items():
        torch.testing.assert_close(found[block], value, **CLOSE)


def written(path, **captions):
    lines = ["id,caption", *(f"{name},{text}" for name, text in {**CAPTIONS, **captions}.items())]
    path.write_text("\n".join(lines), "utf-8")
    return path


# --- prompts --------------------------------------------------------------------------------


def test_one_prompt(run, in_memory):
    found = run("sd1", "-b", "mid,up.1", "--prompt", "a cat")
    assert_same(found, in_memory("sd1", ("mid", "up.1"), {"prompt": "a cat"}))


def test_the_class_in_the_prompt(run, in_memory):
    found = run("sd1", "-b", "up.1", "--prompt", "a {class}")
    assert_same(found, in_memory("sd1", "up.1", prompts=["a cat", "a cat", "a dog"]))


def test_a_prompt_per_picture(run, in_memory, tmp_path):
    found = run("sd1", "-b", "up.1", "--captions", written(tmp_path / "c.csv"))
    assert_same(found, in_memory("sd1", "up.1", prompts=list(CAPTIONS.values())))
    assert not torch.allclose(found["up.1"], in_memory("sd1", "up.1")["up.1"], **CLOSE)


def test_other_captions_are_another_request(diffeat, folder, folder_of, tmp_path):
    options = ("-o", tmp_path / "f.h5", "-b", "mid", "--captions", written(tmp_path / "c.csv"))
    request = ("extract", folder_of("sd1"), folder, *LEAST, *options)
    assert diffeat(*request).code == 0
    facts = json.loads(diffeat("info", tmp_path / "f.h5", "--json").out)
    assert facts["spec"]["captions"] == str(tmp_path / "c.csv")
    written(tmp_path / "c.csv", **{"dog/2.png": "a dot"})
    answer = diffeat(*request)
    assert answer.code == 1
    assert "captions or embeddings: " in answer.err
    assert diffeat(*request, "--overwrite").code == 0


def test_captions_that_do_not_fit(run, tmp_path):
    (tmp_path / "few.csv").write_text("id,caption\ncat/0.png,a cat\n", "utf-8")
    answer = run("sd1", "-b", "mid", "--captions", tmp_path / "few.csv")
    assert answer.code == 1
    assert "no caption for 2 of 3 pictures, first 'cat/1.png'" in answer.err
    answer = run("sd1", "-b", "mid", "--captions", "pictures")
    assert answer.code == 2
    assert "has none; give a CSV or JSONL file, or a prompt" in answer.err
    answer = run("sd1", "-b", "mid", "--captions", tmp_path / "none.csv")
    assert answer.code == 1
    assert "none.csv" in answer.err


def test_embeddings(run, in_memory, backbone_of, tmp_path):
    prompts = list(CAPTIONS.values())
    tensors = backbone_of("sd1").condition(prompts, [None] * 3)
    save_file(tensors, tmp_path / "e.safetensors")
    found = run("sd1", "-b", "up.1", "--embeddings", tmp_path / "e.safetensors")
    assert_same(found, in_memory("sd1", "up.1", prompts=prompts))


@pytest.mark.parametrize("name", ["none.safetensors", "e.bin", "broken.safetensors"])
def test_embeddings_that_cannot_be_read(run, tmp_path, name):
    (tmp_path / "broken.safetensors").write_bytes(b"\0" * 20)
    answer = run("sd1", "-b", "mid", "--embeddings", tmp_path / name)
    assert answer.code == 2
    assert name in answer.err
    assert "expected a .safetensors file" in answer.err


# --- labels ---------------------------------------------------------------------------------


def test_one_label(run, in_memory):
    found = run("dit", "-b", "block.2", "--label", "3")
    assert_same(found, in_memory("dit", "block.2", {"label": 3}))


def test_each_pictures_own_label(run, in_memory, tmp_path):
    (tmp_path / "map.csv").write_text("class,label\ncat,3\ndog,1\n", "utf-8")
    found = run("dit", "-b", "block.2", "--label", "class", "--label-map", tmp_path / "map.csv")
    assert_same(found, in_memory("dit", "block.2", labels=[3, 3, 1]))
    null = in_memory("dit", "block.2")["block.2"]
    assert not torch.allclose(found["block.2"], null, **CLOSE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--label", "class"), "label='class', but these pictures have no classes"),
        (("--prompt", "a {class}"), "prompt 'a {class}' names the class, but these pictures have "
                                    "none; expected one subfolder per class"),
    ],
)  # fmt: skip
def test_pictures_without_classes(diffeat, folder, folder_of, tmp_path, options, message):
    model = folder_of("dit" if options[0] == "--label" else "sd1")
    answer = diffeat("extract", model, folder / "cat", "-o", tmp_path / "f.h5", *LEAST, "-b", "all",
                     *options)  # fmt: skip
    assert answer.code == 2
    assert message in answer.err


@pytest.mark.parametrize("label", ["7", "-1"])
def test_a_label_that_does_not_exist(run, label):
    answer = run("dit", "-b", "block.2", "--label", label)
    assert answer.code == 2
    assert f"label {label} is out of range" in answer.err


# --- tensors --------------------------------------------------------------------------------


def test_heads_and_tokens(run, in_memory):
    blocks = ("up.1.attn.0:cross.map", "up.1.attn.0:cross.k")
    found = run("sd1", "-b", ",".join(blocks), "--heads", "1,0", "--tokens", "1,2,5")
    assert found[blocks[0]].shape == (3, 2 * 3, 16, 16)
    assert_same(found, in_memory("sd1", blocks, {"heads": (1, 0), "tokens": (1, 2, 5)}))


def test_discarded_channels(run, in_memory):
    found = run("dit", "-b", "block.1:adaln,ditf:2", "--discard", "3,5")
    blocks = ("block.1:adaln", "block.2:adaln")
    assert_same(found, in_memory("dit", blocks, {"discard": (3, 5)}))
    plain = in_memory("dit", blocks)
    assert not torch.allclose(found[blocks[0]], plain[blocks[0]], **CLOSE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--heads", "0"), "heads=(0,) is for attention (…:self.q, k, v, z or map, all heads"),
        (("--tokens", "0"), "tokens=(0,) is for attention maps; none is asked for"),
        (("--discard", "0"), "is for the adaptive norm's output (…:adaln); none is asked for"),
    ],
)
def test_choices_that_no_tensor_can_answer(run, options, message):
    answer = run("dit", "-b", "block.1", *options)
    assert answer.code == 2
    assert message in answer.err


def test_a_file_of_tensors(diffeat, folder, folder_of, tmp_path):
    out = tmp_path / "f.h5"
    blocks = "up.1.attn.0:cross.map,up.1.attn.0:cross.k,mid.res.0:in,net:x0,vae"
    assert diffeat("extract", folder_of("sd1"), folder, "-o", out, *LEAST, "-b", blocks).code == 0
    with h5py.File(out) as file:
        assert set(file["features"]) == set(blocks.split(","))
        text = file["features/up.1.attn.0:cross.k/t20"]
        assert (text.shape, text.attrs["layout"], text.attrs["stride"]) == ((3, 12, 8), "NLD", 0)
        assert text.attrs["channels"] == 8
        maps = file["features/up.1.attn.0:cross.map/t20"]
        assert (maps.shape, maps.attrs["layout"]) == ((3, 12, 16, 16), "NCHW")
        assert (maps.attrs["channels"], maps.attrs["stride"]) == (12, 2)
    shown = diffeat("info", out).out
    assert "up.1.attn.0:cross.map" in shown
    assert "3×12×8 float32" in shown
    shown = diffeat("view", out, "-o", tmp_path / "v.png", "--pictures", folder)
    assert shown.code == 0
    assert "left out: up.1.attn.0:cross.k holds text tokens, which have no picture" in shown.out
    assert (tmp_path / "v.png").stat().st_size > 1000
    alone = diffeat("view", out, "-o", tmp_path / "w.png", "-b", "up.1.attn.0:cross.k")
    assert alone.code == 2
    assert "holds nothing that has a picture" in alone.err
    assert not (tmp_path / "w.png").exists()


def test_columns_stand_below_their_names(diffeat, folder, folder_of, tmp_path):
    out = tmp_path / "f.h5"
    blocks = "up.1.attn.0:cross.map,mid"
    assert diffeat("extract", folder_of("sd1"), folder, "-o", out, *LEAST, "-b", blocks).code == 0
    header, *rows = diffeat("info", out).out.splitlines()[-3:]
    assert header.split() == ["block", "t", "alpha", "sigma", "log", "SNR", "shape"]
    for row in rows:
        assert row[header.index("shape") - 2 :].startswith("  3×")
        assert row[: header.index("alpha") + 5].split()[1] == "20"


def test_info_names_every_field_that_was_set(diffeat, folder, folder_of, tmp_path):
    out = tmp_path / "f.h5"
    options = ("-b", "up.1.attn.0:cross.map", "--prompt", "a cat", "--heads", "1", "--tokens",
               "1,2", "--raw-latent", "--flip")  # fmt: skip
    assert diffeat("extract", folder_of("sd1"), folder, "-o", out, *LEAST, *options).code == 0
    (line,) = (row for row in diffeat("info", out).out.splitlines() if row.startswith("  spec"))
    for shown in ("prompt=a cat", "heads=[1]", "tokens=[1, 2]", "scale_latent=False", "flip=True"):
        assert shown in line
    for hidden in ("captions", "steps", "tile", "discard", "label"):
        assert hidden not in line


def test_levels_without_noise_have_no_ratio_in_json(diffeat, folder, folder_of, tmp_path):
    out = tmp_path / "f.h5"
    answer = diffeat("extract", folder_of("pixel"), folder, "-o", out, "-b", "mid", "-t", "-1,20",
                     "--noise", "inversion", "--steps", "50")  # fmt: skip
    assert answer.code == 0, answer.err
    clean, noisy = json.loads(diffeat("info", out, "--json").out)["features"]
    assert (clean["t"], clean["alpha"], clean["sigma"], clean["log_snr"]) == (-1, 1, 0, None)
    assert noisy["t"] == 20
    assert noisy["log_snr"] > 0
    assert "     -1  1.0000  0.0000      inf  3×24×8×8 float16" in diffeat("info", out).out


def test_levels_without_signal(diffeat, folder, folder_of, tmp_path):
    out = tmp_path / "f.h5"
    asked = ("extract", folder_of("pixel-flow"), folder, "-o", out, "-b", "mid", "-t", "1.0")
    assert diffeat(*asked).code == 0
    (row,) = json.loads(diffeat("info", out, "--json").out)["features"]
    assert (row["t"], row["alpha"], row["sigma"], row["log_snr"]) == (1000, 0, 1, None)
    assert "   1000  0.0000  1.0000     -inf  3×24×8×8 float16" in diffeat("info", out).out


# --- views ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "spec"),
    [
        (("--flip",), {"flip": True}),
        (("--size", "48x64", "--tile", "32"), {"size": (48, 64), "tile": 32}),
        (("--fit", "crop", "--size", "16", "--flip", "--pool", "2x2"),
         {"fit": "crop", "size": 16, "flip": True, "pool": "2x2"}),
        (("--fit", "pad", "--resample", "nearest"), {"fit": "pad", "resample": "nearest"}),
        (("--fit", "native", "--pool", "1x1"), {"fit": "native", "pool": "1x1"}),
    ],
)  # fmt: skip
def test_views_and_fits(run, in_memory, options, spec):
    assert_same(run("pixel", "-b", "mid,up.1", *options), in_memory("pixel", ("mid", "up.1"), spec))


@pytest.mark.parametrize("option", ["--raw-latent", "--scale-latent"])
def test_raw_latents(run, in_memory, option):
    found = run("sd1", "-b", "up.1,vae", option, "--latent", "mode")
    wanted = in_memory("sd1", ("up.1", "vae"), {"scale_latent": option == "--scale-latent"})
    assert_same(found, wanted)


def test_boxes_of_padded_pictures(diffeat, folder_of, tmp_path):
    (tmp_path / "in").mkdir()
    for name, size in {"a": (40, 20), "b": (20, 40), "c": (20, 20)}.items():
        Image.new("RGB", size, "white").save(tmp_path / "in" / f"{name}.png")
    out = tmp_path / "f.h5"
    command = ("extract", folder_of("pixel"), tmp_path / "in", "-o", out, *LEAST, "-b", "mid",
               "--fit", "pad")  # fmt: skip
    assert diffeat(*command).code == 0
    with FeatureStore(out) as store:
        assert store.boxes.tolist() == [[8, 0, 16, 32], [0, 8, 32, 16], [0, 0, 32, 32]]
    assert diffeat("verify", out).code == 0
    with h5py.File(out, "r+") as file:
        file["boxes"][1] = (0, 8, 32, 25)
    answer = diffeat("verify", out)
    assert answer.code == 1
    assert f"{out}: boxes lie outside the pictures" in answer.out


# --- channels -------------------------------------------------------------------------------


def test_massive_channels(diffeat, folder, folder_of, backbone_of):
    asked = ("channels", folder_of("dit"), folder, "-t", "20,600", "-b", "block.*:in", "--ratio",
             "1.2", "--device", "cpu")  # fmt: skip
    found = json.loads(diffeat(*asked, "--json").out)
    images = [Image.open(folder / name) for name in CAPTIONS]
    spec = ExtractSpec((20, 600), "block.*:in")
    wanted = massive_channels(backbone_of("dit"), images, spec, 1.2)
    assert [(each["block"], each["t"]) for each in found] == [(w.block, w.t) for w in wanted]
    assert [each["channels"] for each in found] == [list(w.channels) for w in wanted]
    assert any(each["channels"] for each in found)
    lines = diffeat(*asked).out.splitlines()
    for line, each in zip(lines, found, strict=True):
        shown = ", ".join(
            f"{c} ({r:.0f}×)" for c, r in zip(each["channels"], each["ratios"], strict=True)
        )
        assert line == f"{each['block']} t={each['t']:.0f}: {shown or 'none'}"


@pytest.mark.parametrize(
    ("model", "options", "spec"),
    [
        ("dit", ("--label", "3"), {"label": 3}),
        ("adm-classes", ("--label", "0"), {"label": 0}),
        ("flux", ("--prompt", "a cat"), {"prompt": "a cat"}),
    ],
)
def test_massive_channels_under_a_condition(diffeat, folder, folder_of, backbone_of, model, options,
                                            spec):  # fmt: skip
    block = backbone_of(model).blocks[-1].name
    asked = ("channels", folder_of(model), folder, "-t", "20", "-b", block, "--ratio", "1.1")
    found = json.loads(diffeat(*asked, *options, "--device", "cpu", "--json").out)
    images = [Image.open(folder / name) for name in CAPTIONS]
    wanted = massive_channels(backbone_of(model), images, ExtractSpec(20, block, **spec), 1.1)
    assert [each["ratios"] for each in found] == [pytest.approx(w.ratios) for w in wanted]
    assert found[0]["ratios"]


def test_no_massive_channels(diffeat, folder, folder_of):
    asked = ("channels", folder_of("dit"), folder, "-t", "20", "-b", "block.0:in", "--limit", "1")
    assert diffeat(*asked).out == "block.0:in t=20: none\n"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("-t", "20"), ["--blocks"]),
        (("-b", "block.0:in"), ["--timesteps"]),
        (("-t", "20", "-b", "block.0:in", "--ratio", "1"), ["ratio=1.0; expected a number above"]),
        (("-t", "20", "-b", "block.9:in"), ["'block.9:in' selects nothing"]),
        (("-t", "20", "-b", "block.0:in", "--limit", "0"), ["--limit"]),
    ],
)
def test_wrong_options_of_channels(diffeat, folder, folder_of, options, words):
    answer = diffeat("channels", folder_of("dit"), folder, *options)
    assert answer.code == 2
    for word in words:
        assert word in answer.err


# --- weights --------------------------------------------------------------------------------


def test_another_denoiser(diffeat, folder, folder_of, tmp_path):
    save_pixel(tmp_path / "other")
    (weights,) = (tmp_path / "other" / "unet").glob("*.safetensors")
    out = [tmp_path / f"{k}.h5" for k in range(2)]
    options = (*LEAST, "-b", "mid")
    swapped = ("extract", folder_of("pixel"), folder, "-o", out[0], *options, "--denoiser", weights)
    assert diffeat(*swapped).code == 0
    assert diffeat("extract", tmp_path / "other", folder, "-o", out[1], *options).code == 0
    with FeatureStore(out[0]) as a, FeatureStore(out[1]) as b:
        np.testing.assert_allclose(a["mid", 20][:], b["mid", 20][:], rtol=1e-5, atol=1e-5)
        assert a.model["fingerprint"] != b.model["fingerprint"]
    refused = diffeat("extract", folder_of("pixel"), folder, "-o", out[0], *options)
    assert refused.code == 1
    assert "model: " in refused.err


@pytest.mark.parametrize("option", ["--denoiser", "--lora"])
def test_weights_that_are_not_there(diffeat, folder, folder_of, tmp_path, option):
    answer = diffeat("extract", folder_of("sd1"), folder, "-o", tmp_path / "f.h5", *LEAST, "-b",
                     "mid", option, tmp_path / "none.safetensors")  # fmt: skip
    assert answer.code == 1
    assert "none.safetensors" in answer.err
