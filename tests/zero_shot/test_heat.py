"""Heat of words, against plain forwards of diffusers, attention processors and sums by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn.functional as F

from diffeat import ExtractSpec
from diffeat.errors import NumericsError, SpecError
from diffeat.extraction import Batch
from diffeat.words.vocabulary import Vocabulary
from diffeat.zero_shot import heat as module
from diffeat.zero_shot import weighing
from diffeat.zero_shot.heat import HeatOptions, WordForward, WordHeat, refined
from diffeat.zero_shot.pictures import heat_maps
from diffeat.zero_shot.prompts import listed, prompts_for, runs_of
from tests.pipelines import gaussian, pictures
from tests.reference import references

CLOSE = {"rtol": 1e-4, "atol": 1e-6}
PROMPT, WORDS = "a cat", ("cat", "a")
T = (600, 30)
COUNT = 2
FAMILIES = (
    "sd1", "sd3", "flux", "auraflow",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("sdxl", "pixart-sigma")),
)  # fmt: skip


def keys_of(backbone, prompt: str = PROMPT) -> list[list[int]]:
    """Of "cat" and "a": where the pieces lie in the padded prompts, by the tokenizers alone."""
    parts = {"sd3": ("tokenizer", "tokenizer_3"), "flux": ("tokenizer_2",)}
    found: list[list[int]] = [[], []]
    first = backbone.text_tokens() - backbone.embedding_shapes["encoder_hidden_states"][0]
    for part in parts.get(backbone.family, ("tokenizer",)):
        tokenizer = backbone.extras[part]
        ids = tokenizer(prompt, padding="max_length", max_length=tokenizer.model_max_length)
        for k, piece in enumerate(tokenizer.convert_ids_to_tokens(ids.input_ids)):
            for each, word in zip(found, WORDS, strict=True):
                if piece.removesuffix("</w>").lstrip("▁") == word:
                    each.append(first + k)
        first += tokenizer.model_max_length
    assert all(found)
    return found


def spec_of(blocks=module.ALL_MAPS, **more) -> ExtractSpec:
    return ExtractSpec(T, blocks, size=32, **more)


def batch_of(plain, count: int = COUNT) -> tuple[Batch, torch.Tensor, torch.Tensor]:
    """Pictures, their clean latents, and the noise."""
    x = pictures(count)
    clean = plain.encode(x)
    noise = gaussian(*clean.shape)
    batch = Batch.of(x, [str(k) for k in range(count)], None, noise[:, None])
    return batch, clean, noise


KNOWN: dict = {}


def every_head(plain, backbone, clean, noise) -> dict[tuple[str, float], torch.Tensor]:
    """(block, t) → (N, heads, 2 words, h, w): mean over a word's tokens, of a plain forward."""
    if (plain.name, len(clean)) in KNOWN:
        return KNOWN[plain.name, len(clean)]
    keys, found = keys_of(backbone), KNOWN.setdefault((plain.name, len(clean)), {})
    kept = [key for word in keys for key in word]
    places = np.split(np.arange(len(kept)), [len(keys[0])])
    by_heads: dict[int, list[str]] = {}
    for block in backbone.tensors:
        if block.tensor == "cross.map":
            heads = backbone.denoiser.get_submodule(block.path).heads
            by_heads.setdefault(heads, []).append(block.name)
    for t in T:
        x_t, condition = plain.noisy(clean, noise, t), plain.condition(len(clean), PROMPT)
        for heads, names in by_heads.items():
            each = references(
                plain, names, clean, x_t, t, condition, heads=range(heads), tokens=kept
            )
            for name, maps in each.items():
                apart = maps.unflatten(1, (heads, len(kept)))
                found[name, t] = torch.stack([apart[:, :, list(p)].mean(2) for p in places], 2)
    return found


def up(maps: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """(N, K, h, w) → (N, K, *grid)."""
    return F.interpolate(maps, grid, mode="bicubic", align_corners=False)


def runs(backbone, prompt: str = PROMPT, words: str = "cat,a"):
    return runs_of(backbone, Vocabulary.of(words).classes, prompt)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_head_of_every_layer_and_level_counts_once(name, backbone_of, plain_of) -> None:
    """DAAM's sum, over heads, layers and levels, each resized by itself."""
    backbone, plain = backbone_of(name), plain_of(name)
    batch, clean, noise = batch_of(plain)
    maps = every_head(plain, backbone, clean, noise)
    grid = max(tuple(one.shape[3:]) for one in maps.values())
    each = [up(one[:, head], grid) for one in maps.values() for head in range(one.shape[1])]
    found = WordHeat(backbone, spec_of())(batch, [runs(backbone)] * COUNT)
    torch.testing.assert_close(found, torch.stack(each).mean(0), **CLOSE)


def test_against_the_attention_processors_of_diffusers(backbone_of, plain_of) -> None:
    """The same from probabilities that diffusers' own attention computes."""
    backbone, plain = backbone_of("sd1"), plain_of("sd1")
    batch, clean, noise = batch_of(plain)
    taken: list[torch.Tensor] = []

    class Keep:
        def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None,
                     *args, **kwargs):  # fmt: skip
            text = hidden_states if encoder_hidden_states is None else encoder_hidden_states
            q, k, v = attn.to_q(hidden_states), attn.to_k(text), attn.to_v(text)
            q, k, v = map(attn.head_to_batch_dim, (q, k, v))
            p = attn.get_attention_scores(q, k, attention_mask)
            if encoder_hidden_states is not None:
                taken.append(p.unflatten(0, (-1, attn.heads)))
            return attn.to_out[1](attn.to_out[0](attn.batch_to_head_dim(torch.bmm(p, v))))

    before = plain.denoiser.attn_processors
    plain.denoiser.set_attn_processor(Keep())
    try:
        with torch.no_grad():
            for t in T:
                x = plain.noisy(clean, noise, t)
                plain.denoiser(x, t, **plain.condition(COUNT, PROMPT))
    finally:
        plain.denoiser.set_attn_processor(before)
    cat, a = keys_of(backbone)
    each = []
    for p in taken:  # (N, heads, M, L)
        side = int(p.shape[2] ** 0.5)
        words = torch.stack([p[..., cat].mean(-1), p[..., a].mean(-1)], 2)
        each += [up(words[:, h].unflatten(2, (side, side)), (16, 16)) for h in range(p.shape[1])]
    found = WordHeat(backbone, spec_of())(batch, [runs(backbone)] * COUNT)
    torch.testing.assert_close(found, torch.stack(each).mean(0), **CLOSE)


def test_one_joint_block_alone(backbone_of, plain_of) -> None:
    """As Seg4Diff reads it: one block, one t."""
    backbone, plain = backbone_of("sd3"), plain_of("sd3")
    batch, clean, noise = batch_of(plain)
    spec = replace(spec_of(("block.1:cross.map",)), timesteps=(600,))
    found = WordHeat(backbone, spec)(batch, [runs(backbone)] * COUNT)
    maps = every_head(plain, backbone, clean, noise)["block.1:cross.map", 600]
    torch.testing.assert_close(found, maps.mean(1), **CLOSE)


@pytest.mark.parametrize("weights", ["concentration", "coherence", "agreement"])
def test_weights_are_each_head_s_own(weights, backbone_of, plain_of) -> None:
    """Σ w·m / Σ w with weights from SciPy, loops and NumPy."""
    backbone, plain = backbone_of("sd2"), plain_of("sd2")  # whose layers differ in heads
    batch, clean, noise = batch_of(plain, 1)
    maps = every_head(plain, backbone, clean, noise)
    total, weight = torch.zeros(2, 16, 16), torch.zeros(2)
    for one in maps.values():
        for k in range(2):
            for head in range(one.shape[1]):
                w = weight_by_hand(weights, one[0, :, k].double().numpy(), head)
                total[k] += w * up(one[:1, head, k : k + 1], (16, 16))[0, 0]
                weight[k] += w
    options = HeatOptions(weights=weights)
    found = WordHeat(backbone, spec_of(), options)(batch, [runs(backbone)])
    torch.testing.assert_close(found[0], total / weight[:, None, None], rtol=1e-3, atol=1e-6)


def weight_by_hand(name: str, maps: np.ndarray, head: int) -> float:
    """Of one head among (heads, h, w)."""
    one = maps[head]
    if name == "concentration":
        flat = one.ravel() / one.sum()
        return max(1e-6, 1 - scipy.stats.entropy(flat) / np.log(flat.size))
    if name == "agreement":
        return max(1e-6, np.corrcoef(one.ravel(), maps.mean(0).ravel())[0, 1])
    h, w = one.shape
    pairs = [((i, j), (i + a, j + b)) for i in range(h) for j in range(w) for a, b in
             ((0, 1), (1, 0)) if i + a < h and j + b < w]  # fmt: skip
    d = one - one.mean()
    near = sum(d[p] * d[q] for p, q in pairs) / len(pairs)
    return max(1e-6, near / (d * d).mean())


def test_weights_of_plain_cases() -> None:
    point, flat = torch.zeros(1, 1, 1, 8, 8), torch.ones(1, 1, 1, 8, 8)
    point[..., 3, 4] = 1
    ramp = torch.arange(8.0).expand(1, 1, 1, 8, 8)
    noise = torch.rand(1, 1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    assert float(weighing.concentration(point)) == pytest.approx(1)
    assert float(weighing.concentration(flat)) == pytest.approx(0, abs=1e-6)
    assert float(weighing.coherence(flat)) == 0
    assert float(weighing.coherence(noise)) < 0.1
    assert float(weighing.coherence(ramp)) > 0.8
    both = torch.cat([ramp, ramp, -ramp], 1)
    assert weighing.agreement(both).flatten().tolist() == pytest.approx([1, 1, 0], abs=1e-6)


def test_a_pixel_s_share_of_its_prompt(backbone_of, plain_of) -> None:
    """--rescale: divided, head by head, by what the pixel attends to of the whole prompt."""
    backbone, plain = backbone_of("sd3"), plain_of("sd3")
    batch, clean, noise = batch_of(plain)
    maps = every_head(plain, backbone, clean, noise)
    cat, a = keys_of(backbone)  # all that the prompt has
    each = [
        one * 1.0 / (len(cat) * one[:, :, :1] + len(a) * one[:, :, 1:]) for one in maps.values()
    ]
    expected = torch.stack(each).mean((0, 2))
    options = HeatOptions(rescale=True)
    found = WordHeat(backbone, spec_of(), options)(batch, [runs(backbone)] * COUNT)
    torch.testing.assert_close(found, expected, **CLOSE)


def test_self_attention_spreads_the_heat(backbone_of, plain_of) -> None:
    """--refine: the mean heat of the cells that a cell attends to."""
    backbone, plain = backbone_of("flux"), plain_of("flux")
    batch, clean, noise = batch_of(plain)
    maps = every_head(plain, backbone, clean, noise)
    heat = torch.stack([one.mean(1) for one in maps.values()]).mean(0).flatten(2)  # (N, 2, M)
    names, rows = ["block.0:self.map", "single.1:self.map"], []
    for t in T:
        x_t, condition = plain.noisy(clean, noise, t), plain.condition(COUNT, PROMPT)
        found = references(plain, names, clean, x_t, t, condition)
        rows += [one.flatten(2) for one in found.values()]  # (N, keys, queries)
    attention = torch.stack(rows).mean(0)
    attention = attention / attention.sum(1, keepdim=True)
    expected = heat @ attention @ attention
    options = HeatOptions(refine=tuple(names), power=2)
    found = WordHeat(backbone, spec_of(), options)(batch, [runs(backbone)] * COUNT)
    torch.testing.assert_close(found.flatten(2), expected, **CLOSE)


def test_refinement_by_hand() -> None:
    heat = torch.tensor([[[[1.0, 2.0]]]])
    attention = torch.tensor([[[1.0, 3.0], [0.0, 2.0]]])
    assert refined(heat, attention).flatten().tolist() == [1.75, 2.0]


def test_chosen_heads_alone(backbone_of, plain_of) -> None:
    backbone, plain = backbone_of("sd1"), plain_of("sd1")
    batch, clean, noise = batch_of(plain)
    maps = every_head(plain, backbone, clean, noise)
    each = [up(one[:, 1], (16, 16)) for one in maps.values()]
    found = WordHeat(backbone, spec_of(heads=(1,)))(batch, [runs(backbone)] * COUNT)
    torch.testing.assert_close(found, torch.stack(each).mean(0), **CLOSE)


def test_one_head_by_its_name_and_what_words_attend_to(backbone_of, plain_of) -> None:
    backbone, plain = backbone_of("sd3"), plain_of("sd3")
    batch, clean, noise = batch_of(plain)
    maps = every_head(plain, backbone, clean, noise)
    spec = replace(spec_of(("block.1:cross.map.h2",)), timesteps=(600,))
    for weights in ("even", "coherence"):  # of one head they change nothing
        options = HeatOptions(weights=weights)
        found = WordHeat(backbone, spec, options)(batch, [runs(backbone)] * COUNT)
        torch.testing.assert_close(found, maps["block.1:cross.map", 600][:, 2], **CLOSE)
    spec = replace(spec, blocks=("block.1:t2i.map",))
    found = WordHeat(backbone, spec)(batch, [runs(backbone)] * COUNT)
    x_t, condition = plain.noisy(clean, noise, 600), plain.condition(COUNT, PROMPT)
    (asked,) = references(plain, ["block.1:t2i.map"], clean, x_t, 600, condition).values()
    words = torch.stack([asked[:, keys].mean(1) for keys in keys_of(backbone)], 1)
    torch.testing.assert_close(found, words, **CLOSE)


def test_batches_members_and_rows_change_nothing(backbone_of) -> None:
    """A picture's heat is its own; members are averaged; a forward of two rows gives the same."""
    backbone, x = backbone_of("sd1"), pictures(3)
    spec = spec_of(ensemble=2)
    options = HeatOptions(weights="coherence")
    whole = heat_maps(backbone, x, "cat,a", replace(spec, prompt=PROMPT), options)
    few = heat_maps(backbone, x[1:], "cat,a", replace(spec, prompt=PROMPT), options,
                    ids=["1", "2"], batch_size=3)  # fmt: skip
    assert whole.shape == (3, 2, 16, 16)
    np.testing.assert_allclose(few, whole[1:], rtol=1e-4, atol=1e-6)


def test_prompts_that_differ_by_picture(backbone_of) -> None:
    """Each picture is run under its own prompt; a word that it does not have is -inf there."""
    backbone, x = backbone_of("sd1"), pictures(2)
    each = [runs_of(backbone, Vocabulary.of("cat,mat").classes, text, "leave-out")
            for text in ("a mat", "a cat")]  # fmt: skip
    heat = WordHeat(backbone, spec_of())
    found = heat(Batch.of(x, ["0", "1"]), each)
    assert torch.isinf(found[0, 0]).all()
    assert torch.isinf(found[1, 1]).all()
    alone = heat_maps(backbone, x, "cat", spec_of(prompt="a cat"))
    np.testing.assert_allclose(found[1, 0].numpy(), alone[1, 0], rtol=1e-4, atol=1e-6)


def test_templates() -> None:
    classes = Vocabulary.of({"cat": ["kitten"], "owl": [], "dog": []}).classes
    assert listed(["cat"]) == "a cat"
    assert listed(["cat", "owl"]) == "a cat and an owl"
    assert prompts_for("a photo of {words}", classes) == [
        ("a photo of a cat, an owl and a dog", (0, 1, 2))
    ]
    assert prompts_for("one {word}", classes)[1] == ("one owl", (1,))
    with pytest.raises(SpecError, match="expected one of them"):
        prompts_for("{word} {words}", classes)


def test_a_class_is_there_by_any_of_its_words(backbone_of) -> None:
    backbone = backbone_of("sd1")
    (run,) = runs_of(backbone, Vocabulary.of({"mat": ["cat"], "a": []}).classes, PROMPT)
    assert run.keys == tuple(tuple(word) for word in keys_of(backbone))


def test_words_within_words(backbone_of) -> None:
    """The "cat" of "cat mat" is no cat where both are asked for, and is one where it is not."""
    backbone, prompt = backbone_of("sd1"), "a cat mat, a cat"
    (both,) = runs(backbone, prompt, "cat,cat mat")
    (alone,) = runs(backbone, prompt, "cat")
    (first, second), phrase = alone.keys[0], both.keys[1]
    assert both.keys[0] == (second,)
    assert first in phrase
    assert second not in phrase
    with pytest.raises(SpecError, match="only as a part of longer words"):
        runs(backbone, "a cat mat", "cat,cat mat")


def test_refusals(backbone_of, monkeypatch) -> None:
    sd = backbone_of("sd1")
    (run,) = runs(sd)
    for blocks, options, match in (
        (("up.1",), {}, "no map of attention to text"),
        (("up.1.attn.0:self.map",), {}, "no map of attention to text"),
        (module.ALL_MAPS, {"refine": ("up.1.attn.0:cross.map",)}, "no self-attention map"),
        (module.ALL_MAPS, {"refine": ("all:self.map",)}, "expected those of one grid"),
    ):
        with pytest.raises(SpecError, match=match):
            WordForward(sd, spec_of(blocks), run, HeatOptions(**options))
    with pytest.raises(SpecError, match="leave tile and flip out"):
        WordForward(sd, spec_of(flip=True), run, HeatOptions())
    for options in (
        {"weights": "best"}, {"power": 0}, {"grid": (0, 4)}, {"guidance": float("nan")},
    ):  # fmt: skip
        with pytest.raises(SpecError):
            HeatOptions(**options)
    with pytest.raises(SpecError, match="the word 'dog'"):
        runs(sd, words="dog")
    monkeypatch.setitem(weighing.WEIGHTS, "even", lambda maps: maps[..., 0, 0] * torch.nan)
    with pytest.raises(NumericsError, match="nan"):
        WordHeat(sd, spec_of())(Batch.of(pictures(1), ["0"]), [(run,)])
