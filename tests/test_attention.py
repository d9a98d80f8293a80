"""Attention maps, from the arguments of fused attention and by taps, against a softmax by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import _get_current_function_mode_stack

from diffeat import attention
from diffeat.attention import AttentionInputs, AttentionWatch
from diffeat.errors import HookError
from diffeat.hooks import HookManager, Tap

N, HEADS, QUERIES, KEYS, WIDTH = 2, 3, 7, 5, 4
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def inputs(heads: int = HEADS, key_heads: int | None = None, dtype=torch.float32):
    """Query, key and value."""
    key_heads = key_heads or heads
    q = gaussian(N, heads, QUERIES, WIDTH)
    k, v = (gaussian(N, key_heads, KEYS, WIDTH, seed=seed) for seed in (1, 2))
    return q.to(dtype), k.to(dtype), v.to(dtype)


def bits(*shape: int) -> torch.Tensor:
    """A mask that leaves every query at least its first key."""
    mask = gaussian(*shape, seed=3) > 0
    mask[..., 0] = True
    return mask


MASKS = {
    "none": None,
    "bool (L, M)": bits(QUERIES, KEYS),
    "bool (N, 1, 1, M)": bits(N, 1, 1, KEYS),
    "bool (1, heads, 1, M)": bits(1, HEADS, 1, KEYS),
    "bool (N, heads, L, M)": bits(N, HEADS, QUERIES, KEYS),
    "float (L, M)": gaussian(QUERIES, KEYS, seed=4),
    "float (N, 1, 1, M)": -10000.0 * ~bits(N, 1, 1, KEYS),
    "float (N, heads, 1, M)": gaussian(N, HEADS, 1, KEYS, seed=5),
    "float (N, heads, L, M)": gaussian(N, HEADS, QUERIES, KEYS, seed=6),
    "-inf (L, M)": torch.zeros(QUERIES, KEYS).masked_fill(~bits(QUERIES, KEYS), -math.inf),
}


def by_hand(q, k, mask=None, scale=None) -> torch.Tensor:
    """(N, heads, L, M) in one go."""
    scores = torch.einsum("nhld,nhmd->nhlm", q.float(), k.float())
    scores = scores * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    if mask is not None and mask.dtype == torch.bool:
        mask = torch.where(mask, 0.0, -math.inf)
    weights = (scores if mask is None else scores + mask).exp()
    return weights / weights.sum(-1, keepdim=True)


@pytest.fixture(params=[None, 1, 4 * N * KEYS, 3 * N * KEYS])
def chunk(request, monkeypatch):
    """All queries at once, one at a time, four or three: the last piece is smaller."""
    if request.param is not None:
        monkeypatch.setattr(attention, "CHUNK", request.param)
    return request.param


# --- probabilities --------------------------------------------------------------------------


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_every_head_is_a_softmax_by_hand(mask, chunk):
    q, k, v = inputs()
    found = AttentionInputs.from_call(q, k, v, mask).probabilities(range(HEADS))
    torch.testing.assert_close(found, by_hand(q, k, mask), **CLOSE)
    # and what torch itself attends with
    attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    torch.testing.assert_close(found @ v, attended, **CLOSE)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_without_heads_it_is_their_mean(mask, chunk):
    q, k, v = inputs()
    found = AttentionInputs.from_call(q, k, v, mask).probabilities()
    assert found.shape == (N, QUERIES, KEYS)
    torch.testing.assert_close(found, by_hand(q, k, mask).mean(1), **CLOSE)
    torch.testing.assert_close(found.sum(-1), torch.ones(N, QUERIES))


@pytest.mark.parametrize("heads", [(0,), (2, 0), (1, 1)])
def test_heads_come_in_the_order_asked_for(heads, chunk):
    q, k, v = inputs()
    found = AttentionInputs.from_call(q, k, v).probabilities(heads)
    assert found.shape == (N, len(heads), QUERIES, KEYS)
    torch.testing.assert_close(found, by_hand(q, k)[:, list(heads)], **CLOSE)


@pytest.mark.parametrize("mask", ["none", "bool (N, heads, L, M)", "float (L, M)"])
@pytest.mark.parametrize(
    "queries", [slice(2, 6), slice(-3, None), slice(0, 1), torch.tensor([5, 0, 3])]
)
@pytest.mark.parametrize("heads", [None, (1, 2)])
def test_queries_can_be_chosen(heads, queries, mask, chunk):
    q, k, v = inputs()
    mask = MASKS[mask]
    found = AttentionInputs.from_call(q, k, v, mask).probabilities(heads, queries)
    wanted = by_hand(q, k, mask)[:, :, queries]
    wanted = wanted.mean(1) if heads is None else wanted[:, list(heads)]
    torch.testing.assert_close(found, wanted, **CLOSE)


@pytest.mark.parametrize("keys", [slice(1, 4), slice(-2, None), torch.tensor([4, 0, 2])])
@pytest.mark.parametrize("heads", [None, (2,)])
def test_chosen_keys_are_not_normalised_again(heads, keys, chunk):
    q, k, v = inputs()
    mask = MASKS["float (L, M)"]
    found = AttentionInputs.from_call(q, k, v, mask).probabilities(heads, keys=keys)
    wanted = by_hand(q, k, mask)[..., keys]
    torch.testing.assert_close(found, wanted.mean(1) if heads is None else wanted[:, [2]], **CLOSE)
    assert (found.sum(-1) < 1).all()


def test_queries_keys_and_heads_together(chunk):
    q, k, v = inputs()
    found = AttentionInputs.from_call(q, k, v).probabilities((2, 0), slice(1, 6), slice(0, 2))
    torch.testing.assert_close(found, by_hand(q, k)[:, [2, 0], 1:6, :2], **CLOSE)


def test_no_more_than_a_chunk_is_held_at_once(monkeypatch):
    held, softmax = [], torch.Tensor.softmax

    def noting(scores, *args):
        held.append(scores.numel())
        return softmax(scores, *args)

    monkeypatch.setattr(attention, "CHUNK", 2 * N * KEYS)
    monkeypatch.setattr(torch.Tensor, "softmax", noting)
    AttentionInputs.from_call(*inputs()).probabilities()
    # seven queries in pieces of two, head by head
    assert sorted(held, reverse=True) == [2 * N * KEYS] * 3 * HEADS + [N * KEYS] * HEADS


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_maps_of_short_floats_are_computed_in_full_precision(dtype, chunk):
    q, k, v = inputs(dtype=dtype)
    found = AttentionInputs.from_call(q, k, v, MASKS["float (L, M)"].to(dtype)).probabilities()
    assert found.dtype == torch.float32
    wanted = by_hand(q, k, MASKS["float (L, M)"].to(dtype).float()).mean(1)
    torch.testing.assert_close(found, wanted, **CLOSE)


# --- what a call may say --------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.3, 1.0, 2])
def test_scale(scale):
    q, k, v = inputs()
    found = AttentionInputs.from_call(q, k, v, scale=scale).probabilities((0, 1, 2))
    torch.testing.assert_close(found, by_hand(q, k, scale=scale), **CLOSE)
    attended = F.scaled_dot_product_attention(q, k, v, scale=scale)
    torch.testing.assert_close(found @ v, attended, **CLOSE)


def test_a_causal_query_sees_no_later_key(chunk):
    q, k, v = inputs()
    found = AttentionInputs.from_call(q, k, v, is_causal=True).probabilities((0, 1, 2))
    earlier = torch.arange(KEYS) <= torch.arange(QUERIES)[:, None]
    torch.testing.assert_close(found, by_hand(q, k, earlier), **CLOSE)
    assert (found[..., ~earlier] == 0).all()
    attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    torch.testing.assert_close(found @ v, attended, **CLOSE)


def test_queries_may_share_the_heads_of_keys(chunk):
    q, k, v = inputs(heads=6, key_heads=2)
    found = AttentionInputs.from_call(q, k, v, enable_gqa=True).probabilities(range(6))
    shared = [0, 0, 0, 1, 1, 1]
    torch.testing.assert_close(found, by_hand(q, k[:, shared]), **CLOSE)
    attended = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    torch.testing.assert_close(found @ v[:, shared], attended, **CLOSE)


# --- watching -------------------------------------------------------------------------------


def test_a_watch_sees_every_call_and_changes_none():
    q, k, v = inputs()
    mask, seen = MASKS["bool (L, M)"], []
    with AttentionWatch(seen.append):
        plain = F.scaled_dot_product_attention(q, k, v)
        masked = F.scaled_dot_product_attention(query=q, key=k, value=v, attn_mask=mask)
        (q @ k.transpose(2, 3)).softmax(-1)  # is no scaled dot product of torch
    assert torch.equal(plain, F.scaled_dot_product_attention(q, k, v))
    assert torch.equal(masked, F.scaled_dot_product_attention(q, k, v, attn_mask=mask))
    assert [call.mask is not None for call in seen] == [False, True]
    torch.testing.assert_close(seen[1].probabilities(), by_hand(q, k, mask).mean(1), **CLOSE)
    assert _get_current_function_mode_stack() == []


def test_a_callback_that_itself_attends_is_not_seen():
    q, k, v = inputs()
    seen = []

    def attends(call):
        seen.append(call)
        F.scaled_dot_product_attention(q, k, v)

    with AttentionWatch(attends):
        F.scaled_dot_product_attention(q, k, v)
    assert len(seen) == 1


# --- taps -----------------------------------------------------------------------------------


class Attention(nn.Module):
    """Heads of one scaled dot product; `options` go to it."""

    def __init__(self, **options):
        super().__init__()
        self.options, self.broken = options, False

    def forward(self, x):
        if self.broken:
            raise ZeroDivisionError
        return F.scaled_dot_product_attention(x, x, x, **self.options)


class Attends(nn.Module):
    """Two attentions; the first may be left out."""

    def __init__(self, **options):
        super().__init__()
        self.one, self.two, self.skip = Attention(**options), Attention(), False
        self.tail = nn.Identity()

    def forward(self, x):
        x = x if self.skip else self.one(x)
        return self.tail(self.two(2 * x))


TOKENS = torch.randn(2, 3, 6, 4, generator=torch.Generator().manual_seed(0))
SEEN = torch.rand(6, 6, generator=torch.Generator().manual_seed(1)) > 0.5
SEEN.fill_diagonal_(True)
ADDED = torch.randn(2, 1, 6, 6, generator=torch.Generator().manual_seed(2))
OPTIONS = {
    "plain": ({}, torch.zeros(6, 6), 0.5),
    "bool mask": ({"attn_mask": SEEN}, torch.where(SEEN, 0.0, -math.inf), 0.5),
    "float mask": ({"attn_mask": ADDED}, ADDED, 0.5),
    "causal": ({"is_causal": True}, torch.full((6, 6), -math.inf).triu(1), 0.5),
    "scale": ({"scale": 0.1}, torch.zeros(6, 6), 0.1),
}


def softmax(x, bias=0.0, scale=0.5):
    """(N, heads, L, L) written out; d is 4, so 1/√d is 0.5."""
    scores = (scale * (x @ x.transpose(2, 3)) + bias).exp()
    return scores / scores.sum(-1, keepdim=True)


@pytest.mark.parametrize(("options", "bias", "scale"), OPTIONS.values(), ids=OPTIONS)
def test_the_map_is_a_softmax_by_hand(options, bias, scale):
    model = Attends(**options)
    taps = {"one": Tap("one", "attention"), "two": Tap("two", "attention")}
    with HookManager(model, taps) as hooks:
        output = model(TOKENS)
    first = softmax(TOKENS, bias, scale)
    torch.testing.assert_close(hooks["one"], first.mean(1))
    torch.testing.assert_close(hooks["two"], softmax(2 * first @ TOKENS).mean(1))
    assert torch.equal(output, model(TOKENS))
    assert _get_current_function_mode_stack() == []


def test_a_transform_gets_queries_and_keys():
    def heads(name, inputs):
        assert isinstance(inputs, AttentionInputs)
        return inputs.probabilities(heads=(2, 0))

    model = Attends()
    with HookManager(model, {"a": Tap("one", "attention")}, transform=heads) as hooks:
        model(TOKENS)
    torch.testing.assert_close(hooks["a"], softmax(TOKENS)[:, [2, 0]])


def test_two_taps_on_one_attention():
    model = Attends()
    taps = {name: Tap("one", "attention") for name in ("a", "b")}
    with HookManager(model, taps, stop_after_last=True) as hooks:
        model(TOKENS)
    torch.testing.assert_close(hooks["a"], softmax(TOKENS).mean(1))
    assert torch.equal(hooks["a"], hooks["b"])


def test_a_map_of_the_grad_mode_holds_no_graph():
    model = Attends()
    tokens = TOKENS.clone().requires_grad_()
    with HookManager(model, {"a": Tap("one", "attention")}) as hooks:
        assert model(tokens).requires_grad
    assert not hooks["a"].requires_grad


@pytest.mark.parametrize("run", [True, False])
@pytest.mark.parametrize("path", ["one", "two"])
def test_a_stop_leaves_no_function_mode_behind(path, run):
    model, behind = Attends(), []
    model.tail.register_forward_hook(lambda *_: behind.append(None))
    with HookManager(model, {"a": Tap(path, "attention")}, stop_after_last=True) as hooks:
        if run:
            assert hooks.run(TOKENS) is None
            assert _get_current_function_mode_stack() == []
            hooks.run(TOKENS)
        else:
            model(TOKENS)
    assert _get_current_function_mode_stack() == []
    assert behind == []
    assert hooks["a"].shape == (2, 6, 6)


def test_a_stop_by_another_tap_leaves_no_function_mode_behind():
    model = Attends()
    taps = {"map": Tap("one", "attention"), "out": Tap("one")}
    with HookManager(model, taps, stop_after_last=True) as hooks:
        model(TOKENS)
    assert _get_current_function_mode_stack() == []
    torch.testing.assert_close(hooks["out"], softmax(TOKENS) @ TOKENS)


def test_a_failure_leaves_no_function_mode_behind():
    model = Attends()
    model.one.broken = True
    with (
        pytest.raises(ZeroDivisionError),
        HookManager(model, {"a": Tap("one", "attention")}) as hooks,
    ):
        hooks.run(TOKENS)
    assert _get_current_function_mode_stack() == []
    with pytest.raises(HookError, match="'a'"):
        hooks["a"]


def test_nothing_is_watched_outside_the_tapped_module():
    model = Attends()
    model.skip = True
    with HookManager(model, {"a": Tap("one", "attention")}) as hooks:
        model(TOKENS)
        F.scaled_dot_product_attention(TOKENS, TOKENS, TOKENS)
        with pytest.raises(HookError, match=r"'a' \(one\) did not fire"):
            hooks["a"]


def test_the_attention_of_another_module_is_never_served():
    model = Attends()
    with HookManager(model, {"a": Tap("one", "attention")}) as hooks:
        model.one.broken = True
        with pytest.raises(ZeroDivisionError):
            model(TOKENS)
        model.one.broken, model.skip = False, True
        model(TOKENS)
        with pytest.raises(HookError, match="'a'"):
            hooks["a"]
