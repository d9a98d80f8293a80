"""DifFeed: where the connections lead, and the two passes against plain hooks."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import diffeat
from diffeat.adapt import DifFeed, feedback_links
from diffeat.adapt.classifier import Pictures
from diffeat.adapt.feedback import PROTOCOL
from diffeat.errors import SpecError


def test_links_of_adm_are_those_of_the_paper():
    """b in 21, 24, … 36 feeds 38 - b, by the paper's own names."""
    backbone = diffeat.load("adm-256", device="meta")
    links = feedback_links(backbone)
    names = {alias: name for alias, name in backbone.aliases.items() if alias.startswith("gdc:")}
    blocks = {block.name: block for block in backbone.blocks}
    paths = {}
    for b in (21, 24, 27, 30, 33, 36):
        target = blocks[names[f"gdc:{38 - b}"]]
        # a stage's output is that of its downsampler, which is what the skips keep
        stage = target.name.count(".") == 1 and target.name.startswith("down")
        paths[names[f"gdc:{b}"]] = target.path + ".downsamplers.0" * stage, target.channels
    assert {link.source.name: (link.target, link.channels) for link in links} == paths


@pytest.mark.parametrize("model", ["pixel", "sd1", "sdxl", "adm"])
def test_every_unit_feeds_the_skip_that_it_consumes(backbone_of, model):
    """Marking one output of the encoder marks the very unit's input, and no earlier one's."""
    backbone = backbone_of(model)
    denoiser = backbone.denoiser
    resnets = [resnet for stage in denoiser.up_blocks for resnet in stage.resnets]
    links = feedback_links(backbone, range(len(resnets)))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, *backbone.latent_shape((32, 32)), generator=generator)
    condition = backbone.condition([""], [None])
    arguments = backbone.call_arguments(x, torch.tensor([20]), condition)
    for d, link in enumerate(links):
        kept, entered = [], []
        modules = dict(denoiser.named_modules())
        handles = [
            modules[link.target].register_forward_hook(
                lambda _m, _i, out, kept=kept: kept.append(out)
            ),
            resnets[d].register_forward_pre_hook(
                lambda _m, args, entered=entered: entered.append(args[0])
            ),
        ]
        with torch.no_grad():
            denoiser(**arguments)
        for handle in handles:
            handle.remove()
        output = kept[0][0] if isinstance(kept[0], tuple) else kept[0]
        assert output.shape[1] == link.channels
        assert torch.equal(entered[0][:, -link.channels :], output)


def test_two_passes_equal_plain_hooks(backbone_of, training):
    backbone = backbone_of("pixel")
    model = DifFeed(backbone, "up.1", 20, epochs=1, batch_size=8, progress=False)
    model.fit(training)
    feedback = model.feedback_.eval()
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    modules = dict(backbone.denoiser.named_modules())
    level = backbone.schedule.resolve(20)
    maps, handles = {}, []

    def keep(name):
        return lambda _m, _i, out: maps.update({name: out})

    for link in feedback.links:
        handles.append(modules[link.source.path].register_forward_hook(keep(link.source.name)))
    with torch.no_grad():
        backbone.denoiser(x, int(level.t))
        additions = {}
        for link, (convolution, norm, _) in zip(feedback.links, feedback.convert, strict=True):
            y = F.conv2d(maps[link.source.name], convolution.weight)
            scale = norm.weight / (norm.running_var + norm.eps).sqrt()
            y = (y - norm.running_mean[:, None, None]) * scale[:, None, None]
            additions[link.target] = (y + norm.bias[:, None, None]).relu()
        for target, y in additions.items():

            def add(_m, _i, out, y=y):
                return out + F.interpolate(y, out.shape[2:], mode="bilinear", align_corners=False)

            handles.append(modules[target].register_forward_hook(add))
        path = next(b.path for b in backbone.blocks if b.name == "up.1")
        handles.append(modules[path].register_forward_hook(keep("second")))
        backbone.denoiser(x, int(level.t))
        for handle in handles:
            handle.remove()
        found = model._map(x)
    torch.testing.assert_close(found, maps["second"], rtol=1e-5, atol=1e-5)


def test_connections_and_head_learn_and_the_backbone_does_not(backbone_of, training, held):
    backbone = backbone_of("pixel")
    before = {name: value.clone() for name, value in backbone.denoiser.state_dict().items()}
    needed = [weight.requires_grad for weight in backbone.denoiser.parameters()]
    model = DifFeed(backbone, "up.1", 20, epochs=4, batch_size=8, progress=False,
                    random_state=0).fit(training, held)  # fmt: skip
    assert model.history_[-1]["loss"] < model.history_[0]["loss"]
    for name, value in backbone.denoiser.state_dict().items():
        assert torch.equal(value, before[name])
    assert [weight.requires_grad for weight in backbone.denoiser.parameters()] == needed
    start = DifFeed(backbone, "up.1", 20, random_state=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        start._build()
    for trained, fresh in zip(
        model.feedback_.parameters(), start.feedback_.parameters(), strict=True
    ):
        assert not torch.equal(trained, fresh)


def test_the_published_protocol(backbone_of, training, monkeypatch):
    """SGD 1e-2 without momentum or decay, batch 16, ×.1 every 7 of 28 epochs."""
    model, rates = DifFeed(backbone_of("pixel"), "up.1", 20, **PROTOCOL), []

    def batches(self, rng):
        for first in range(0, len(training), 16):
            y = training.labels[first : first + 16]
            yield [torch.zeros(len(y), 4, 2, 2)], torch.from_numpy(y)

    def step(self, closure=None):
        (kind,) = {(g["lr"], g["momentum"], g["weight_decay"]) for g in self.param_groups}
        rates.append(kind)

    monkeypatch.setattr(Pictures, "shuffled", batches)
    monkeypatch.setattr(torch.optim.SGD, "step", step)
    monkeypatch.setattr(model, "_settle", lambda *_: None)
    monkeypatch.setattr(model, "_map", lambda x: torch.zeros(len(x), *model_shape(model)))
    model.fit(training)
    wanted = [1e-2 * 0.1 ** (epoch // 7) for epoch in range(28) for _ in range(2)]
    assert [rate for rate, *_ in rates] == pytest.approx(wanted)  # 25 pictures are 16 and 9
    assert {kind[1:] for kind in rates} == {(0, 0)}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"optimizer": "lion"}, "optimizer='lion'; expected 'adamw' or 'sgd'"),
        ({"schedule": "steps"}, "schedule='steps'; expected 'cosine' or 'step'"),
    ],
)
def test_unknown_ways_of_training(given, message, backbone_of, training):
    with pytest.raises(SpecError, match=message):
        DifFeed(backbone_of("pixel"), "up.1", 20, **given).fit(training)


def model_shape(model) -> tuple[int, ...]:
    plan = model.noisy.plan
    return plan.map_shape(plan.blocks[-1])


def test_no_u_net(backbone_of):
    with pytest.raises(SpecError, match="is no U-Net"):
        feedback_links(backbone_of("dit"))


def test_unknown_units(backbone_of):
    for units in ((), (99,), (-1,)):
        with pytest.raises(SpecError, match="expected some of 0"):
            feedback_links(backbone_of("pixel"), units)
