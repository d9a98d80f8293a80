"""The heads' architectures against the same ones written out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn import config_context
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import Pipeline
from torch.nn import functional as F

from probes import (
    AttentionProbe,
    BatchNormProbe,
    Cells,
    ConvProbe,
    DifFormerProbe,
    MLPProbe,
    NoiseConditionalProbe,
)
from probes.attention import AttentionHead
from probes.difformer import DifFormerHead
from probes.noise_conditional import sinusoids
from tests.versions import wants

K = 3
RNG = np.random.default_rng(0)
Y = np.arange(24) % K
MAPS = RNG.normal(2, 3, size=(24, 8, 5, 6)).astype(np.float32)
VECTORS = RNG.normal(2, 3, size=(24, 8)).astype(np.float32)
SHORT = {"epochs": 1, "batch_size": 8, "random_state": 0}


def weights(module: torch.nn.Module, prefix: str = "") -> dict[str, torch.Tensor]:
    """State below a prefix, without it."""
    state = module.state_dict()
    return {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}


def count(probe) -> int:
    return sum(p.numel() for p in probe.module_.parameters())


def standard(x: np.ndarray) -> torch.Tensor:
    axes = (0, *range(2, x.ndim))
    mean, deviation = x.mean(axes, keepdims=True), x.std(axes, keepdims=True)
    return torch.from_numpy((x - mean) / deviation)


def layer_norm(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Over all axes that the weights have."""
    axes = tuple(range(x.ndim - w.ndim, x.ndim))
    mean, variance = x.mean(axes, keepdim=True), x.var(axes, keepdim=True, unbiased=False)
    return (x - mean) / (variance + 1e-5).sqrt() * w + b


def transformer_layer(x: torch.Tensor, w: dict[str, torch.Tensor], heads: int) -> torch.Tensor:
    """Norm first: x + attention(norm(x)), then x + MLP(norm(x)); one head after the other."""
    width = x.shape[-1]
    z = layer_norm(x, w["norm1.weight"], w["norm1.bias"])
    bias = w.get("self_attn.in_proj_bias", 0.0)
    q, k, v = (z @ w["self_attn.in_proj_weight"].T + bias).chunk(3, -1)
    out = []
    for part in torch.arange(width).chunk(heads):
        scores = q[..., part] @ k[..., part].transpose(-1, -2) / math.sqrt(width // heads)
        out.append(scores.softmax(-1) @ v[..., part])
    x = x + torch.cat(out, -1) @ w["self_attn.out_proj.weight"].T + w["self_attn.out_proj.bias"]
    z = layer_norm(x, w["norm2.weight"], w["norm2.bias"]) @ w["linear1.weight"].T
    z = z + w["linear1.bias"]
    z = z * 0.5 * (1 + torch.erf(z / math.sqrt(2)))
    return x + z @ w["linear2.weight"].T + w["linear2.bias"]


def class_vector(maps: list[torch.Tensor], state: dict, heads: int, depth: int) -> torch.Tensor:
    """The trunk: maps that need no pooling → the class token after the last layer."""
    tokens = [state["token"].expand(len(maps[0]), -1, -1)]
    for k, x in enumerate(maps):
        x = layer_norm(x, state[f"norms.{k}.weight"], state[f"norms.{k}.bias"])
        kernel, bias = state[f"embeds.{k}.weight"][:, :, 0, 0], state[f"embeds.{k}.bias"]
        tokens.append((torch.einsum("nchw,dc->nhwd", x, kernel) + bias).flatten(1, 2))
    x = torch.cat(tokens, 1)
    for k in range(depth):
        mark = f"layers.{k}."
        w = {key[len(mark) :]: v for key, v in state.items() if key.startswith(mark)}
        x = transformer_layer(x, w, heads)
    return x[:, 0]


def randomised(module: torch.nn.Module) -> torch.nn.Module:
    """All weights random, so that none is 0 or 1 by chance of initialisation."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.3)
    return module.eval()


class TestMLP:
    def test_layers(self):
        probe = MLPProbe(hidden=(7, 5), **SHORT).fit(VECTORS, Y)
        w = weights(probe.module_)
        x = standard(VECTORS)
        for k in (1, 4):
            x = (x @ w[f"{k}.weight"].T + w[f"{k}.bias"]).clamp(min=0)
        logits = x @ w["7.weight"].T + w["7.bias"]
        np.testing.assert_allclose(probe.decision_function(VECTORS), logits, atol=1e-5)
        assert count(probe) == (8 * 7 + 7) + (7 * 5 + 5) + (5 * K + K)

    @pytest.mark.parametrize("pool", [None, 1, 2])
    def test_maps_are_pooled_and_flattened(self, pool):
        probe = MLPProbe(hidden=(), pool=pool, standardize=False, **SHORT).fit(MAPS, Y)
        x = MAPS if pool is None else F.adaptive_avg_pool2d(torch.from_numpy(MAPS), pool).numpy()
        w = weights(probe.module_[-1])
        logits = x.reshape(24, -1) @ w["weight"].numpy().T + w["bias"].numpy()
        np.testing.assert_allclose(probe.decision_function(MAPS), logits, atol=1e-4)
        assert w["weight"].shape == (K, 8 * {None: 30, 1: 1, 2: 4}[pool])

    def test_scale_and_offset_do_not_matter_when_standardised(self):
        first = MLPProbe(hidden=(6,), **SHORT).fit(MAPS, Y)
        other = MLPProbe(hidden=(6,), **SHORT).fit(MAPS * 64 + 512, Y)
        np.testing.assert_allclose(
            first.predict_proba(MAPS), other.predict_proba(MAPS * 64 + 512), atol=1e-4
        )

    def test_dropout_acts_in_training_only(self):
        probe = MLPProbe(hidden=(50,), dropout=0.5, **SHORT).fit(VECTORS, Y)
        np.testing.assert_array_equal(probe.predict_proba(VECTORS), probe.predict_proba(VECTORS))
        plain = MLPProbe(hidden=(50,), **SHORT).fit(VECTORS, Y)
        assert probe.history_[0]["loss"] != plain.history_[0]["loss"]


class TestConv:
    def test_layers(self):
        probe = ConvProbe(channels=(64, 4), **SHORT).fit(MAPS, Y)
        w, x = weights(probe.module_), standard(MAPS)
        for k, groups in ((1, 32), (4, 4)):
            x = F.conv2d(F.pad(x, (1, 1, 1, 1)), w[f"{k}.weight"], w[f"{k}.bias"])
            grouped = x.reshape(24, groups, -1)
            variance = grouped.var(-1, keepdim=True, unbiased=False)
            x = ((grouped - grouped.mean(-1, keepdim=True)) / (variance + 1e-5).sqrt()).view_as(x)
            x = x * w[f"{k + 1}.weight"][:, None, None] + w[f"{k + 1}.bias"][:, None, None]
            x = x.clamp(min=0)
        logits = x.mean((2, 3)) @ w["8.weight"].T + w["8.bias"]
        np.testing.assert_allclose(probe.decision_function(MAPS), logits, atol=1e-4)
        convolutions = (8 * 9 * 64 + 64) + (64 * 9 * 4 + 4)
        assert count(probe) == convolutions + 2 * (64 + 4) + 4 * K + K


class TestAttention:
    @pytest.mark.parametrize("qkv_bias", [False, True])
    def test_layers(self, qkv_bias):
        options = {"width": 16, "heads": 4, "depth": 2, "qkv_bias": qkv_bias}
        head = randomised(AttentionHead([(8, 5, 6)], K, **options))
        assert ("trunk.layers.0.self_attn.in_proj_bias" in head.state_dict()) == qkv_bias
        state, x = weights(head, "trunk."), torch.from_numpy(MAPS)
        logits = class_vector([x], state, 4, 2) @ head.head.weight.T + head.head.bias
        torch.testing.assert_close(head(x), logits, atol=1e-4, rtol=1e-4)

    def test_training_and_prediction_compute_the_same(self):
        head = randomised(AttentionHead([(8, 5, 6)], K, width=16, heads=4, depth=2))
        x = torch.from_numpy(MAPS)
        with torch.no_grad():  # where torch may take a fused kernel
            fused = head(x)
        torch.testing.assert_close(head.train()(x), fused, atol=1e-4, rtol=1e-4)

    def test_large_maps_are_pooled_to_the_limit(self):
        probe = AttentionProbe(width=16, heads=2, depth=1, limit=4, **SHORT).fit(MAPS[:, :2], Y)
        trunk = probe.module_.trunk
        assert trunk.norms[0].weight.shape == (2, 4, 4)
        pooled = F.adaptive_avg_pool2d(torch.from_numpy(MAPS[:, :2]), 4)
        state = weights(trunk)
        logits = class_vector([pooled], state, 2, 1) @ probe.module_.head.weight.T
        found = probe.decision_function(MAPS[:, :2]) - probe.module_.head.bias.detach().numpy()
        np.testing.assert_allclose(found, logits.detach(), atol=1e-4)

    def test_parameters_of_the_published_head(self):
        with torch.device("meta"):
            head = AttentionHead([(1024, 16, 16)], 1000, width=1024, heads=8, depth=2)
        D = 1024
        layer = 3 * D * D + (D * D + D) + (4 * D * D + 4 * D) + (4 * D * D + D) + 4 * D
        start = 2 * 1024 * 16 * 16 + (1024 * D + D) + D
        assert sum(p.numel() for p in head.parameters()) == start + 2 * layer + 1000 * D + 1000

    @pytest.mark.parametrize("kind", [AttentionProbe, DifFormerProbe])
    def test_the_bias_of_queries_keys_and_values_is_a_choice(self, kind):
        """3 · width numbers a layer; the other weights begin the same with it and without."""
        X = Cells({("up.0", 20): MAPS}) if kind is DifFormerProbe else MAPS
        options = {"width": 16, "heads": 2, "depth": 2, "learning_rate": 1e-30, **SHORT}
        plain, biased = (kind(qkv_bias=bias, **options).fit(X, Y) for bias in (False, True))
        assert kind(**options).qkv_bias is False
        assert count(biased) - count(plain) == 2 * 3 * 16
        begun = biased.module_.state_dict()
        for name, value in plain.module_.state_dict().items():
            torch.testing.assert_close(value, begun[name], atol=1e-6, rtol=0)

    def test_the_choice_is_true_or_false(self):
        with pytest.raises(ValueError, match="qkv_bias='no'; expected True or False"):
            AttentionProbe(qkv_bias="no", **SHORT).fit(MAPS, Y)

    def test_the_class_token_begins_at_zero_and_learns(self):
        probe = AttentionProbe(width=16, heads=2, depth=1, **SHORT)
        module = probe.set_params(learning_rate=1e-30).fit(MAPS, Y).module_
        assert module.trunk.token.abs().max() < 1e-20
        module = probe.set_params(learning_rate=1e-3).fit(MAPS, Y).module_
        assert module.trunk.token.abs().max() > 1e-4

    def test_vectors_are_maps_of_one_place(self):
        with pytest.warns(UserWarning, match="vectors of 8 features.*nothing to attend to"):
            first = AttentionProbe(width=16, heads=2, **SHORT).fit(VECTORS, Y)
        second = AttentionProbe(width=16, heads=2, **SHORT).fit(VECTORS[..., None, None], Y)
        np.testing.assert_array_equal(
            first.predict_proba(VECTORS), second.predict_proba(VECTORS[..., None, None])
        )

    def test_the_width_must_divide(self):
        with pytest.raises(ValueError, match="width=10 does not divide into heads=4"):
            AttentionProbe(width=10, heads=4, **SHORT).fit(MAPS, Y)


class TestDifFormer:
    def test_layers(self):
        shapes = [(8, 5, 6), (3, 2, 2)]
        head = randomised(DifFormerHead(shapes, 2, K, width=16, heads=4, depth=2))
        rng = torch.Generator().manual_seed(0)
        maps = [torch.randn(4, *shape, generator=rng) for shape in shapes * 2]
        state = weights(head, "trunk.")
        vectors = [class_vector(maps[k : k + 2], state, 4, 2) for k in (0, 2)]
        logits = torch.cat(vectors, 1) @ head.head.weight.T + head.head.bias
        torch.testing.assert_close(head(*maps), logits, atol=1e-4, rtol=1e-4)

    def test_one_cell_is_the_attention_head(self):
        options = {"width": 16, "heads": 2, **SHORT}
        alone = AttentionProbe(**options).fit(MAPS, Y)
        cells = Cells({("up.0", 20): MAPS})
        found = DifFormerProbe(**options).fit(cells, Y).predict_proba(cells)
        np.testing.assert_array_equal(found, alone.predict_proba(MAPS))

    def test_the_order_of_cells_does_not_matter_after_fit(self):
        grid = {(b, t): MAPS[:, :4] * (t + 1) + k for k, b in enumerate("ab") for t in (0, 1)}
        probe = DifFormerProbe(width=16, heads=2, **SHORT).fit(grid, Y)
        assert probe.cells_ == (("a", 0), ("b", 0), ("a", 1), ("b", 1))
        mixed = dict(reversed(grid.items())) | {("c", 7): VECTORS}
        np.testing.assert_array_equal(probe.predict_proba(mixed), probe.predict_proba(grid))


class TestBatchNorm:
    @pytest.mark.parametrize("shape", [(8,), (8, 5, 6), (7, 8)])
    def test_layers(self, shape):
        x = RNG.normal(2, 3, size=(24, *shape)).astype(np.float32)
        probe = BatchNormProbe(epochs=1, random_state=0).fit(x, Y)  # one batch
        mean = x if x.ndim == 2 else x.mean(1) if x.ndim == 3 else x.mean((2, 3))
        # the running variance moved by a tenth to that of the batch, which torch divides by n - 1
        variance = mean.var(0) * (0.9 + 0.1 * 24 / 23)
        z = (mean - mean.mean(0)) / np.sqrt(variance + 1e-6)
        w = weights(probe.module_.head)
        logits = z @ w["weight"].numpy().T + w["bias"].numpy()
        np.testing.assert_allclose(probe.decision_function(x), logits, atol=1e-4)
        assert count(probe) == 8 * K + K

    def test_a_last_batch_of_one_row(self):
        probe = BatchNormProbe(epochs=2, batch_size=23, random_state=0).fit(VECTORS, Y)
        assert np.isfinite(probe.predict_proba(VECTORS)).all()


class TestNoiseConditional:
    def test_layers(self):
        t = np.arange(24) * 10.0
        for x in (VECTORS, MAPS):
            probe = NoiseConditionalProbe(**SHORT).fit(x, Y, t=t)
            z = standard(x) if x.ndim == 2 else standard(x).mean((2, 3))
            angles = t[:, None] / 10000 ** (np.arange(4) / 4)
            z = z.numpy() + np.hstack([np.sin(angles), np.cos(angles)])
            w = {k: v.double().numpy() for k, v in weights(probe.module_, "layers.").items()}
            z = z @ w["0.weight"].T + w["0.bias"]
            logits = z / (1 + np.exp(-z)) @ w["2.weight"].T + w["2.bias"]
            np.testing.assert_allclose(probe.decision_function(x, t=t), logits, atol=1e-3)
            assert count(probe) == 8 * 16 + 16 + 16 * K + K

    def test_an_odd_width_ends_with_zero(self):
        waves = sinusoids(torch.tensor([3.0]), 5)
        expected = [math.sin(3), math.sin(0.03), math.cos(3), math.cos(0.03), 0]
        np.testing.assert_allclose(waves[0], expected, rtol=1e-5)

    def test_it_tells_levels_apart(self):
        """At one level the sign of a feature means one class, at the other the other."""
        rng = np.random.default_rng(0)
        x = rng.normal(size=(1500, 8)).astype(np.float32)
        x[:, 0] += np.sign(x[:, 0])
        t = rng.choice([0, 500], 1500)
        y = (x[:, 0] > 0) ^ (t == 500)
        probe = NoiseConditionalProbe(epochs=60, learning_rate=1e-2, random_state=0)
        probe.fit(x[:1000], y[:1000], x[1000:], y[1000:], t=t[:1000], t_validation=t[1000:])
        assert probe.score(x[1000:], y[1000:], t=t[1000:]) > 0.9
        assert probe.score(x[1000:], y[1000:], t=500 - t[1000:]) < 0.1
        assert probe.history_[-1]["validation_accuracy"] == pytest.approx(
            probe.score(x[1000:], y[1000:], t=t[1000:])
        )
        one = probe.predict_proba(x[1000:1010], t=500)
        np.testing.assert_array_equal(one, probe.predict_proba(x[1000:1010], t=np.full(10, 500)))

    @pytest.mark.parametrize("piped", [False, pytest.param(True, marks=wants("routed score"))])
    def test_a_grid_search_splits_the_levels_too(self, piped):
        rng = np.random.default_rng(0)
        x = rng.normal(size=(240, 8)).astype(np.float32)
        t = rng.choice([0, 500], 240)
        y = (x[:, 0] > 0) ^ (t == 500)
        plain = NoiseConditionalProbe(epochs=6, random_state=0)
        rates, folds = [1e-2, 1e-6], StratifiedKFold(2)
        expected = [
            np.mean([
                clone(plain).set_params(learning_rate=rate).fit(x[a], y[a], t=t[a])
                .score(x[b], y[b], t=t[b]) for a, b in folds.split(x, y)
            ])
            for rate in rates
        ]  # fmt: skip
        with config_context(enable_metadata_routing=True):
            probe = clone(plain).set_fit_request(t=True).set_score_request(t=True)
            probe = Pipeline([("same", "passthrough"), ("probe", probe)]) if piped else probe
            name = "probe__learning_rate" if piped else "learning_rate"
            search = GridSearchCV(probe, {name: rates}, cv=folds).fit(x, y, t=t)
            whole = clone(plain).set_params(learning_rate=search.best_params_[name])
            assert search.score(x, y, t=t) == whole.fit(x, y, t=t).score(x, y, t=t)
        assert search.cv_results_["mean_test_score"].tolist() == expected
        assert expected[0] != expected[1]

    def test_levels_and_labels_are_counted(self):
        probe = NoiseConditionalProbe(**SHORT).fit(VECTORS, Y, t=3)
        for labels in (Y[1:], Y[:1]):
            with pytest.raises(ValueError, match=f"{len(labels)} labels for 24 pictures"):
                probe.score(VECTORS, labels, t=3)

    def test_levels_must_be_there(self):
        probe = NoiseConditionalProbe(**SHORT)
        with pytest.raises(ValueError, match="t is missing; expected a noise level per row"):
            probe.fit(VECTORS, Y)
        with pytest.raises(ValueError, match=r"t has shape \(3,\); expected \(24,\)"):
            probe.fit(VECTORS, Y, t=[1, 2, 3])
        with pytest.raises(ValueError, match="t_validation is missing"):
            probe.fit(VECTORS, Y, VECTORS, Y, t=3)
        with pytest.raises(ValueError, match="t is missing"):
            probe.fit(VECTORS, Y, t=3).predict(VECTORS)
