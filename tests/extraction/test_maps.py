"""Attention maps: heads, keys, sums, pooling, memory, and that nobody pays for maps unasked."""

from __future__ import annotations

import pytest
import torch

import diffeat
from diffeat.attention import AttentionInputs
from diffeat.errors import SpecError
from tests.extraction.common import T, condition_of, rows_of, same, spec
from tests.pipelines import JOINT, NATIVE, TALL, gaussian, pictures
from tests.pipelines import references as all_references

BOTH = ("self.map", "cross.map")
PLACES = {
    "pixel": {"mid.attn.0": BOTH[:1]},
    "sd1": {"up.1.attn.0": BOTH},
    "sdxl": {"up.0.attn.0.block.1": BOTH},
    "dit": {"block.1": BOTH[:1]},
    "pixart-sigma": {"block.1": BOTH},
    "sd3": {"block.1": BOTH},
    "sd35": {"block.0": BOTH},
    "flux": {"block.1": BOTH, "single.0": BOTH},
    "auraflow": {"block.0": BOTH, "single.1": BOTH},
}
MAPS = {
    model: [f"{place}:{kind}" for place, kinds in places.items() for kind in kinds]
    for model, places in PLACES.items()
}
CROSS = "up.1.attn.0:cross.map"  # of sd1: 12 keys, 16×16 cells, two heads
SELF = "up.1.attn.0:self.map"  # and here 256 keys
SELF_BYTES = 4 * 256 * 256


def noisy(plain, images, eps, t=T):
    clean = plain.encode(images)
    return clean, plain.noisy(clean, eps, t)


def references(plain, names, clean, x, t, **kept):
    """By name; as `tests.reference` has it, but the text encoder is not loaded every time."""
    condition = condition_of(plain, len(x), plain.pixels(x))
    return all_references(plain, names, clean, x, t, condition, **kept)


def reference(plain, name, *args, **kept):
    return references(plain, [name], *args, **kept)[name]


def two(model, backbone_of, plain_of, size=NATIVE, count=2):
    """(backbone, plain, pictures, noise, (clean, noisy))."""
    backbone, plain, images = backbone_of(model), plain_of(model), pictures(count, size)
    eps = gaussian(count, *backbone.latent_shape(size))
    return backbone, plain, images, eps, noisy(plain, images, eps)


# --- what is kept -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kept",
    [
        {"heads": (1,)},
        {"heads": (1, 0)},
        {"tokens": (7, 2, 4)},
        {"heads": (1, 0), "tokens": (7, 2, 4)},
    ],
    ids=str,
)
@pytest.mark.parametrize("model", [model for model in PLACES if model != "pixel"])
def test_heads_and_keys_equal_a_softmax_by_hand(model, kept, backbone_of, plain_of):
    backbone, plain, images, eps, (clean, x) = two(model, backbone_of, plain_of, TALL, 1)
    found = diffeat.extract(backbone, images, spec(model, MAPS[model], **kept), noise=eps)
    expected = references(plain, MAPS[model], clean, x, T, **kept)
    for name in MAPS[model]:
        same(found[name, T], expected[name], atol=1e-6)
        heads, keys = len(kept.get("heads", (0,))), len(kept.get("tokens", ()))
        assert not keys or found[name, T].shape[1] == heads * keys


def test_one_head_of_a_pixel_unet(backbone_of, plain_of):
    backbone, plain, images, eps, (clean, x) = two("pixel", backbone_of, plain_of, TALL)
    (name,) = MAPS["pixel"]
    heads = (2, 0)  # of 24 channels in heads of 8
    found = diffeat.extract(backbone, images, spec("pixel", name, heads=heads), noise=eps)
    same(found[name, T], reference(plain, name, clean, x, T, heads=heads), atol=1e-6)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_channels_are_head_major(order, backbone_of, plain_of):
    backbone, plain, images, eps, (clean, x) = two("sd1", backbone_of, plain_of)
    asked = spec("sd1", CROSS, heads=order, tokens=(3, 1, 0))
    found = diffeat.extract(backbone, images, asked, noise=eps)[CROSS, T]
    assert found.shape == (2, 2 * 3, 16, 16)
    alone = [
        reference(plain, CROSS, clean, x, T, heads=(head,), tokens=(token,))
        for head in order
        for token in (3, 1, 0)
    ]
    for channel, expected in enumerate(alone):
        same(found[:, channel : channel + 1], expected, atol=1e-6)
    assert (alone[0] - alone[3]).abs().max() > 1e-4  # the heads differ


def test_keys_of_self_maps_are_cells_row_by_row(backbone_of, plain_of):
    """Key 1·columns + 2 is the cell in row 1, column 2: moving its k moves that channel alone."""
    backbone, _, images, eps, _ = two("dit", backbone_of, plain_of, TALL, 1)
    columns, cell = TALL[1] // 4, TALL[1] // 4 + 2
    names = ("block.0:self.map", "block.0:self.q", "block.0:self.k")
    found = diffeat.extract(backbone, images, spec("dit", names), noise=eps)
    maps, q, k = (found[name, T][0] for name in names)
    q, k = (value.unflatten(0, (2, 8)) for value in (q, k))  # heads of 8 channels
    scores = torch.einsum("hdrc,hdij->hrcij", q, k) / 8**0.5
    expected = scores.flatten(3).softmax(-1).unflatten(3, k.shape[2:]).mean(0)
    same(maps[cell], expected[:, :, 1, 2], atol=1e-6)
    assert maps.shape == (8 * columns, 8, columns)


# --- sums ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("heads", [None, (1,)])
@pytest.mark.parametrize("model", [model for model in PLACES if model not in JOINT])
def test_maps_sum_to_one_over_their_keys(model, heads, backbone_of):
    asked = spec(model, MAPS[model], heads=heads)
    for maps in diffeat.extract(backbone_of(model), pictures(1), asked).values():
        same(maps.sum(1), torch.ones_like(maps[:, 0]))
        assert maps.min() >= 0


@pytest.mark.parametrize("heads", [None, (1,)])
@pytest.mark.parametrize("model", [model for model in PLACES if model in JOINT])
def test_both_maps_of_a_joint_attention_sum_to_one(model, heads, backbone_of):
    found = diffeat.extract(backbone_of(model), pictures(1), spec(model, MAPS[model], heads=heads))
    for place in PLACES[model]:
        cells, words = (found[f"{place}:{kind}", T].sum(1) for kind in BOTH)
        same(cells + words, torch.ones_like(cells))
        assert 0.01 < words.mean() < 0.99  # not renormalised


def test_padding_gets_no_attention_where_the_model_masks_it(backbone_of):
    name = "block.1:cross.map"
    found = diffeat.extract(backbone_of("pixart-sigma"), pictures(1), spec("pixart-sigma", name))
    weight = found[name, T].mean((0, 2, 3))
    assert len(weight) == 16
    words = 3  # "▁a", "▁cat", "</s>"
    assert weight[:words].min() > 0.01
    assert weight[words:].max() == 0


# --- pooling, members, batches --------------------------------------------------------------------


@pytest.mark.parametrize(("pool", "rows", "columns"), [("1x1", 1, 1), ("2x4", 2, 4)])
@pytest.mark.parametrize("model", ["sd1", "flux"])
def test_pooled_maps_are_means_of_cells(model, pool, rows, columns, backbone_of, plain_of):
    backbone, plain, images, eps, (clean, x) = two(model, backbone_of, plain_of)
    kept = {"heads": (1, 0), "tokens": (2, 6)}
    asked = spec(model, MAPS[model], pool=pool, **kept)
    found = diffeat.extract(backbone, images, asked, noise=eps)
    expected = references(plain, MAPS[model], clean, x, T, **kept)
    for name in MAPS[model]:
        n, c, h, w = expected[name].shape
        cells = expected[name].reshape(n, c, rows, h // rows, columns, w // columns)
        same(found[name, T], cells.mean((3, 5)).flatten(1), atol=1e-6)


@pytest.mark.parametrize("batch_size", [None, 2])
def test_members_of_an_ensemble_are_averaged(batch_size, backbone_of, plain_of):
    backbone, plain, images = backbone_of("sd1"), plain_of("sd1"), pictures(2)
    eps = gaussian(2, 3, *backbone.latent_shape(NATIVE))
    asked = spec("sd1", (SELF, CROSS), ensemble=3, heads=(1,))
    found = diffeat.extract(backbone, images, asked, noise=eps, batch_size=batch_size)
    single = [
        references(plain, (SELF, CROSS), *noisy(plain, images, eps[:, e]), T, heads=(1,))
        for e in range(3)
    ]
    for name in (SELF, CROSS):
        same(found[name, T], sum(member[name] for member in single) / 3, atol=1e-6)


@pytest.mark.parametrize(("model", "batch_size"), [("sd1", 3), ("sd1", None), ("flux", 1)])
def test_maps_do_not_depend_on_the_batch(model, batch_size, backbone_of, plain_of):
    backbone, plain, images, eps, _ = two(model, backbone_of, plain_of, count=4)
    asked = spec(model, MAPS[model], timesteps=(600, 30))
    found = diffeat.extract(backbone, images, asked, noise=eps, batch_size=batch_size)
    for t in (600, 30):
        expected = references(plain, MAPS[model], *noisy(plain, images, eps, t), t)
        for name in MAPS[model]:
            same(found[name, t], expected[name], atol=1e-6)


@pytest.mark.parametrize("heads", [None, (1, 0)])
def test_maps_that_are_worked_on_in_pieces(heads, backbone_of, plain_of, monkeypatch):
    backbone, plain, images, eps, (clean, x) = two("sd1", backbone_of, plain_of)
    monkeypatch.setattr("diffeat.attention.CHUNK", 2 * 256 * 7)  # seven of 256 queries at a time
    found = diffeat.extract(backbone, images, spec("sd1", (SELF, CROSS), heads=heads), noise=eps)
    expected = references(plain, (SELF, CROSS), clean, x, T, heads=heads)
    for name in (SELF, CROSS):
        same(found[name, T], expected[name], atol=1e-6)


# --- as little work as possible -------------------------------------------------------------------


@pytest.fixture
def computed(monkeypatch):
    """Grows by one for every map that is computed."""
    seen, real = [], AttentionInputs.probabilities

    def probabilities(self, *args, **options):
        seen.append(self.query.shape)
        return real(self, *args, **options)

    monkeypatch.setattr(AttentionInputs, "probabilities", probabilities)
    return seen


@pytest.mark.parametrize("model", ["pixel", "sd1", "flux"])
def test_no_map_is_computed_unless_asked_for(model, computed, backbone_of):
    backbone = backbone_of(model)
    others = [block.name for block in backbone.tensors if block.layout != "map"]
    diffeat.extract(backbone, pictures(1), spec(model, others))
    assert computed == []


def test_only_the_maps_that_are_asked_for_are_computed(computed, backbone_of):
    backbone = backbone_of("sd1")
    diffeat.extract(backbone, pictures(3), spec("sd1", (CROSS, "up.1.attn.1:self.q")), batch_size=3)
    assert [tuple(shape) for shape in computed] == [(3, 2, 256, 4)]


# --- memory ---------------------------------------------------------------------------------------


def limit(monkeypatch, count):
    monkeypatch.setattr("diffeat.extraction.plan.MAX_MAP_BYTES", count)


def test_a_map_that_does_not_fit_in_memory(backbone_of, monkeypatch):
    limit(monkeypatch, SELF_BYTES - 1)
    with pytest.raises(SpecError, match=rf"{SELF}.*256 cells.*32×32.*choose tokens, fewer heads"):
        diffeat.extract(backbone_of("sd1"), pictures(1), spec("sd1", (CROSS, SELF)))
    limit(monkeypatch, SELF_BYTES)
    assert diffeat.extract(backbone_of("sd1"), pictures(1), spec("sd1", SELF))[SELF, T].shape


def test_heads_cost_memory_and_tokens_save_it(backbone_of, monkeypatch):
    limit(monkeypatch, SELF_BYTES)
    with pytest.raises(SpecError, match=f"{SELF}.*GiB"):
        diffeat.extract(backbone_of("sd1"), pictures(1), spec("sd1", SELF, heads=(0, 1)))
    fewer = spec("sd1", SELF, heads=(0, 1), tokens=range(128))
    assert diffeat.extract(backbone_of("sd1"), pictures(1), fewer)[SELF, T].shape[1] == 256


def test_tiles_need_only_the_memory_of_a_tile(backbone_of, monkeypatch):
    limit(monkeypatch, 4 * 12 * 256)  # the text's 12 keys in 16×16 cells
    image = pictures(1, (32, 48))
    with pytest.raises(SpecError, match=CROSS):
        diffeat.extract(backbone_of("sd1"), image, spec("sd1", CROSS))
    found = diffeat.extract(backbone_of("sd1"), image, spec("sd1", CROSS, tile=32))
    assert found[CROSS, T].shape == (1, 12, 16, 24)


@pytest.mark.parametrize(
    ("blocks", "fitting", "rows"), [((SELF,), 3, 3), ((SELF, CROSS), 3, 2), (("up.1",), 1, 14)]
)
def test_batches_shrink_until_their_maps_fit(blocks, fitting, rows, backbone_of, monkeypatch):
    limit(monkeypatch, fitting * SELF_BYTES)
    backbone = backbone_of("sd1")
    with rows_of(backbone.denoiser) as seen:
        diffeat.extract(backbone, pictures(7), spec("sd1", blocks, timesteps=(10, 20)))
    assert max(seen) == rows
    assert sum(seen) == 14


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "blocks", "options", "message"),
    [
        ("sd1", "up.1", {"heads": (0,)}, r"heads=\(0,\) is for attention .*; none is asked for"),
        ("sd1", "up.1", {"tokens": (0,)}, r"tokens=\(0,\) is for attention maps; none is asked"),
        ("sd1", "up.1.attn.0:self.out", {"heads": (0,)}, "none is asked for"),
        ("sd1", f"{CROSS}.h1", {"heads": (0,)}, "none is asked for"),  # is one head already
        ("sd1", CROSS, {"tokens": (3, 12)}, rf"tokens=12: the map '{CROSS}' has 12 keys"),
        ("dit", "block.0:self.map", {"tokens": (64,)}, "tokens=64: the map 'block.0:self.map' has"),
        ("flux", "single.0:cross.map", {"tokens": (16,)}, "tokens=16: .* has 16 keys"),
    ],
)
def test_requests_that_no_map_can_answer(model, blocks, options, message, backbone_of):
    with pytest.raises(SpecError, match=message):
        diffeat.extract(backbone_of(model), pictures(1), spec(model, blocks, **options))


def test_register_tokens_count_as_text(backbone_of):
    backbone, name = backbone_of("auraflow"), "single.0:cross.map"
    found = diffeat.extract(backbone, pictures(1), spec("auraflow", name, tokens=(23,)))
    assert found[name, T].shape == (1, 1, 8, 8)  # 8 registers and 16 words
    with pytest.raises(SpecError, match=r"tokens=24: .* has 24 keys"):
        diffeat.extract(backbone, pictures(1), spec("auraflow", name, tokens=(24,)))


@pytest.mark.parametrize(
    "options", [{"heads": (-1,)}, {"heads": (1, 1)}, {"heads": ()}, {"tokens": (0.5,)}]
)
def test_indices_that_are_none(options):
    with pytest.raises(SpecError, match=next(iter(options))):
        spec("sd1", CROSS, **options)


@pytest.mark.parametrize(
    ("model", "name", "heads"),
    [("sd1", CROSS, (2,)), ("flux", "block.0:self.map", (0, 2)), ("pixel", MAPS["pixel"][0], (9,))],
)
def test_heads_that_do_not_exist(model, name, heads, backbone_of):
    with pytest.raises(SpecError, match=f"{max(heads)}.*{name}"):
        diffeat.extract(backbone_of(model), pictures(1), spec(model, name, heads=heads))
