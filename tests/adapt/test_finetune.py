"""Fine-tuning: which weights move, how fast, and what the loop keeps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import diffeat
from diffeat.adapt import FineTuning, parameter_groups
from diffeat.adapt.classifier import Pictures, linear_head
from diffeat.errors import NumericsError, SpecError


def tuned(backbone, **options) -> FineTuning:
    given = {"epochs": 2, "batch_size": 8, "progress": False, "backbone_learning_rate": 1e-3}
    return FineTuning(backbone, "up.0", 20, **{**given, **options})


def test_rates_fall_towards_the_input(backbone_of):
    backbone = backbone_of("pixel")
    groups = parameter_groups(backbone, "all", "up.0", 0.1, 0.5)
    names = [group["name"] for group in groups]
    orders = [b.order for name in names[:-1] for b in backbone.blocks if b.name == name]
    assert orders == sorted(orders, reverse=True)
    assert names[-1] == "others"
    assert [group["lr"] for group in groups] == [0.1 * 0.5**k for k in range(len(groups))]
    named = {id(weight): name for name, weight in backbone.denoiser.named_parameters()}
    trained = [named[id(weight)] for group in groups for weight in group["params"]]
    assert len(trained) == len(set(trained))
    behind = ("up_blocks.1.", "up_blocks.2.")
    assert set(trained) == {name for name in named.values() if not name.startswith(behind)}


def test_from_a_stage_on_means_from_its_first_layer(backbone_of):
    backbone = backbone_of("pixel")
    groups = parameter_groups(backbone, "mid", "up.0", 0.1, 1.0)
    named = {id(weight): name for name, weight in backbone.denoiser.named_parameters()}
    found = {named[id(weight)] for group in groups for weight in group["params"]}
    assert found == {n for n in named.values() if n.startswith(("mid_block.", "up_blocks.0."))}


def test_only_what_is_unfrozen_moves(backbone_of, training):
    backbone = backbone_of("pixel")
    before = {name: value.clone() for name, value in backbone.denoiser.state_dict().items()}
    model = tuned(backbone, unfreeze="up.0").fit(training)
    for name, value in backbone.denoiser.state_dict().items():
        assert torch.equal(value, before[name]), "the backbone that was given has changed"
    moved = {
        name for name, value in model.backbone_.denoiser.state_dict().items()
        if not torch.equal(value, before[name])
    }  # fmt: skip
    assert moved
    assert all(name.startswith("up_blocks.0.") for name in moved)
    frozen = tuned(backbone, unfreeze=None).fit(training)
    assert all(
        torch.equal(value, before[name])
        for name, value in frozen.backbone_.denoiser.state_dict().items()
    )


def test_what_runs_behind_the_block_stays(backbone_of, training):
    backbone = backbone_of("pixel")
    before = backbone.denoiser.state_dict()
    after = tuned(backbone, unfreeze="all").fit(training).backbone_.denoiser.state_dict()
    still = {name for name, value in after.items() if torch.equal(value, before[name])}
    behind = ("up_blocks.1.", "up_blocks.2.", "conv_norm_out.", "conv_out.")
    assert {name for name in before if name.startswith(behind)} <= still
    assert "time_embedding.linear_1.weight" not in still
    assert "conv_in.weight" not in still


def test_it_learns_and_keeps_the_best_epoch(backbone_of, training, held):
    model = tuned(backbone_of("pixel"), epochs=5).fit(training, held)
    losses = [entry["loss"] for entry in model.history_]
    assert losses[-1] < losses[0]
    seen = [entry["validation_accuracy"] for entry in model.history_]
    assert model.best_epoch_ == int(np.argmax(seen)) + 1
    assert model.score(held) == max(seen)
    assert model.predict_proba(held).sum(1) == pytest.approx(np.ones(len(held)), abs=1e-5)


def test_the_same_seed_gives_the_same_weights(backbone_of, training):
    one, same, other = (
        tuned(backbone_of("pixel"), shift=2, random_state=seed).fit(training) for seed in (0, 0, 1)
    )
    assert one.history_[-1]["loss"] == same.history_[-1]["loss"]
    for name, value in one.head_.state_dict().items():
        assert torch.equal(value, same.head_.state_dict()[name])
    assert one.history_[-1]["loss"] != other.history_[-1]["loss"]


def test_patience(backbone_of, training, held):
    model = tuned(backbone_of("pixel"), epochs=9, patience=1, unfreeze=None, learning_rate=0.0)
    model.fit(training, held)
    assert len(model.history_) == 2  # nothing moved, so the second was no better
    assert model.best_epoch_ == 1


def test_a_tuned_denoiser_is_extracted_from(backbone_of, folder_of, training, tmp_path):
    model = tuned(backbone_of("pixel")).fit(training)
    path = tmp_path / "tuned.safetensors"
    model.save_denoiser(path)
    spec = diffeat.ExtractSpec((20,), ("up.0",), dtype="float32")
    pictures = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    loaded = diffeat.load(str(folder_of("pixel")), device="cpu", denoiser=str(path))
    found, expected, plain = (
        diffeat.extract(one, pictures, spec)["up.0", 20]
        for one in (loaded, model.backbone_, model.backbone)
    )
    assert torch.equal(found, expected)
    assert not torch.equal(found, plain)


def test_augmentation_mirrors_and_shifts(backbone_of):
    rng = np.random.default_rng(0)
    pixels = torch.arange(2 * 3 * 8 * 8, dtype=torch.uint8).view(2, 3, 8, 8)
    model = tuned(backbone_of("pixel"), flip=True)
    seen = {tuple(model.augmented(pixels, rng)[0, 0, 0, :2].tolist()) for _ in range(20)}
    assert seen == {(0, 1), (7, 6)}
    shifted = tuned(backbone_of("pixel"), flip=False, shift=1)
    corners = {int(shifted.augmented(pixels, rng)[0, 0, 1, 1]) for _ in range(100)}
    assert corners == {y * 8 + x for y in range(3) for x in range(3)}


def test_the_head():
    head = linear_head((4, 8, 8), 3).eval()
    x = torch.randn(2, 4, 8, 8)
    pooled = x.unflatten(2, (2, 4)).unflatten(4, (2, 4)).mean((3, 5)).flatten(1)
    expected = affine(pooled / (1 + 1e-5) ** 0.5, head[3])
    torch.testing.assert_close(head(x), expected)


def affine(x, layer):
    return x @ layer.weight.T + layer.bias


def test_batchnorm_has_the_moments_of_the_last_weights(backbone_of, training):
    """After a few steps already; the usual running means would still be near where they began."""
    model = tuned(backbone_of("pixel"), epochs=1, unfreeze="up.0", flip=False,
                  backbone_learning_rate=1e-2).fit(training)  # fmt: skip
    norm = next(m for m in model.head_.modules() if isinstance(m, torch.nn.BatchNorm1d))
    means = []
    with torch.no_grad():
        for (x,), _ in Pictures(model, training).ordered():
            means.append(model.head_[1](model.head_[0](model._map(x))))
    pooled = torch.cat(means)
    close = (norm.running_mean - pooled.mean(0)).abs() < 0.5 * pooled.std(0)
    assert close.float().mean() > 0.95
    assert norm.momentum == 0.1


def test_bad_input(backbone_of, training, held):
    backbone = backbone_of("pixel")
    from dataclasses import replace

    with pytest.raises(SpecError, match="no labels"):
        tuned(backbone).fit(replace(training, labels=None))
    with pytest.raises(SpecError, match="one class only"):
        tuned(backbone).fit(training.take(np.flatnonzero(training.labels == 0)))
    with pytest.raises(SpecError, match="expected those of the training"):
        tuned(backbone).fit(training, replace(held, class_names=("a", "b")))
    with pytest.raises(SpecError, match="runs after"):
        tuned(backbone, unfreeze="up.1").fit(training)
    for wrong in ({"epochs": 0}, {"batch_size": 1}, {"shift": -1}, {"patience": 0},
                  {"options": {"pool": "1x1"}}, {"patience": 3}):  # fmt: skip
        with pytest.raises(SpecError, match=next(iter(wrong))):
            tuned(backbone, **wrong).fit(training)
    with pytest.raises(SpecError, match="not trained yet"):
        tuned(backbone).predict(training)
    with pytest.raises(SpecError, match="decay"):
        tuned(backbone, decay=0.0).fit(training)
    with pytest.raises(NumericsError, match="the loss became"):
        tuned(backbone, learning_rate=1e30, epochs=5).fit(training)
