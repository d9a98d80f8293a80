"""What VPD's head is given, and the gradients of it, against plain diffusers."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor

from diffeat.adapt import VPD
from diffeat.adapt.vpd import ATTENTION
from diffeat.words.embeddings import class_embeddings
from diffeat.words.vocabulary import Vocabulary

WORDS = "cat,dog,at"
EVERY = ("down.*.attn.*:cross.map", "up.*.attn.*:cross.map")
MAP = "vpd:4"


def built(backbone, **more):
    """At its start."""
    vpd = VPD(backbone, WORDS, blocks=(MAP,), size=32, templates="plain", **more)
    vpd.vocabulary_ = Vocabulary.of(WORDS)
    return vpd._built(class_embeddings(backbone, WORDS, "plain"))


@pytest.fixture
def network(backbone_of):
    """Of a model that has cross-attention on two grids, down and up."""
    return built(backbone_of("sd2"), attention=EVERY, width=8)


def by_diffusers(pipeline, pixels, context):
    """Output of up.1.attn.1, then cross-attention by grid, of diffusers' own softmax."""
    unet, seen, maps = copy.deepcopy(pipeline.unet), {}, []
    unet.set_attn_processor(AttnProcessor())
    for path, module in unet.named_modules():
        if path.endswith("attn2") and not path.startswith("mid"):
            scores = module.get_attention_scores

            def recording(*args, scores=scores, heads=module.heads):
                found = scores(*args)  # (N·heads, h·w, K)
                side = round(found.shape[1] ** 0.5)
                mean = found.unflatten(0, (-1, heads)).mean(1).transpose(1, 2)
                seen.setdefault((side, side), []).append(mean.unflatten(2, (side, side)))
                return found

            module.get_attention_scores = recording
    unet.up_blocks[1].attentions[1].register_forward_hook(lambda *run: maps.append(run[2][0]))
    with torch.no_grad():
        z = pipeline.vae.encode(pixels.float() / 127.5 - 1).latent_dist.mode()
    unet(z, 1, encoder_hidden_states=context.expand(len(pixels), -1, -1))
    return maps[0], {grid: torch.stack(some).mean(0) for grid, some in seen.items()}, seen


def test_maps_attention_and_gradients_are_those_of_diffusers(network, plain_of):
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2, 3, 32, 32), generator=draw, dtype=torch.uint8)
    ours = network.classes.clone().requires_grad_()
    theirs = network.classes.clone().requires_grad_()
    found = network._forward(pixels, ours)
    known, attention, layers = by_diffusers(plain_of("sd2").pipeline, pixels, theirs)
    assert {grid: len(some) for grid, some in layers.items()} == {(16, 16): 5, (8, 8): 5}
    torch.testing.assert_close(found[0], known, atol=1e-5, rtol=1e-4)
    for grid, one in zip(network._forward.attention, found[1:], strict=True):
        torch.testing.assert_close(one, attention[grid], atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(one.sum(1), torch.ones_like(one[:, 0]))  # shares of K tokens
    order = [attention[grid] for grid in network._forward.attention]
    for one, other in zip(found, [known, *order], strict=True):  # each on its own
        weights = torch.randn(one.shape, generator=draw)
        (by_us,) = torch.autograd.grad((weights * one).sum(), ours, retain_graph=True)
        (by_them,) = torch.autograd.grad((weights * other).sum(), theirs, retain_graph=True)
        assert by_them.abs().max() > 1e-4
        torch.testing.assert_close(by_us, by_them, atol=1e-5 * by_them.abs().max(), rtol=1e-3)


def test_depth_takes_maps_alone_unless_asked(backbone_of):
    """As in the published code, whose depth encoder switches attention off."""
    how = {"task": "depth", "width": 16, "last": 8, "filters": (8,)}
    assert built(backbone_of("sd2"), **how)._forward.attention == {}
    asked = built(backbone_of("sd2"), attention=EVERY, **how)._forward
    assert set(asked.attention) == {(16, 16), (8, 8)}
    assert VPD(backbone_of("sd2"), WORDS)._attention == ATTENTION
