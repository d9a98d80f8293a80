"""Implicit captions, against plain forwards of diffusers."""

from __future__ import annotations

import diffusers
import pytest
import torch
import transformers

from diffeat.adapt.captioner import CaptionedForward, captioner_for, gates
from diffeat.errors import SpecError
from diffeat.extraction import Plan
from diffeat.specs import ExtractSpec
from tests.pipelines import gaussian, pictures

BLOCK, T = "odise:4", 30


class PlainSD:
    """The input of up_blocks[1].resnets[1] under the empty text, by diffusers alone."""

    def __init__(self, folder):
        self.unet = diffusers.UNet2DConditionModel.from_pretrained(folder / "unet").eval()
        self.vae = diffusers.AutoencoderKL.from_pretrained(folder / "vae").eval()
        self.alphas = diffusers.DDPMScheduler.from_pretrained(folder / "scheduler").alphas_cumprod
        words = transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer")
        encoder = transformers.CLIPTextModel.from_pretrained(folder / "text_encoder").eval()
        ids = words([""], padding="max_length", return_tensors="pt").input_ids
        with torch.no_grad():
            self.empty = encoder(ids)[0]  # (1, L, D)

    @torch.no_grad()
    def __call__(self, x0, eps, context, offset=None):
        mean = self.vae.encode(2 * x0 - 1).latent_dist.mean * self.vae.config.scaling_factor
        x = self.alphas[T].sqrt() * mean + (1 - self.alphas[T]).sqrt() * eps
        found = []
        hooks = [self.unet.up_blocks[1].resnets[1].register_forward_pre_hook(
            lambda _module, args: found.append(args[0]))]  # fmt: skip
        if offset is not None:
            hooks.append(self.unet.time_embedding.register_forward_hook(
                lambda _module, _args, out: out + offset))  # fmt: skip
        try:
            self.unet(x, T, encoder_hidden_states=context.expand(len(x), -1, -1))
        finally:
            for hook in hooks:
                hook.remove()
        return found[0]


@pytest.fixture(scope="module")
def plain(folder_of):
    return PlainSD(folder_of("sd1"))


@pytest.fixture
def forward(backbone_of):
    spec = ExtractSpec((T,), (BLOCK,), latent="mean", dtype="float32")
    return CaptionedForward(Plan(backbone_of("sd1"), spec), True)


@pytest.fixture
def captioner(backbone_of):
    torch.manual_seed(0)
    return captioner_for(backbone_of("sd1"), 8)


X0, EPS = pictures(2), gaussian(2, 4, 16, 16)


def run(forward, caption):
    (found,) = forward.captioned(X0, EPS, caption).values()
    return found


def test_at_first_it_is_the_empty_prompt(plain, forward, captioner):
    found = run(forward, captioner(gaussian(2, 8)))
    torch.testing.assert_close(found, plain(X0, EPS, plain.empty), rtol=1e-4, atol=1e-5)
    context, offset = captioner(gaussian(2, 8))
    assert torch.equal(context, plain.empty.expand(2, -1, -1))
    assert not offset.any()
    (same,) = forward.run(X0, forward.levels.expand(2, -1), {
        "encoder_hidden_states": plain.empty.expand(2, -1, -1)}, EPS).values()  # fmt: skip
    assert torch.equal(found, same)  # to the bit
    assert gates(captioner) == {"words": 0.0, "time": 0.0}


def test_open_gates_by_hand(plain, forward, captioner):
    """c("") + tanh(a)(W·u + P), and e(t) + tanh(b)(V·u + r), added in a hook of our own."""
    u = gaussian(1, 8)
    with torch.no_grad():
        captioner.word_gate.fill_(0.7)
        captioner.time_gate.fill_(-0.4)
    w = captioner.state_dict()
    assert "empty" not in w  # the model has it
    words = u @ w["words.weight"].T + w["words.bias"] + w["word_positions"]
    moved = u @ w["time.weight"].T + w["time.bias"] + w["time_position"]
    gate_a, gate_b = torch.tensor(0.7).tanh(), torch.tensor(-0.4).tanh()
    found = run(forward, captioner(u.expand(2, -1)))
    wanted = plain(X0, EPS, plain.empty + gate_a * words, gate_b * moved)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    for without in (plain(X0, EPS, plain.empty + gate_a * words), plain(X0, EPS, plain.empty)):
        assert (found - without).abs().max() > 1e-3
    assert gates(captioner)["words"] == pytest.approx(float(gate_a))


def test_nothing_of_a_caption_is_left_behind(plain, forward, captioner):
    with torch.no_grad():
        captioner.time_gate.fill_(2.0)
    run(forward, captioner(gaussian(2, 8)))
    found = run(forward, (plain.empty.expand(2, -1, -1), None))
    torch.testing.assert_close(found, plain(X0, EPS, plain.empty), rtol=1e-4, atol=1e-5)


def test_gradients_reach_the_captioner_alone(forward, captioner, backbone_of):
    run(forward, captioner(gaussian(2, 8))).square().mean().backward()
    assert captioner.word_gate.grad.abs().max() > 0
    assert captioner.time_gate.grad.abs().max() > 0
    # behind closed gates nothing is learned yet
    assert not captioner.words.weight.grad.any()
    backbone = backbone_of("sd1")
    for module in (backbone.denoiser, backbone.vae, backbone.extras["text_encoder"]):
        assert all(weight.grad is None for weight in module.parameters())


@pytest.mark.parametrize("name", ["pixel", "dit", "sdxl"])
def test_models_that_are_not_told_one_text(backbone_of, name):
    with pytest.raises(SpecError, match="not told one text"):
        captioner_for(backbone_of(name), 8)


def test_without_an_offset_of_t(backbone_of):
    captioner = captioner_for(backbone_of("sd2"), 8, time_offset=False)
    assert captioner(gaussian(1, 8))[1] is None
    assert list(gates(captioner)) == ["words"]
