"""Prompts, captions, class labels and ready embeddings: each picture gets its own, and only it."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import diffeat
from diffeat.backbones import devices
from diffeat.backbones.devices import visiting
from diffeat.errors import SourceError, SpecError, SpecMismatch
from diffeat.images import ArraySource, open_source
from diffeat.jobs import extract_to_file
from tests.extraction.common import T, condition_of, differ, output_of, rows_of, same
from tests.images.builders import pack, saved
from tests.pipelines import CLASSES, LONG_TOKENS, NATIVE, TOKENS, gaussian, pictures

DEEP = {
    "sd1": "up.1", "sdxl": "up.1", "pixart-sigma": "block.1", "sd3": "block.1",
    "flux": "single.1", "auraflow": "single.1", "pixel-classes": "up.1", "dit": "block.2",
    "pixel": "up.1",
}  # fmt: skip
TEXTS = ("a cat", "do", "", "a do at")


def spec(model, **options):
    """Clean pictures, so that nothing but the condition matters."""
    options = {"noise": "none", "dtype": "float32", **options}
    return diffeat.ExtractSpec(T, DEEP[model], **options)


def expected(plain, model, images, **what):
    """(1, …) the plain feature of one picture with a prompt or a label."""
    return output_of(plain, DEEP[model], plain.encode(images), T, condition_of(plain, 1, **what))


def check(found, plain, model, images, conditions):
    """Every picture's feature is that of its own condition; returns how far they lie apart."""
    rows = [expected(plain, model, images[i : i + 1], **what) for i, what in enumerate(conditions)]
    for row, value in enumerate(rows):
        same(found[row : row + 1], value)
    return rows


def gallery(count=4, **fields):
    """(source, its pictures): arrays with ids "p0", "p1", …"""
    pixels = np.random.default_rng(0).integers(0, 256, (count, *NATIVE, 3), np.uint8)
    ids = tuple(f"p{k}" for k in range(count))
    source = ArraySource(name="gallery", ids=ids, pixels=pixels, **fields)
    return source, torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255


def features_of(path, model):
    with h5py.File(path) as file:
        return torch.from_numpy(file[f"features/{DEEP[model]}/t{T}"][:])


def to_file(backbone, source, asked, path, **options):
    extract_to_file(backbone, source, asked, path / "f.h5", **options)
    return path / "f.h5"


# --- prompts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [None, 3])
@pytest.mark.parametrize("model", ["sd1", "sdxl", "pixart-sigma", "sd3", "flux", "auraflow"])
def test_one_prompt_per_picture(model, batch_size, backbone_of, plain_of):
    images = pictures(1).expand(4, -1, -1, -1)
    found = diffeat.extract(
        backbone_of(model), images, spec(model), prompts=TEXTS, batch_size=batch_size
    )[DEEP[model], T]
    rows = check(found, plain_of(model), model, images, [{"prompt": text} for text in TEXTS])
    assert differ(rows[0], rows[1], atol=1e-4)


def test_prompts_follow_ids_and_levels_and_members(backbone_of, plain_of):
    backbone, plain, images = backbone_of("sd1"), plain_of("sd1"), pictures(3)
    eps = gaussian(3, 2, *backbone.latent_shape(NATIVE))
    asked = diffeat.ExtractSpec((600, T), "up.1", ensemble=2, dtype="float32")
    found = diffeat.extract(
        backbone, images, asked, prompts=TEXTS[:3], noise=eps, batch_size=5, ids="zyx"
    )
    for row, text in enumerate(TEXTS[:3]):
        condition, one = condition_of(plain, 1, prompt=text), slice(row, row + 1)
        for t in (600, T):
            noisy = [plain.noisy(plain.encode(images[one]), eps[one, e], t) for e in range(2)]
            mean = sum(output_of(plain, "up.1", x, t, condition) for x in noisy) / 2
            same(found["up.1", t][one], mean)


@pytest.mark.filterwarnings("ignore:ensemble=2")
@pytest.mark.parametrize("model", ["sd1", "sdxl"])
def test_the_text_encoder_runs_once_for_each_prompt(model, backbone_of):
    backbone = backbone_of(model)
    encoders = [part for name, part in backbone.extras.items() if name.startswith("text_encoder")]
    prompts = ["a", "b", "a", "c", "b", "a"]
    asked = spec(model, ensemble=2)
    for encoder in encoders:
        with rows_of(encoder) as rows:
            diffeat.extract(backbone, pictures(6), asked, prompts=prompts, batch_size=1)
        assert sum(rows) == 3
        assert next(encoder.parameters()).device.type == "cpu"


def test_prompts_that_no_cache_can_hold(backbone_of, plain_of, monkeypatch):
    monkeypatch.setattr("diffeat.extraction.conditions.AHEAD", 2)
    monkeypatch.setattr("diffeat.extraction.conditions.CACHE_BYTES", 1)
    backbone, texts = backbone_of("sd1"), [*"abcdefghabz"]
    images = pictures(1).expand(len(texts), -1, -1, -1)
    with rows_of(backbone.extras["text_encoder"]) as rows:
        found = diffeat.extract(backbone, images, spec("sd1"), prompts=texts, batch_size=4)
    assert max(rows) == 2
    conditions = [{"prompt": text} for text in texts]
    check(found["up.1", T], plain_of("sd1"), "sd1", images, conditions)


@pytest.mark.parametrize("fails", [False, True])
def test_a_text_encoder_visits_the_device_and_goes_back(fails, monkeypatch):
    sent = []
    monkeypatch.setattr(
        devices, "copied", lambda weight, device: sent.append(str(device)) or weight.clone()
    )
    encoder = torch.nn.BatchNorm1d(3)  # it has weights and buffers
    homes = [tensor.data_ptr() for tensor in (*encoder.parameters(), *encoder.buffers())]
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    try:
        with visiting(encoder, torch.device("cuda", 1)) as visitor:
            assert visitor is encoder
            there = {t.data_ptr() for t in (*encoder.parameters(), *encoder.buffers())}
            assert not there & set(homes)
            if fails:
                raise KeyError
    except KeyError:
        assert fails
    assert sent == ["cuda:1"] * len(homes)
    assert [t.data_ptr() for t in (*encoder.parameters(), *encoder.buffers())] == homes
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, before[name])


# --- prompts that are too long --------------------------------------------------------------------

LONG = "bcdefghijklm"  # 14 tokens for CLIP, which takes 12, and for T5, which takes 16


@pytest.mark.parametrize(
    ("model", "takes"),
    [("sd1", TOKENS), ("sdxl", TOKENS), ("sd35", TOKENS), ("pixart-sigma", LONG_TOKENS),
     ("auraflow", LONG_TOKENS), ("sd3", LONG_TOKENS), ("flux", LONG_TOKENS)],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*reads only the first")
def test_no_encoder_cuts_what_no_other_reads(model, takes, backbone_of):
    text = LONG if takes == TOKENS else LONG * 2
    asked = diffeat.ExtractSpec(T, "net:in", prompt=text)
    with pytest.raises(SpecError, match=rf"prompt has \d\d tokens, .* takes {takes}; shorten it"):
        diffeat.extract(backbone_of(model), pictures(1), asked)


@pytest.mark.parametrize("model", ["sd3", "flux"])
def test_clip_may_cut_where_it_only_helps(model, backbone_of, plain_of):
    with pytest.warns(UserWarning, match=r"reads only the first 12 of 14 tokens of 'bcdef"):
        found = diffeat.extract(backbone_of(model), pictures(1), spec(model, prompt=LONG))
    check(found[DEEP[model], T], plain_of(model), model, pictures(1), [{"prompt": LONG}])


@pytest.mark.parametrize("model", ["pixart-sigma", "auraflow"])
def test_what_just_fits_is_no_warning(model, backbone_of):
    diffeat.extract(backbone_of(model), pictures(1), spec(model, prompt=LONG))


# --- templates and captions -----------------------------------------------------------------------


@pytest.mark.parametrize("template", ["a {class}", "{category} at a {class}"])
def test_templates_name_the_class(template, backbone_of, plain_of, tmp_path):
    source, images = gallery(labels=np.array([1, 0, 2, 1]), class_names=("cat", "d_o", "Cot"))
    path = to_file(backbone_of("sd1"), source, spec("sd1", prompt=template), tmp_path, batch_size=3)
    names = ["d o", "cat", "Cot", "d o"]
    texts = [template.replace("{class}", n).replace("{category}", n) for n in names]
    conditions = [{"prompt": text} for text in texts]
    check(features_of(path, "sd1"), plain_of("sd1"), "sd1", images, conditions)


def caption_file(path, kind, captions):
    if kind == "csv":
        lines = ["file_name,caption", *(f'{name},"{text}"' for name, text in captions.items())]
    else:
        lines = [json.dumps({"id": name, "text": text}) for name, text in captions.items()]
    path = path / f"captions.{kind}"
    path.write_text("\n".join(lines), "utf-8")
    return path


CAPTIONS = {"p3": "a cat", "p0": "do", "elsewhere": "x", "p2": "", "p1": "a, b"}


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_captions_of_a_file(kind, backbone_of, plain_of, tmp_path):
    source, images = gallery()
    asked = spec("sd1", captions=caption_file(tmp_path, kind, CAPTIONS))
    conditions = [{"prompt": CAPTIONS[name]} for name in source.ids]
    with rows_of(backbone_of("sd1").extras["text_encoder"]) as rows:
        path = to_file(backbone_of("sd1"), source, asked, tmp_path, batch_size=3)
    assert sum(rows) == 4
    check(features_of(path, "sd1"), plain_of("sd1"), "sd1", images, conditions)
    found = diffeat.extract(backbone_of("sd1"), images, asked, ids=source.ids)
    check(found["up.1", T], plain_of("sd1"), "sd1", images, conditions)


def test_a_picture_without_caption_is_named(backbone_of, tmp_path):
    less = {name: text for name, text in CAPTIONS.items() if name != "p2"}
    source, images = gallery()
    asked = spec("sd1", captions=caption_file(tmp_path, "csv", less))
    with pytest.raises(SourceError, match=r"captions\.csv: no caption for 1 of 4.*'p2'"):
        to_file(backbone_of("sd1"), source, asked, tmp_path)
    assert not (tmp_path / "f.h5").exists()
    with pytest.raises(SourceError, match="'p2'"):
        diffeat.extract(backbone_of("sd1"), images, asked, ids=source.ids)


def test_other_captions_make_another_file(backbone_of, tmp_path):
    source, _ = gallery()
    asked = spec("sd1", captions=caption_file(tmp_path, "csv", CAPTIONS))
    to_file(backbone_of("sd1"), source, asked, tmp_path)
    caption_file(tmp_path, "csv", {**CAPTIONS, "p1": "cot"})
    with pytest.raises(SpecMismatch, match="captions or embeddings"):
        to_file(backbone_of("sd1"), source, asked, tmp_path)


def test_captions_that_come_with_the_pictures(backbone_of, plain_of, tmp_path):
    source, images = gallery(3)
    members = {}
    for name, pixels, text in zip("cab", source.pixels, TEXTS, strict=False):
        members |= {f"{name}.png": saved(pixels), f"{name}.txt": f"{text}\n"}
    tar = open_source(pack(tmp_path / "x.tar", members))
    asked = spec("sd1", captions="pictures")
    path = to_file(backbone_of("sd1"), tar, asked, tmp_path, batch_size=2)
    conditions = [{"prompt": text} for text in TEXTS[:3]]
    check(features_of(path, "sd1"), plain_of("sd1"), "sd1", images, conditions)
    with pytest.raises(SpecError, match="captions='pictures', but gallery has none"):
        to_file(backbone_of("sd1"), source, asked, tmp_path / "other")
    with pytest.raises(SpecError, match="captions='pictures' needs a source"):
        diffeat.extract(backbone_of("sd1"), images, asked)


# --- labels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [None, 3])
@pytest.mark.parametrize(
    ("model", "labels"), [("pixel-classes", [0, 4, 2, 0]), ("dit", [3, None, 0, 4])]
)
def test_one_label_per_picture(model, labels, batch_size, backbone_of, plain_of):
    images = pictures(1).expand(4, -1, -1, -1)
    found = diffeat.extract(
        backbone_of(model), images, spec(model), labels=labels, batch_size=batch_size
    )[DEEP[model], T]
    null = [{"label": CLASSES if label is None else label} for label in labels]
    rows = check(found, plain_of(model), model, images, null)
    assert differ(rows[0], rows[1])


def test_labels_take_the_place_of_the_specs(backbone_of, plain_of):
    for label in (1, "class"):
        asked = spec("dit", label=label)
        labels = np.array([4, 0])
        found = diffeat.extract(backbone_of("dit"), pictures(2), asked, labels=labels)
        rows = [{"label": 4}, {"label": 0}]
        check(found["block.2", T], plain_of("dit"), "dit", pictures(2), rows)


@pytest.mark.parametrize("model", ["pixel-classes", "dit"])
def test_each_pictures_own_class(model, backbone_of, plain_of, tmp_path):
    source, images = gallery(labels=np.array([2, 0, 1, 2]), class_names=("4", "0", "2"))
    path = to_file(backbone_of(model), source, spec(model, label="class"), tmp_path, batch_size=3)
    labels = [{"label": k} for k in (2, 4, 0, 2)]
    check(features_of(path, model), plain_of(model), model, images, labels)


def test_classes_of_folders(backbone_of, plain_of, tmp_path):
    source, images = gallery(2)
    for name, pixels in zip(("3/0.png", "1/1.png"), source.pixels, strict=True):
        (tmp_path / "in" / name).parent.mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / "in" / name)
    asked = spec("dit", label="class")
    path = to_file(backbone_of("dit"), open_source(tmp_path / "in"), asked, tmp_path)
    labels = [{"label": 1}, {"label": 3}]
    check(features_of(path, "dit"), plain_of("dit"), "dit", images.flip(0), labels)


# --- ready embeddings -----------------------------------------------------------------------------

NAMES = {
    "sd1": ("encoder_hidden_states",),
    "sdxl": ("encoder_hidden_states", "text_embeds"),
    "pixart-sigma": ("encoder_hidden_states", "encoder_attention_mask"),
    "sd3": ("encoder_hidden_states", "pooled_projections"),
    "flux": ("encoder_hidden_states", "pooled_projections"),
    "auraflow": ("encoder_hidden_states",),
}


def embeddings_for(plain, model, count):
    """Random tensors of the shapes that the pipeline gives to its denoiser."""
    usual = condition_of(plain, 1)
    usual = {**usual, **usual.get("added_cond_kwargs", {})}
    found = {name: gaussian(count, *usual[name].shape[1:], seed=len(name)) for name in NAMES[model]}
    if "encoder_attention_mask" in found:
        found["encoder_attention_mask"] = (torch.arange(LONG_TOKENS) < 5).repeat(count, 1)
    return found


def with_embeddings(plain, embeddings, row):
    """The condition of a plain forward of one picture with row `row` of them."""
    row = {name: value[row : row + 1] for name, value in embeddings.items()}
    usual = dict(condition_of(plain, 1))
    if "text_embeds" in row:
        text = {"text_embeds": row.pop("text_embeds")}
        usual["added_cond_kwargs"] = {**usual["added_cond_kwargs"], **text}
    return {**usual, **row}


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("model", NAMES)
def test_embeddings_reach_the_denoiser(model, rows, backbone_of, plain_of, tmp_path):
    backbone, plain = backbone_of(model), plain_of(model)
    tensors, (source, images) = embeddings_for(plain, model, rows), gallery(3)
    given = diffeat.extract(backbone, images, spec(model), embeddings=tensors, batch_size=2)
    save_file(tensors, tmp_path / "e.safetensors")
    asked = spec(model, embeddings=tmp_path / "e.safetensors")
    path = to_file(backbone, source, asked, tmp_path, batch_size=2)
    for i in range(3):
        one = slice(i, i + 1)
        condition = with_embeddings(plain, tensors, i if rows > 1 else 0)
        wanted = output_of(plain, DEEP[model], plain.encode(images[one]), T, condition)
        same(given[DEEP[model], T][one], wanted)
        same(features_of(path, model)[one], wanted)


def test_embeddings_of_one_prompt_need_no_first_axis(backbone_of, plain_of):
    tensors = embeddings_for(plain_of("sd3"), "sd3", 1)
    bare = {name: value[0].half() for name, value in tensors.items()}
    found = diffeat.extract(backbone_of("sd3"), pictures(2), spec("sd3"), embeddings=bare)
    condition = with_embeddings(
        plain_of("sd3"), {k: v.half().float() for k, v in tensors.items()}, 0
    )
    x = plain_of("sd3").encode(pictures(2)[1:])
    same(found["block.1", T][1:], output_of(plain_of("sd3"), "block.1", x, T, condition))


def test_another_file_of_embeddings_makes_another_file(backbone_of, plain_of, tmp_path):
    source, asked = gallery()[0], spec("sd1", embeddings=tmp_path / "e.safetensors")
    tensors = embeddings_for(plain_of("sd1"), "sd1", 1)
    save_file(tensors, tmp_path / "e.safetensors")
    to_file(backbone_of("sd1"), source, asked, tmp_path)
    save_file({name: value + 1 for name, value in tensors.items()}, tmp_path / "e.safetensors")
    with pytest.raises(SpecMismatch, match="captions or embeddings"):
        to_file(backbone_of("sd1"), source, asked, tmp_path)


STATES, POOLED = torch.zeros(1, 12, 24), torch.zeros(1, 20)  # of sdxl


@pytest.mark.parametrize(
    ("model", "embeddings", "message"),
    [
        ("sdxl", {"encoder_hidden_states": STATES}, r"expects \['encoder_hidden_states', 'text_e"),
        ("sdxl", {"encoder_hidden_states": STATES, "pooled": POOLED}, r"\['encoder_hidd.*'pooled'"),
        ("sdxl", {"encoder_hidden_states": STATES[..., :23], "text_embeds": POOLED},
         r"is \(1, 12, 23\); expected \(1, 12, 24\) or \(3, 12, 24\), with any number of tokens"),
        ("sdxl", {"encoder_hidden_states": STATES, "text_embeds": POOLED.expand(2, -1)},
         r"'text_embeds' is \(2, 20\); expected \(1, 20\) or \(3, 20\)"),
        ("dit", {"encoder_hidden_states": STATES}, "takes no text embeddings"),
        ("pixel", {}, "takes no text embeddings"),
    ],
)  # fmt: skip
def test_embeddings_that_do_not_fit(model, embeddings, message, backbone_of):
    with pytest.raises(SpecError, match=message):
        diffeat.extract(backbone_of(model), pictures(3), spec(model), embeddings=embeddings)
