"""Names by embeddings, on planted ones, and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from probes.open_vocabulary.naming import OpenVocabulary, by_class, plain_logits


@pytest.fixture
def planted():
    """Six words of four classes on their own axes; masks near some of them."""
    texts = torch.eye(6, 8)
    owners = (0, 0, 1, 2, 2, 3)
    generator = torch.Generator().manual_seed(0)
    words = torch.tensor([1, 2, 4, 5, 0, 3])
    features = 3 * texts[words] + 0.2 * torch.randn(6, 8, generator=generator)
    return features, texts, owners, words


class TestPlain:
    def test_planted_words_are_found(self, planted):
        features, texts, owners, words = planted
        logits = plain_logits(features, texts, owners)
        assert logits.argmax(1).tolist() == [owners[word] for word in words]

    def test_by_hand(self):
        """cos = 3/5 and 4/5 with the first two words, which mean the same; the third is 0."""
        found = plain_logits([[3.0, 4.0, 0.0]], np.eye(3), (0, 0, 1), scale=10)
        np.testing.assert_allclose(found, [[8.0, 0.0]], atol=1e-6)

    def test_a_feature_of_zeros_is_like_nothing(self):
        assert plain_logits(np.zeros((1, 3)), np.eye(3), (0, 1, 2)).tolist() == [[0, 0, 0]]

    @pytest.mark.parametrize("owners", [(0, 1), (0, 2, 2), (-1, 0, 1), ()])
    def test_owners_that_are_no_classes(self, owners):
        with pytest.raises((ValueError, RuntimeError), match="owners of 3 words"):
            plain_logits(np.eye(3), np.eye(3), owners)

    def test_other_spaces(self):
        with pytest.raises(ValueError, match="of one space"):
            plain_logits(np.zeros((1, 3)), np.eye(4), (0, 1, 2, 3))


class TestOpenVocabulary:
    def test_synonyms_count_by_the_best(self, planted):
        features, texts, owners, _ = planted
        torch.manual_seed(0)
        head = OpenVocabulary(8, 8, width=16, hidden=12)
        with torch.no_grad():
            each = head(features, texts, range(6))
            found = head(features, texts, owners)
        wanted = torch.stack([each[:, :2].max(1)[0], each[:, 2], each[:, 3:5].max(1)[0],
                              each[:, 5]], 1)  # fmt: skip
        assert torch.equal(found, wanted)

    @torch.no_grad()
    def test_layer_by_layer(self):
        """Numpy, from the weights, with queries and "no object"."""
        torch.manual_seed(1)
        head = OpenVocabulary(5, 4, query_width=3, width=6, hidden=7, void=True,
                              nothing=torch.ones(4))  # fmt: skip
        f, t, q = torch.randn(2, 5), torch.randn(3, 4), torch.randn(2, 3)
        found = head(f, t, (0, 1, 2), q).numpy()
        w = {name: value.double().numpy() for name, value in head.state_dict().items()}

        def linear(x, name):
            return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

        def norm(x):
            return (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)

        def unit(x):
            return x / np.linalg.norm(x, axis=1, keepdims=True)

        x = linear(norm(f.double().numpy()), "pooled.1") + linear(q.double().numpy(), "query")
        x = np.maximum(linear(norm(x), "embed.1"), 0)
        x = linear(np.maximum(linear(x, "embed.3"), 0), "embed.5")
        texts = np.concatenate([t.double().numpy(), np.ones((1, 4))])
        wanted = unit(x) @ unit(linear(texts, "text")).T / 0.07
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)

    def test_the_scale_ends_at_100(self):
        head = OpenVocabulary(4, 4, width=4, hidden=4)
        with torch.no_grad():
            head.scale.fill_(math.log(5000.0))
            found = head(torch.randn(50, 4), torch.eye(4), range(4))
        assert 20 < found.abs().max() <= 100 + 1e-3

    def test_words_that_were_never_trained_with(self):
        """Trained on 32 words of a small space; eight more are named by their embeddings alone."""
        torch.manual_seed(0)
        texts = torch.nn.functional.normalize(torch.randn(40, 4), dim=1)
        turn = torch.randn(4, 12)
        labels = torch.arange(32).repeat(6)
        features = texts[labels] @ turn + 0.02 * torch.randn(len(labels), 12)
        head = OpenVocabulary(12, 4, width=16, hidden=32)
        optimizer = torch.optim.Adam(head.parameters(), 3e-3)
        unseen = torch.arange(8)
        before = _accuracy(head, texts[32:] @ turn, texts[32:], unseen)
        for _ in range(200):
            loss = torch.nn.functional.cross_entropy(head(features, texts[:32], range(32)), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        after = _accuracy(head, texts[32:] @ turn, texts[32:], unseen)
        assert before <= 3 / 8 < 6 / 8 <= after

    def test_queries_go_with_a_head_that_reads_them(self):
        with pytest.raises(ValueError, match="made without"):
            OpenVocabulary(4, 4)(torch.ones(1, 4), torch.eye(4), range(4), torch.ones(1, 2))
        with pytest.raises(ValueError, match="give them"):
            OpenVocabulary(4, 4, query_width=2)(torch.ones(1, 4), torch.eye(4), range(4))


def _accuracy(head, features, texts, labels) -> float:
    with torch.no_grad():
        return float((head(features, texts, range(len(texts))).argmax(1) == labels).float().mean())


def test_by_class_lets_gradients_reach_the_best_word():
    words = torch.tensor([[1.0, 3.0, 2.0]], requires_grad=True)
    by_class(words, (0, 0, 1)).sum().backward()
    assert words.grad.tolist() == [[0, 1, 1]]
