"""Prompts that are learned for matching: what they are trained on, kept, refused, and worth."""

from __future__ import annotations

import copy
import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

import diffeat
from diffeat.adapt import PromptTuning
from diffeat.adapt.forward import NoisyFeatures
from diffeat.adapt.pair_pictures import (
    PairPictures,
    correspondence,
    gaussian_targets,
    read_sites,
    similarities,
)
from diffeat.adapt.tokens import TokenEncoder
from diffeat.conditioned import EMBEDDING_ROWS, conditioned
from diffeat.errors import SourceError, SpecError
from diffeat.extraction.learned_prompts import STATES, PromptFile, embedding_rows, read_states
from diffeat.images import ArraySource
from diffeat.targets.pairs import PointPairs, Truth
from probes.cells import Cells
from probes.maps import Maps
from probes.matching import NearestMatcher
from tests.adapt.toys import SIDE, shifted_pairs

PLACE = ("down.0.attn.1", 20)  # of "sd2": few layers, of which two read the prompt
OPTIONS = {"options": {"noise": "none"}, "batch_size": 4, "progress": False}


def tuned(backbone, pairs, validation=None, **more) -> PromptTuning:
    return PromptTuning(backbone, *PLACE, **{**OPTIONS, **more}).fit(pairs, validation)


@pytest.fixture(scope="module")
def single(backbone_of):
    return tuned(backbone_of("sd2"), shifted_pairs(16, 1), shifted_pairs(8, 2), epochs=3)


# --- the text encoder -------------------------------------------------------------------------


def test_learned_tokens_are_rows_of_the_encoders_table(backbone_of):
    backbone = backbone_of("sd2")
    encoder = TokenEncoder(backbone, 4)
    learned = torch.randn(2, 4, encoder.width, generator=torch.Generator().manual_seed(0))
    # an encoder of transformers whose table has these vectors as further words
    plain = copy.deepcopy(backbone.extras["text_encoder"])
    words = plain.get_input_embeddings().num_embeddings
    plain.resize_token_embeddings(words + 8, mean_resizing=False)
    plain.get_input_embeddings().weight.data[words:] = learned.flatten(0, 1)
    tokenizer = backbone.extras["tokenizer"]
    pads = [tokenizer.pad_token_id] * (encoder.length - 6)
    first, last = tokenizer.bos_token_id, tokenizer.eos_token_id
    ids = [[first, *range(words + 4 * k, words + 4 * k + 4), last, *pads] for k in range(2)]
    with torch.no_grad():
        torch.testing.assert_close(encoder(learned), plain(torch.tensor(ids)).last_hidden_state)


def test_a_prompt_starts_as_its_text(backbone_of):
    backbone = backbone_of("sd2")
    encoder = TokenEncoder(backbone)
    with torch.no_grad():
        found = encoder(encoder.embedded("a cat")[None])
    expected = backbone.encode_prompts(["a cat"])[STATES]
    # the encoder is causal, and only the very last token is another one: the end
    torch.testing.assert_close(found[:, :-1], expected[:, :-1])


def test_gradients_pass_through_the_encoder(backbone_of):
    encoder = TokenEncoder(backbone_of("sd2"), 3)
    generator = torch.Generator().manual_seed(0)
    tokens, way = (torch.randn(1, 3, encoder.width, generator=generator) for _ in range(2))
    tokens.requires_grad_(True)
    along = torch.randn(1, encoder.length, encoder.width, generator=generator)
    (slope,) = torch.autograd.grad((encoder(tokens) * along).sum(), tokens)
    with torch.no_grad():
        step = 1e-2
        up, down = (encoder(tokens + sign * step * way) for sign in (1, -1))
        measured = ((up - down) * along).sum() / (2 * step)
    torch.testing.assert_close((slope * way).sum(), measured, rtol=1e-2, atol=1e-3)
    assert not any(w.requires_grad for w in encoder.encoder.parameters())


# --- what is minimised ------------------------------------------------------------------------


def test_the_loss_equals_naive_arithmetic():
    rng = np.random.default_rng(0)
    cosines = rng.uniform(-1, 1, (3, 5, 7))
    truth = np.array([[0.2, 0.4, 1, 1, 9], [6.0, 4.0, 1, 1, 9], [3.4, 1.6, 1, 1, 9]])
    total = 0.0
    for k in range(3):
        column, row = np.round(truth[k, :2])
        weights = {}
        for y in range(5):
            for x in range(7):
                if max(abs(x - column), abs(y - row)) <= 3:
                    weights[y, x] = np.exp(-((x - column) ** 2 + (y - row) ** 2) / 4.5)
        scaled = cosines[k] / 0.04
        log_sum = scaled.max() + np.log(np.exp(scaled - scaled.max()).sum())
        for place, weight in weights.items():
            total -= weight / sum(weights.values()) * (scaled[place] - log_sum)
    targets, output = torch.tensor(truth), torch.tensor(cosines)
    objective = correspondence()
    assert float(objective.loss(output, targets, "sum")) == pytest.approx(total, rel=1e-9)
    assert float(objective.loss(output, targets, "mean")) == pytest.approx(total / 3, rel=1e-9)
    assert gaussian_targets(targets, (5, 7), 1.5, 7).sum((1, 2)).tolist() == pytest.approx([1] * 3)


def test_a_point_on_the_edge_belongs_to_the_last_cell():
    sites = torch.tensor([[7.5, 2.0], [-0.5, 3.5]])
    found = gaussian_targets(sites, (4, 8), 0.1, 1)
    assert [divmod(int(one.argmax()), 8) for one in found] == [(2, 7), (3, 0)]
    assert found.sum((1, 2)).tolist() == pytest.approx([1, 1])


def test_cosines_are_those_of_points_read_from_maps():
    rng = np.random.default_rng(0)
    maps = torch.tensor(rng.standard_normal((4, 3, 5, 6)))  # two pairs
    sites = np.array([[0.0, 0.0], [5.5, -0.4], [2.25, 3.5]])
    found = similarities(maps, torch.tensor([0, 0, 1]), torch.tensor(sites).float()).numpy()
    whole = Maps({"": maps[0]}, (5, 6), (5, 6))
    read = whole.sample("", whole.points(sites[:2], ""))[0].numpy()
    torch.testing.assert_close(read_sites(maps[0], torch.tensor(sites[:2])), torch.tensor(read))
    for k, vector in enumerate(read):
        cells = maps[1].numpy().reshape(3, -1)
        cosines = vector @ cells / np.linalg.norm(vector) / np.linalg.norm(cells, axis=0)
        np.testing.assert_allclose(found[k].reshape(-1), cosines, rtol=1e-5, atol=1e-6)


def test_pairs_are_given_as_sites_with_the_size_of_a_cell(backbone_of):
    spec = diffeat.ExtractSpec(PLACE[1:], PLACE[:1], noise="none")
    pairs = shifted_pairs(3, 5, points=2)
    data = PairPictures(NoisyFeatures(backbone_of("sd2"), spec), pairs, 2, 1, torch.from_numpy)
    (inputs, targets), (last, _) = list(data.ordered())
    assert [len(one) for one in inputs] == [4, 4, 4, 2]
    assert len(last[0]) == 2
    truth = pairs.truth(1)
    # 32 pixels over 16 cells: two pixels a cell, whose first centre is at half a pixel
    np.testing.assert_allclose(inputs[2][2:], (truth.source_points + 0.5) / 2 - 0.5, rtol=1e-5)
    np.testing.assert_allclose(targets[2:, :2], (truth.target_points + 0.5) / 2 - 0.5, rtol=1e-5)
    assert targets[:, 2:].unique(dim=0).tolist() == [[2.0, 2.0, SIDE]]


def test_pck_counts_in_pixels_of_the_picture():
    measure = correspondence(alpha=0.1).measure()
    truth = torch.tensor([[3.0, 3.0, 2.0, 4.0, 50.0]] * 3)
    measure.update(torch.tensor([[5.0, 3.0], [6.0, 3.0], [3.0, 5.0]]), truth)  # 4, 6, 8 pixels
    assert measure.compute() == pytest.approx(100 / 3)


# --- learning ---------------------------------------------------------------------------------


def test_a_prompt_beats_its_start_on_pairs_that_it_never_saw(single, backbone_of):
    other = shifted_pairs(12, 3, points=10)
    start = PromptTuning(backbone_of("sd2"), *PLACE, **OPTIONS)
    start.classes_ = ()
    start.prompt_ = start._built(TokenEncoder(start.backbone))
    before, after = start.score(other), single.score(other)
    assert after["validation_loss"] < 0.95 * before["validation_loss"]
    assert single.history_[-1]["validation_loss"] < single.start_["validation_loss"]
    # the text that it started from, by itself
    torch.testing.assert_close(
        start.states()[:, :-1], single.backbone.encode_prompts([""])[STATES][:, :-1]
    )


def test_going_on_gives_the_same_bits(backbone_of, tmp_path):
    given = backbone_of("sd2"), shifted_pairs(8, 1), shifted_pairs(4, 2)
    noisy = {"options": {"noise": "per-image"}}
    whole = tuned(*given, epochs=2, **noisy)
    dying = PromptTuning(given[0], *PLACE, **{**OPTIONS, **noisy}, epochs=2, checkpoint=tmp_path)
    seen, data = [], dying._data

    def broken(pairs):
        made = data(pairs)
        if pairs is given[1]:
            shuffled = made.shuffled

            def once(rng):
                seen.append(0)
                if len(seen) > 1:
                    raise KeyboardInterrupt
                return shuffled(rng)

            made.shuffled = once
        return made

    dying._data = broken
    with pytest.raises(KeyboardInterrupt):
        dying.fit(*given[1:])
    again = tuned(*given, epochs=2, checkpoint=tmp_path, **noisy)
    assert torch.equal(again.prompt_.tokens, whole.prompt_.tokens)
    plain = [{k: v for k, v in one.items() if k != "seconds"} for one in whole.history_]
    assert [{k: v for k, v in one.items() if k != "seconds"} for one in again.history_] == plain
    with pytest.raises(ValueError, match="pairs was"):
        tuned(given[0], shifted_pairs(8, 4), given[2], epochs=2, checkpoint=tmp_path, **noisy)


def test_checkpointing_gives_the_same_gradients(backbone_of):
    pairs = shifted_pairs(2, 1)
    found = [
        PromptTuning(
            backbone_of("sd2"), "up.1", 20, **OPTIONS, epochs=1, gradient_checkpointing=spare
        ).fit(pairs).prompt_.tokens
        for spare in (False, True)
    ]  # fmt: skip
    torch.testing.assert_close(*found)


# --- files ------------------------------------------------------------------------------------


def test_a_saved_prompt_conditions_an_extraction(single, tmp_path, backbone_of):
    path = single.save(tmp_path / "p.safetensors")
    pixels = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    spec = diffeat.ExtractSpec((20,), ("up.1",), dtype="float32")
    told = diffeat.ExtractSpec((20,), ("up.1",), dtype="float32", embeddings=str(path))
    by_file = diffeat.extract(single.backbone, pixels, told)
    by_hand = diffeat.extract(single.backbone, pixels, spec, embeddings={STATES: single.states()})
    without = diffeat.extract(single.backbone, pixels, spec)
    assert torch.equal(by_file["up.1", 20], by_hand["up.1", 20])
    assert not torch.equal(by_file["up.1", 20], without["up.1", 20])
    assert conditioned(told, {EMBEDDING_ROWS: embedding_rows(path)}) == ""
    loaded = PromptTuning.load(path, backbone_of("sd2"))
    assert torch.equal(loaded.states(), single.states())
    pairs = shifted_pairs(4, 6)
    assert loaded.score(pairs) == pytest.approx(single.score(pairs), rel=1e-5)


def test_prompts_of_another_model_are_refused(single, tmp_path, backbone_of, folder_of):
    path = single.save(tmp_path / "p.safetensors")
    spec = diffeat.ExtractSpec((20,), ("up.1",), embeddings=str(path))
    pixels = torch.zeros(1, 3, SIDE, SIDE)
    other = backbone_of("sd1")
    with pytest.raises(SpecError, match=r"learned with the text encoder of .*sd2.*sd1"):
        diffeat.extract(other, pixels, spec)
    with pytest.raises(SpecError, match=r"learned with the text encoder of .*sd2.*sd1"):
        PromptTuning.load(path, other)
    twin = diffeat.load(f"{folder_of('sd2')}@random", device="cpu", dtype="float32")
    with pytest.raises(SpecError, match=r"learned with the denoiser of .*sd2.*@random"):
        diffeat.extract(twin, pixels, spec)
    half = diffeat.load(str(folder_of("sd2")), device="cpu", dtype="bfloat16")
    assert ("up.1", 20) in diffeat.extract(half, pixels, spec)  # precision is no other model
    bare = diffeat.load(str(folder_of("sd2")), device="meta")  # of a plan: no weights to compare
    assert read_states(path, bare)[0].kind == "single"


def test_damaged_and_foreign_files_are_refused(single, tmp_path, backbone_of):
    path = single.save(tmp_path / "p.safetensors")
    with safe_open(path, "pt") as file:
        texts, states = file.metadata(), file.get_tensor(STATES)
    plain = tmp_path / "plain.safetensors"
    save_file({STATES: states}, plain)
    with pytest.raises(SpecError, match="plain embeddings; expected a learned prompt"):
        PromptTuning.load(plain, backbone_of("sd2"))
    said = json.loads(texts["prompts"])
    for name, change in (
        ("format", {"format": "diffeat-prompts-9"}),
        ("damaged", {"prompts": "{"}),
        ("damaged", {"prompts": json.dumps({**said, "kind": "sung"})}),
        ("damaged", {"prompts": json.dumps({**said, "identity": {"model": 3}})}),
        ("damaged", {"prompts": json.dumps({**said, "classes": None})}),
    ):
        bad = tmp_path / "bad.safetensors"
        save_file({STATES: states}, bad, {**texts, **change})
        with pytest.raises(SpecError, match=name):
            PromptFile.read(bad)
    for change in ({"about": {}}, {"about": {**said["about"], "tokens": "many"}}):
        bad = tmp_path / "bad.safetensors"
        save_file({STATES: states}, bad, {**texts, "prompts": json.dumps({**said, **change})})
        with pytest.raises(SpecError, match="damaged prompts"):
            PromptTuning.load(bad, backbone_of("sd2"))
    with pytest.raises(SpecError, match=r"ends in \.safetensors"):
        single.save(tmp_path / "p.pt")


def test_pairs_are_matched_under_their_prompt(single, tmp_path):
    pairs = shifted_pairs(3, 8)
    found = list(single.match(pairs))
    path = single.save(tmp_path / "p.safetensors")
    told = diffeat.ExtractSpec(
        (20,), PLACE[:1], dtype="float32", noise="none", embeddings=str(path)
    )
    features = diffeat.extract(single.backbone, pairs.pictures(), told)
    cells = Cells(dict(features), sizes=features.sizes, placements=features.placements)
    sides = np.stack(pairs.rows(features.ids), 1)
    for pair, matches in enumerate(found):
        source, target = (cells.maps(int(row)) for row in sides[pair])
        expected = NearestMatcher().match(source, target, pairs.truth(pair).source_points)
        np.testing.assert_allclose(matches.points, expected.points)
        assert matches.valid.all()


# --- by class, by pair ------------------------------------------------------------------------


def test_each_picture_is_told_the_prompt_of_its_class(backbone_of, tmp_path):
    backbone = backbone_of("sd2")
    pairs = shifted_pairs(6, 1, categories=("dog", "cat"))
    found = tuned(backbone, pairs, kind="class", epochs=1)
    assert found.classes_ == ("cat", "dog")
    states = found.states()
    assert not torch.equal(states[0], states[1])
    path = found.save(tmp_path / "p.safetensors")
    pixels = np.zeros((3, SIDE, SIDE, 3), np.uint8)
    source = ArraySource("s", ("a", "b", "c"), np.array([1, 0, 1]), ("cat", "dog"), pixels=pixels)
    spec = diffeat.ExtractSpec((20,), ("up.1",), dtype="float32", noise="none")
    told = diffeat.ExtractSpec(
        (20,), ("up.1",), dtype="float32", noise="none", embeddings=str(path)
    )
    by_file = diffeat.extract(backbone, source, told)["up.1", 20]
    by_hand = diffeat.extract(backbone, pixels, spec, embeddings={STATES: states[[1, 0, 1]]})
    torch.testing.assert_close(by_file, by_hand["up.1", 20])
    assert not torch.equal(by_file[0], by_file[1])
    # what names the class of a picture is no fair ground for telling classes apart
    assert "embeddings" in conditioned(told, {EMBEDDING_ROWS: embedding_rows(path)})
    unknown = ArraySource("s", ("a",), np.array([0]), ("cow",), pixels=pixels[:1])
    with pytest.raises(SpecError, match="no prompt for class 'cow'"):
        diffeat.extract(backbone, unknown, told)
    with safe_open(path, "pt") as file:
        save_file({STATES: states[:1]}, tmp_path / "q.safetensors", file.metadata())
    short = dataclasses.replace(told, embeddings=str(tmp_path / "q.safetensors"))
    with pytest.raises(SpecError, match="1 for 2 classes"):
        diffeat.extract(backbone, source, short)
    with pytest.raises(SpecError, match="these pictures have none"):
        diffeat.extract(backbone, pixels, told)
    with pytest.raises(SpecError, match="categories 'cow', for which no prompt"):
        found.score(shifted_pairs(2, 1, categories=("cow",)))
    with pytest.raises(SpecError, match="names no categories"):
        tuned(backbone, shifted_pairs(2, 1), kind="class")


def test_a_conditional_prompt_follows_from_both_pictures(backbone_of, tmp_path):
    backbone, pairs = backbone_of("sd2"), shifted_pairs(6, 1)
    # any maps by picture id will do: here of a pixel model without noise
    spec = diffeat.ExtractSpec((0,), ("down.1",), dtype="float32", noise="none")
    vision = diffeat.extract(backbone_of("pixel"), pairs.pictures(), spec)
    found = tuned(backbone, pairs, kind="conditional", vision=vision, shared=4, epochs=2,
                  linear_rate=0.01)  # fmt: skip
    states = found.states(pairs)
    assert len(states) == 6
    assert not torch.equal(states[0], states[1])
    weights = found.prompt_.state_dict()
    v = vision["down.1", 0][:2].flatten(2)  # of the first pair: (2, C, m)
    z = weights["channels.weight"] @ torch.cat([v[0], v[1]]) + weights["channels.bias"][:, None]
    z = z @ weights["sites.weight"].T + weights["sites.bias"]
    pooled = torch.nn.functional.adaptive_max_pool1d(z, found.prompt_.pool.output_size).T
    tokens = (pooled + weights["positions"]) * weights["gate"].tanh()
    torch.testing.assert_close(
        found.prompt_(v[None])[0].detach(), torch.cat([weights["tokens"], tokens])
    )
    path = found.save(tmp_path / "p.safetensors")
    (matches,) = found.match(pairs.take([3]))
    assert len(matches) == 6
    with pytest.raises(SpecError, match="needs vision features"):
        PromptTuning.load(path, backbone).score(pairs)
    again = PromptTuning.load(path, backbone, vision)
    assert again.score(pairs) == pytest.approx(found.score(pairs), rel=1e-5)
    told = diffeat.ExtractSpec((20,), ("up.1",), embeddings=str(path))
    with pytest.raises(SpecError, match="another one for every pair"):
        diffeat.extract(backbone, pairs.pictures(), told)
    with pytest.raises(SpecError, match="has no vision features"):
        found.score(shifted_pairs(2, 9))


# --- what cannot be learned -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "sung"}, "kind='sung'"),
        ({"tokens": 11}, "tokens=11"),
        ({"window": 4}, "window=4"),
        ({"temperature": 0}, "temperature=0"),
        ({"epochs": 0}, "epochs=0"),
        ({"patience": 2}, "patience=2"),
        ({"kind": "conditional"}, "vision="),
        ({"options": {"prompt": "a"}}, "options"),
        ({"start": "a b c d e f g h i j k"}, "tokens"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(backbone_of, fields, message):
    with pytest.raises(SpecError, match=message):
        tuned(backbone_of("sd2"), shifted_pairs(2, 1), **fields)


def test_models_and_pairs_that_cannot_be_learned_from_are_refused(backbone_of):
    pairs = shifted_pairs(2, 1)
    with pytest.raises(SpecError, match="has no text encoder"):
        PromptTuning(backbone_of("pixel"), "up.0", 20).fit(pairs)
    with pytest.raises(SpecError, match="expected a model with one CLIP text encoder"):
        PromptTuning(backbone_of("sdxl"), "up.0", 20).fit(pairs)
    with pytest.raises(SpecError, match="not learned yet"):
        PromptTuning(backbone_of("sd2"), *PLACE).states()
    with pytest.raises(SpecError, match="one map of the denoiser"):
        PromptTuning(backbone_of("sd2"), "up.*", 20).fit(pairs)
    gone = ArraySource("toy", ("x",), None, (), pixels=np.zeros((1, 8, 8, 3), np.uint8))
    lost = type(pairs)("toy", pairs.source, pairs.target, pairs.truths, lambda: gone)
    with pytest.raises(SourceError, match="no picture '1-0-a'"):
        tuned(backbone_of("sd2"), lost)


def test_points_that_a_crop_leaves_out_are_refused(backbone_of):
    wide = ArraySource("toy", ("a", "b"), None, (), pixels=np.zeros((2, 32, 96, 3), np.uint8))
    truth = Truth(np.array([[3.0, 9.0]]), np.array([[4.0, 9.0]]))
    pairs = PointPairs("wide", ("a",), ("b",), (truth,), lambda: wide)
    with pytest.raises(SourceError, match=r"no pair has a point that both inputs show \(fit=crop"):
        tuned(backbone_of("sd2"), pairs, epochs=1, options={"noise": "none", "fit": "crop"})


def test_files_serve_the_command_line(single, tmp_path, diffeat, folder_of):
    path = single.save(tmp_path / "p.safetensors")
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.new("RGB", (SIDE, SIDE), (9, 99, 200)).save(folder / "a.png")
    given = ["extract", folder_of("sd2"), folder, "-t", "20", "-b", "up.1", "--device", "cpu",
             "--dtype", "float32", "-o", tmp_path / "F.h5"]  # fmt: skip
    assert diffeat(*given, "--embeddings", path).code == 0
    assert "already complete" in diffeat(*given, "--embeddings", path).out
    single.prompt_.tokens.data.add_(0.5)
    try:
        other = single.save(tmp_path / "q.safetensors")
    finally:
        single.prompt_.tokens.data.sub_(0.5)
    refused = diffeat(*given, "--embeddings", other)
    assert refused.code == 1
    assert "embeddings" in refused.err
