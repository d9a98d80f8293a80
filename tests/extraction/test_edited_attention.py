"""Attention probabilities that are edited: what the module goes on with, and what taps see."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import _get_current_function_mode_stack

import diffeat
from diffeat.attention import AttentionInputs
from diffeat.compiled import compile_forward
from diffeat.errors import HookError
from diffeat.extraction import Forward, Plan
from diffeat.hooks import HookManager, Tap
from tests.extraction.common import T, same, spec
from tests.pipelines import gaussian, pictures

FAMILIES = {  # model: the attention that is edited, where it shows
    "pixel": ("mid_block.attentions.0", "mid"),
    "adm": ("mid_block.attentions.0", "mid"),
    "edm": ("mid_block.attentions.0", "mid"),
    "sd1": ("up_blocks.1.attentions.0.transformer_blocks.0.attn2", "up.1.attn.0"),
    "sdxl": ("up_blocks.0.attentions.0.transformer_blocks.1.attn1", "up.0.attn.0"),
    "dit": ("transformer_blocks.1.attn1", "block.1"),
    "sit": ("transformer_blocks.1.attn1", "block.1"),
    "pixart-sigma": ("transformer_blocks.1.attn2", "block.1"),
    "sd35": ("transformer_blocks.0.attn", "block.0"),
    "flux": ("single_transformer_blocks.0.attn", "single.0"),
    "auraflow": ("joint_transformer_blocks.0.attn", "block.0"),
}


class Toy(nn.Module):
    """An attention whose arguments a test chooses; `before` and `after` are the identity."""

    def __init__(self, **options):
        super().__init__()
        self.inner, self.after, self.options = nn.Identity(), nn.Identity(), options

    def forward(self, q, k, v):
        q = self.inner(q)
        return self.after(F.scaled_dot_product_attention(q, k, v, **self.options))


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.plain = Toy(), Toy(), nn.Identity()

    def forward(self, q, k, v):
        return self.plain(self.two(self.one(q, k, v), k, v))


def arguments(heads=4, key_heads=None, width=3):
    key_heads = key_heads or heads
    return (gaussian(2, heads, 6, width), gaussian(2, key_heads, 5, width, seed=2),
            gaussian(2, key_heads, 5, 7, seed=3))  # fmt: skip


def at(path="one"):
    return Tap(path, "attention")


def seen_mask(*shape):
    mask = gaussian(*shape, seed=4) > 0
    mask[..., 0] = True
    return mask


OPTIONS = {
    "plain": ({}, None),
    "bool mask": ({"attn_mask": seen_mask(2, 1, 6, 5)}, None),
    "float mask": ({"attn_mask": gaussian(6, 5, seed=5)}, None),
    "causal": ({"is_causal": True}, None),
    "scale": ({"scale": 0.2}, None),
    "grouped queries": ({"enable_gqa": True}, 2),
}


@pytest.mark.parametrize(("options", "key_heads"), OPTIONS.values(), ids=OPTIONS)
def test_the_identity_changes_nothing(options, key_heads):
    model, given, seen = Toy(**options), arguments(key_heads=key_heads), []

    def identity(probabilities):
        seen.append(probabilities)
        return probabilities

    with HookManager(model, {}, edits={at(""): identity}):
        found = model(*given)
    assert seen[0].shape == (2, 4, 6, 5)
    same(seen[0].sum(-1), torch.ones(2, 4, 6))
    same(found, model(*given), atol=1e-6)


@pytest.mark.parametrize(("options", "key_heads"), OPTIONS.values(), ids=OPTIONS)
def test_replaced_probabilities_are_what_values_are_mixed_by(options, key_heads):
    model, given = Toy(**options), arguments(key_heads=key_heads)
    mixed = torch.rand(2, 4, 6, 5, generator=torch.Generator().manual_seed(9))
    with HookManager(model, {}, edits={at(""): lambda _: mixed}):
        found = model(*given)
    expected = torch.zeros(2, 4, 6, 7)
    for n in range(2):
        for head in range(4):
            v = given[2][n, head // 2 if key_heads else head]
            expected[n, head] = mixed[n, head] @ v
    same(found, expected, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_short_floats_are_edited_in_full_precision(dtype):
    model, given = Toy(), [value.to(dtype) for value in arguments()]
    seen = []
    with HookManager(model, {}, edits={at(""): lambda p: seen.append(p.dtype) or p * 0.5}):
        found = model(*given)
    assert seen == [torch.float32]
    assert found.dtype == dtype
    q, k, v = (value.float() for value in given)
    weights = (torch.einsum("nhld,nhmd->nhlm", q, k) / math.sqrt(3)).softmax(-1)
    same(found, (0.5 * weights @ v).to(dtype), rtol=1e-2, atol=1e-3)


def test_a_tap_sees_what_was_edited():
    model, given = Twice(), arguments(width=7)
    q, k, v = given[0], given[1], given[2]
    mixed = torch.rand(2, 4, 6, 5, generator=torch.Generator().manual_seed(9))
    taps = {"map": at("one"), "out": "one", "two": at("two")}
    with HookManager(model, taps, edits={at("one"): lambda _: mixed}) as hooks:
        model(q, k, v)
    same(hooks["map"], mixed.mean(1))
    same(hooks["out"], mixed @ v)
    weights = (torch.einsum("nhld,nhmd->nhlm", mixed @ v, k) / math.sqrt(7)).softmax(-1)
    same(hooks["two"], weights.mean(1), atol=1e-6)
    assert _get_current_function_mode_stack() == []


def test_of_edited_probabilities_heads_queries_and_keys_can_be_chosen():
    q, k, v = arguments()
    edited = torch.rand(2, 4, 6, 5, generator=torch.Generator().manual_seed(9))
    call = AttentionInputs(q, k, None, 1.0, v, edited)
    found = call.probabilities((3, 1), slice(2, 5), torch.tensor([4, 0]))
    assert torch.equal(found, edited[:, [3, 1], 2:5][..., [4, 0]])
    assert torch.equal(call.probabilities(queries=torch.tensor([5, 0])), edited.mean(1)[:, [5, 0]])


def test_an_edit_that_returns_none_leaves_the_fused_result():
    model, given = Toy(), arguments()
    with HookManager(model, {"map": at("")}, edits={at(""): lambda _: None}) as hooks:
        assert torch.equal(model(*given), F.scaled_dot_product_attention(*given))
    same(hooks["map"].sum(-1), torch.ones(2, 6))


def test_edits_of_modules_within_each_other_follow_each_other():
    """From the module outside inwards in the order they were given; taps on both see the end."""
    model, given = Twice(), arguments(width=7)
    taps = {"outer": at(""), "inner": at("two")}
    edits = {at(""): lambda p: p * 2, at("two"): lambda p: p + 1}
    with HookManager(model, taps, edits=edits) as hooks:
        model(*given)
    # all of the model's attentions are of "", the last of them is kept
    assert torch.equal(hooks["outer"], hooks["inner"])
    same(hooks["inner"].sum(-1), torch.full((2, 6), 2.0 + 5), atol=1e-5)


def test_gradients_flow_through_edited_attention():
    model, given = Toy(), [value.requires_grad_() for value in arguments()]
    with HookManager(model, {}, edits={at(""): lambda p: p * p}):
        model(*given).square().sum().backward()
    found = [value.grad.clone() for value in given]
    q, k, v = (value.detach().clone().requires_grad_() for value in given)
    weights = (torch.einsum("nhld,nhmd->nhlm", q, k) / math.sqrt(3)).softmax(-1)
    (weights.square() @ v).square().sum().backward()
    for one, expected in zip(found, (q.grad, k.grad, v.grad), strict=True):
        same(one, expected, atol=1e-5)


def test_dropout_of_a_training_network_stays():
    model, given = Toy(dropout_p=1.0), arguments()
    with HookManager(model, {}, edits={at(""): lambda p: p}):
        assert torch.equal(model(*given), torch.zeros(2, 4, 6, 7))


def test_another_shape_is_refused():
    model = Toy()
    with (
        pytest.raises(HookError, match=r"'' returned probabilities of shape \(2, 4, 6, 1\)"),
        HookManager(model, {}, edits={at(""): lambda p: p[..., :1]}) as hooks,
    ):
        hooks.run(*arguments())
    assert _get_current_function_mode_stack() == []


def test_a_module_without_attention_is_refused():
    model = Twice()
    with (
        pytest.raises(HookError, match=r"'plain' ran without torch's scaled_dot_product_att"),
        HookManager(model, {}, edits={at("plain"): lambda p: p}) as hooks,
    ):
        hooks.run(*arguments(width=7))


def test_compiled_attention_runs_as_it_was_written(monkeypatch):
    monkeypatch.setattr("diffeat.compiled.BACKEND", "eager")
    model, given = Twice(), arguments(width=7)
    compile_forward(model.one)
    with HookManager(model, {"out": "one"}, edits={at("one"): torch.zeros_like}) as hooks:
        model(*given)
    assert torch.equal(hooks["out"], torch.zeros(2, 4, 6, 7))


# --- pretrained networks ------------------------------------------------------------------------


@torch.no_grad()
def forward(backbone, asked, edits=None):
    """Block → feature of one picture, with edits in the one forward."""
    one = Forward(Plan(backbone, asked), edits)
    condition = backbone.condition([asked.prompt], [asked.label])
    eps = gaussian(1, *backbone.latent_shape((32, 32)))
    return one.run(pictures(1), one.levels, condition, eps)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_can_be_edited(name, backbone_of):
    """The identity leaves a block's output; all weight on one key moves it."""
    backbone, (path, block) = backbone_of(name), FAMILIES[name]
    asked = spec(name, block, {"sit": 0.5, "edm": 1.0}.get(name, T))

    def output(edit):
        return forward(backbone, asked, {at(path): edit} if edit else None)[block]

    plain = output(None)
    same(output(lambda p: p), plain, atol=1e-5)
    assert torch.equal(output(lambda _: None), plain)
    first = output(lambda p: F.one_hot(torch.zeros_like(p[..., 0]).long(), p.shape[-1]))
    assert (first - plain).abs().max() > 1e-3


def test_prompt_to_prompt(backbone_of):
    """Hertz et al. 2022: under another prompt, words keep the maps that they had.

    The maps of "a cat", of every head, stand in for those of "a t", but for the token that
    changed. What follows is the edited maps times the other prompt's values.
    """
    backbone, path = backbone_of("sd1"), FAMILIES["sd1"][0]
    place, changed = "up.1.attn.0", 2
    names = ("cross.map", "cross.v", "cross.z")

    def run(prompt, edits=None):
        asked = spec("sd1", [f"{place}:{kind}" for kind in names], prompt=prompt, heads=(0, 1))
        found = forward(backbone, asked, edits)
        return {kind: found[f"{place}:{kind}"] for kind in names}

    def probabilities(found):  # (1, heads · keys, h, w) → (1, heads, h · w, keys)
        return found["cross.map"].unflatten(1, (2, 12)).flatten(3).transpose(2, 3)

    source, target = run("a cat"), run("a t")
    kept = probabilities(source)

    def edit(own):
        edited = kept.clone()
        edited[..., changed] = own[..., changed]
        return edited

    found = run("a t", {at(path): edit})
    expected = kept.clone()
    expected[..., changed] = probabilities(target)[..., changed]
    same(probabilities(found), expected, atol=1e-6)  # the tap sees the edited maps
    assert torch.equal(found["cross.v"], target["cross.v"])
    v = target["cross.v"].unflatten(2, (2, 4)).transpose(1, 2)  # (1, heads, 12, 4)
    mixed = (expected @ v).transpose(1, 2).flatten(2).transpose(1, 2).unflatten(2, (16, 16))
    same(found["cross.z"], mixed, atol=1e-5)
    assert (found["cross.z"] - target["cross.z"]).abs().max() > 1e-4


def test_the_example_of_the_docs(folder_of, backbone_of):
    text = Path(diffeat.__file__).parent.parent.joinpath("docs/tensors.md").read_text("utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, re.S)
    model = str(folder_of("sd1"))
    code = example.replace("stable-diffusion-v1-5/stable-diffusion-v1-5", model)
    code = code.replace("a photo of a dog", "a photo of a at")  # within the tiny tokenizer's words
    eps = gaussian(1, *backbone_of("sd1").latent_shape((32, 32)))
    names = {"x0": pictures(1), "eps": eps}
    exec(code, names)
    changed = names["run"]("a photo of a at", names["x0"], eps, lambda maps: None)["up.1"]
    assert names["edited"].shape == changed.shape
    assert (names["edited"] - changed).abs().max() > 1e-5


def test_what_an_edit_holds(backbone_of, monkeypatch):
    """All probabilities at once, where a tap holds a piece: what the docstring says it costs."""
    monkeypatch.setattr("diffeat.attention.CHUNK", 100)
    sizes = []
    backbone, (path, block) = backbone_of("pixel"), FAMILIES["pixel"]
    kept = forward(backbone, spec("pixel", block), {at(path): lambda p: sizes.append(p.shape)})
    cells = kept[block][0, 0].numel()
    assert sizes == [(1, 3, cells, cells)]  # 24 channels in heads of 8


def test_an_extraction_goes_on_with_what_an_outer_manager_edits(backbone_of):
    backbone, (path, block) = backbone_of("pixel"), FAMILIES["pixel"]
    asked = spec("pixel", block)
    with HookManager(backbone.denoiser, {}, edits={at(path): torch.zeros_like}):
        found = diffeat.extract(backbone, pictures(1), asked)[block, T]
    with HookManager(
        backbone.denoiser, {}, edits={f"{path}.to_out.0": _bias_alone(backbone, path)}
    ):
        expected = diffeat.extract(backbone, pictures(1), asked)[block, T]
    same(found, expected, atol=1e-6)
    assert (found - diffeat.extract(backbone, pictures(1), asked)[block, T]).abs().max() > 1e-3


def _bias_alone(backbone, path):
    """What the output's projection gives where heads give 0."""
    bias = backbone.denoiser.get_submodule(path).to_out[0].bias
    return lambda output: bias.expand_as(output)
