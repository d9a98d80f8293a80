"""Every head of attention on its own, in every family, against a forward and a softmax by hand."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import diffeat
from diffeat.attention import AttentionInputs
from diffeat.backbones import tensors
from diffeat.blocks import BlockInfo, resolve_blocks
from diffeat.errors import SpecError
from diffeat.extraction.reduce import of_heads
from diffeat.store import FeatureStore
from tests.extraction.common import T, condition_of, same, spec
from tests.pipelines import (
    BUILDERS,
    PATHS,
    TALL,
    gaussian,
    levels,
    pictures,
    references,
    tensor_names,
)

PLACES = {  # with attention of every kind; elsewhere one with the most heads
    "sd1": ("up.1.attn.0",),
    "sdxl": ("up.0.attn.0.block.1",),
    "flux": ("block.1", "single.0"),
    "auraflow": ("block.0", "single.1"),
}
MODELS = [
    name if name in PATHS else pytest.param(name, marks=pytest.mark.slow)
    for name in BUILDERS
    if name != "pixel-grey"  # has no attention
]


def headed(backbone, name) -> list[BlockInfo]:
    """Tensors with heads of a few places."""
    most = max(backbone.tensors, key=lambda block: block.heads)
    places = PLACES.get(name) or [most.name.partition(":")[0]]
    return [b for b in backbone.tensors if b.heads and b.name.partition(":")[0] in places]


def read(backbone, blocks, images, eps, t, name, **options):
    """Block → feature."""
    found = diffeat.extract(backbone, images, spec(name, blocks, t, **options), noise=eps)
    return {block: values for (block, _), values in found.items()}


@pytest.mark.parametrize("name", MODELS)
def test_every_head_equals_a_forward_by_hand(name, backbone_of, plain_of):
    """And side by side, or averaged, they are the whole."""
    backbone, plain, images = backbone_of(name), plain_of(name), pictures(2, TALL)
    eps, t = gaussian(2, *backbone.latent_shape(TALL)), levels(name)[0]
    blocks = headed(backbone, name)
    places = {block.name.partition(":")[0] for block in blocks}
    have = [n for n in tensor_names(plain) if re.search(r":.*(\.[qkvz]|\.map)$", n)]
    assert {block.name for block in blocks} == {n for n in have if n.partition(":")[0] in places}
    found = read(backbone, [f"{b.name}.h*" for b in blocks], images, eps, t, name)
    names = [f"{block.name}.h{head}" for block in blocks for head in range(block.heads)]
    assert list(found) == names
    clean = plain.encode(images)
    condition = condition_of(plain, 2, TALL)
    expected = references(plain, names, clean, plain.noisy(clean, eps, t), t, condition)
    for one in names:
        atol = 1e-6 if ".map" in one else 1e-5
        torch.testing.assert_close(found[one], expected[one], rtol=1e-5, atol=atol, msg=one)
    whole = read(backbone, [block.name for block in blocks], images, eps, t, name)
    for block in blocks:
        heads = [found[f"{block.name}.h{head}"] for head in range(block.heads)]
        if block.is_attention:
            same(torch.stack(heads).mean(0), whole[block.name], atol=1e-6)
        else:
            assert torch.equal(torch.cat(heads, 2 if block.is_text else 1), whole[block.name])
    assert max(block.heads for block in blocks) > 1 or name == "pixel-classes"


@pytest.mark.parametrize("name", ["pixel", "sd1", "sd35", "flux", "auraflow"])
def test_heads_come_in_the_order_asked_for(name, backbone_of, plain_of):
    backbone, plain, images = backbone_of(name), plain_of(name), pictures(1)
    eps = gaussian(1, *backbone.latent_shape((32, 32)))
    names = [block.name for block in headed(backbone, name)]
    found = read(backbone, names, images, eps, T, name, heads=(1, 0))
    clean = plain.encode(images)
    x = plain.noisy(clean, eps, T)
    condition = condition_of(plain, 1)
    expected = references(plain, names, clean, x, T, condition, heads=(1, 0))
    for one in names:
        same(found[one], expected[one])


def test_one_head_has_the_shape_of_one(backbone_of):
    backbone = backbone_of("sd1")
    names = ("up.1.attn.0:self.q.h1", "up.1.attn.0:cross.v.h0", "up.1.attn.0:self.map.h1")
    found = diffeat.extract(backbone, pictures(1), spec("sd1", names))
    for block in resolve_blocks(names, backbone.tensors):
        assert found[block.name, T].shape[1:] == block.shape((32, 32), 12), block
    assert [tuple(found[one, T].shape) for one in names] == [
        (1, 4, 16, 16), (1, 12, 4), (1, 256, 16, 16)
    ]  # fmt: skip


def test_a_head_pools_and_keeps_its_tokens(backbone_of):
    backbone, name = backbone_of("sd1"), "up.1.attn.0:cross.map"
    asked = {"tokens": (3, 1)}
    whole = diffeat.extract(backbone, pictures(1), spec("sd1", name, heads=(0, 1), **asked))
    asked["pool"] = "2x2"
    pooled = diffeat.extract(backbone, pictures(1), spec("sd1", f"{name}.h1", **asked))
    cells = whole[name, T][:, 2:].reshape(1, 2, 2, 8, 2, 8).mean((3, 5))
    same(pooled[f"{name}.h1", T], cells.flatten(1), atol=1e-6)


# --- names ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "pattern", "expected"),
    [
        ("sd1", "mid.attn.0:self.q.h1", ["mid.attn.0:self.q.h1"]),
        ("sd1", "mid.attn.0:cross.map.h*", [f"mid.attn.0:cross.map.h{h}" for h in (0, 1)]),
        ("sd1", "mid.attn.0:*.z.h0", ["mid.attn.0:self.z.h0", "mid.attn.0:cross.z.h0"]),
        ("sd1", "uscsd:0.h1", ["up.1.attn.0:cross.map.h1"]),
        ("flux", "single.*:i2t.map", ["single.0:cross.map", "single.1:cross.map"]),
        ("flux", "block.0:i2t.map.h1", ["block.0:cross.map.h1"]),
        ("sd1", "mid.attn.0:self.*",
         [f"mid.attn.0:self.{k}" for k in ("q", "k", "v", "z", "out", "map")]),
    ],
)  # fmt: skip
def test_names_of_heads(model, pattern, expected, backbone_of):
    backbone = backbone_of(model)
    found = resolve_blocks(pattern, backbone.tensors, backbone.aliases)
    assert [block.name for block in found] == expected


@pytest.mark.parametrize(
    ("model", "pattern", "message"),
    [
        ("sd1", "up.1.attn.0:self.q.h2", r"up\.1\.attn\.0:self\.q has 2 \(h0 … h1\)"),
        ("flux", "block.*:cross.map.h7", r"cross\.map has 2 \(h0 … h1\)"),
        ("sd1", "up.1.attn.0:self.out.h0", r"up\.1\.attn\.0:self\.out has none"),
        ("sd1", "up.1.attn.0:self.p.h0", "selects nothing"),
    ],
)
def test_a_head_that_is_not_there(model, pattern, message, backbone_of):
    with pytest.raises(SpecError, match=message):
        diffeat.extract(backbone_of(model), pictures(1), spec(model, pattern))


def test_a_wildcard_leaves_out_what_has_fewer_heads(backbone_of):
    """SD 2's stages have 1, 2 and 3 heads."""
    tensors_ = backbone_of("sd2").tensors
    counts = {b.name: b.heads for b in tensors_ if b.tensor == "self.q"}
    found = resolve_blocks("**:self.q.h1", tensors_)
    assert [b.name for b in found] == [f"{n}.h1" for n, count in counts.items() if count > 1]
    assert 0 < len(found) < len(counts)


def test_heads_that_are_not_there(backbone_of):
    with pytest.raises(SpecError, match=r"heads=5: up\.1\.attn\.0:self\.q has 2 heads, 0 … 1"):
        diffeat.extract(
            backbone_of("sd1"), pictures(1), spec("sd1", "up.1.attn.0:self.q", heads=(0, 5))
        )


def test_a_file_has_every_head_as_a_block(diffeat, tmp_path, folder_of):
    from PIL import Image

    for k in range(2):
        Image.new("RGB", (32, 32), (100 * k, 50, 20)).save(tmp_path / f"{k}.png")
    out = tmp_path / "heads.h5"
    answer = diffeat("extract", folder_of("sd1"), tmp_path, "-o", out, "-t", "200",
                     "-b", "mid.attn.0:self.q.h*,mid.attn.0:cross.map.h1")  # fmt: skip
    assert answer.code == 0, answer.err
    with FeatureStore(out) as store:
        names = ["mid.attn.0:self.q.h0", "mid.attn.0:self.q.h1", "mid.attn.0:cross.map.h1"]
        assert list(store.blocks) == names
        assert store[names[0], 200].shape[1] == store[names[1], 200].shape[1] > 0


# --- grouped queries --------------------------------------------------------------------------


def grouped() -> SimpleNamespace:
    """Six heads of queries that share two of keys and values, each 4 wide."""
    layers = {"to_q": nn.Linear(5, 24), "to_k": nn.Linear(5, 8), "to_v": nn.Linear(5, 8)}
    return SimpleNamespace(heads=6, to_out=[nn.Linear(24, 5)], **layers)


def test_keys_of_grouped_queries_count_fewer_heads():
    at = BlockInfo("block.0", "b", "transformer", "blocks", 5, 2, "NLD")
    found = {b.tensor: b for b in tensors.attention(at, grouped(), "b.attn", "self")}
    assert {kind: found[f"self.{kind}"].heads for kind in ("q", "k", "v", "z", "map")} == {
        "q": 6, "k": 2, "v": 2, "z": 6, "map": 6
    }  # fmt: skip
    assert [found[f"self.{kind}"].of_head(1).channels for kind in ("q", "k", "z")] == [4, 4, 4]
    assert found["self.k"].shape((4, 4), heads=(1,)) == (4, 2, 2)
    assert found["self.z"].shape((4, 4), heads=(1, 5)) == (8, 2, 2)


def test_heads_of_tokens_and_of_maps():
    tokens = gaussian(2, 6, 12)
    maps = tokens.transpose(1, 2).reshape(2, 12, 2, 3)
    for heads in [(2,), (2, 0), (0, 1, 2)]:
        expected = torch.cat([tokens[..., 4 * h : 4 * h + 4] for h in heads], -1)
        assert torch.equal(of_heads(tokens, 3, heads), expected)
        expected = expected.transpose(1, 2).reshape(2, -1, 2, 3)
        assert torch.equal(of_heads(maps, 3, heads), expected)


# --- memory -----------------------------------------------------------------------------------


def test_every_head_of_a_map_holds_one_softmax_at_a_time(backbone_of, monkeypatch):
    """The scores of a piece of queries of one head; what is kept is the maps themselves."""
    monkeypatch.setattr("diffeat.attention.CHUNK", 256 * 100)
    held, watched = [], []
    softmax, made = torch.Tensor.softmax, AttentionInputs.from_call.__func__

    def noting(scores, *args):
        held.append(scores.numel())
        return softmax(scores, *args)

    def from_call(cls, *args, **options):
        watched.append(None)
        return made(cls, *args, **options)

    monkeypatch.setattr(torch.Tensor, "softmax", noting)
    monkeypatch.setattr(AttentionInputs, "from_call", classmethod(from_call))
    name = "up.1.attn.0:self.map.h*"
    found = diffeat.extract(backbone_of("sd1"), pictures(1), spec("sd1", name))
    assert len(found) == 2
    assert max(held) <= 256 * 100
    assert sum(held) == 2 * 256 * 256  # every head once, and no mean besides
    assert len(watched) == 1  # one watch for both


# --- joint attention --------------------------------------------------------------------------


def test_registers_are_told_apart(backbone_of, plain_of):
    backbone = backbone_of("auraflow")
    assert backbone.registers == plain_of("auraflow").denoiser.register_tokens.shape[1] == 8
    names = ("single.0:cross.map", "single.0:register.map", "single.0:t2i.map", "single.0:text.q")
    found = diffeat.extract(backbone, pictures(1), spec("auraflow", names))
    text, registers, asked, queries = (found[name, T] for name in names)
    assert torch.equal(registers, text[:, :8])
    assert text.shape[1] == asked.shape[1] == queries.shape[1] == backbone.text_tokens() == 8 + 16
    others = ("pixel", "sd1", "sd3", "flux", "dit")
    assert [backbone_of(name).registers for name in others] == [0] * len(others)
    assert not [b for name in others for b in backbone_of(name).tensors if "register" in b.name]


@pytest.mark.parametrize("model", ["sd35", "flux", "auraflow"])
def test_text_queries_give_the_image_a_part_of_one(model, backbone_of):
    name = "block.0:t2i.map"
    found = diffeat.extract(backbone_of(model), pictures(1), spec(model, name))[name, T]
    given = found.sum((2, 3))  # over the image's keys; the rest goes to the text's
    assert 0 < given.min() < given.max() < 1
    chosen = diffeat.extract(backbone_of(model), pictures(1), spec(model, name, tokens=(5, 2)))
    same(chosen[name, T], found[:, [5, 2]], atol=1e-7)
    with pytest.raises(SpecError, match=rf"the map '{name}' has {found.shape[1]} text tokens"):
        diffeat.extract(backbone_of(model), pictures(1), spec(model, name, tokens=(999,)))


def test_a_mirrored_text_map_is_put_back_and_tiles_are_refused(backbone_of, plain_of):
    backbone, plain, name = backbone_of("flux"), plain_of("flux"), "block.1:t2i.map"
    images = pictures(1)
    eps = gaussian(1, *backbone.latent_shape((32, 32)))
    found = read(backbone, name, images, eps, T, "flux", flip=True)[name]
    views = []
    for pixels, noise in ((images, eps), (images.flip(3), eps.flip(3))):
        clean = plain.encode(pixels)
        x = plain.noisy(clean, noise, T)
        views.append(references(plain, [name], clean, x, T, condition_of(plain, 1))[name])
    same(found, (views[0] + views[1].flip(3)) / 2, atol=1e-6)
    with pytest.raises(SpecError, match="cannot be put together from tiles"):
        read(backbone, name, pictures(1, (32, 64)), None, T, "flux", tile=32)
