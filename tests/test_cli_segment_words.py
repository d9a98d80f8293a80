"""`diffeat segment --words`: masks of words, of pictures and of what a model paints."""

from __future__ import annotations

import csv
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffeat.attention import AttentionInputs
from diffeat.targets.dense import open_dense
from diffeat.viz.heat import heat_sheet
from tests.pipelines import build

SIDE = 40
MODEL_OPTIONS = ("-t", "30", "--size", "32", "--device", "cpu")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """sd1/ and pixel/: models; p/: pictures; t/: masks with a cat left and a mat right."""
    folder = tmp_path_factory.mktemp("words")
    for name in ("sd1", "pixel"):
        build(name, folder / name)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[:, : SIDE // 4], mask[:, -SIDE // 2 :] = 1, 2
    rng = np.random.default_rng(0)
    for k in range(3):
        for where, pixels in (("p", rng.integers(0, 256, (SIDE, SIDE, 3))), ("t", mask)):
            (folder / where).mkdir(exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / where / f"{k}.png")
    (folder / "t" / "classes.txt").write_text("0 background\n1 cat\n2 mat\n", "utf-8")
    return folder


@pytest.fixture
def planted(monkeypatch):
    """Attention to "cat" on the left quarter, to "mat" on the right half, to "a" nowhere.

    The prompt is "a cat, a mat": keys 2, and 5 and 6 for "m" and "at".
    """

    def probabilities(self, heads=None, queries=slice(None), keys=slice(None)):
        count, _many = self.query.shape[:2]
        side = int(self.query.shape[2] ** 0.5)
        whole = torch.full((count, side, side, self.key.shape[2]), 0.001)
        whole[:, :, : side // 4, 2] = 0.01
        whole[:, :, side // 2 :, 5] = whole[:, :, side // 2 :, 6] = 0.1
        found = whole.flatten(1, 2)[..., keys]
        return found if heads is None else found[:, None].expand(-1, len(heads), -1, -1)

    monkeypatch.setattr(AttentionInputs, "probabilities", probabilities)


def labels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_planted_attention_gives_its_masks(place, planted, diffeat, tmp_path) -> None:
    out, table = tmp_path / "masks", tmp_path / "masks.csv"
    answer = diffeat(
        "segment", place / "sd1", place / "p", "--words", "cat,mat", "--prompt", "a cat, a mat",
        *MODEL_OPTIONS, "-o", out, "--overlay", "--heat", "--csv", table, "--truth", place / "t",
        "--json",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    facts = json.loads(answer.out)
    assert facts["scores"]["mIoU"] > 0.9
    assert facts["prompt"] == "a cat, a mat"
    for k in range(3):
        found, true = labels(out / f"{k}.png"), labels(place / "t" / f"{k}.png")
        assert found.shape == true.shape
        assert (found != true).mean() < 0.08
        assert (found == true)[:, [2, 15, 35]].all()
        assert (out / "overlays" / f"{k}.jpg").exists()
        assert labels(out / "heat" / f"{k}.jpg").shape[1] > 3 * SIDE
    classes = json.loads((out / "classes.json").read_text("utf-8"))
    assert [one["name"] for one in classes["classes"]] == ["background", "cat", "mat"]
    with open(table, encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[0]["share of mat"]) == pytest.approx(0.5, abs=0.04)
    again = diffeat("segment", place / "sd1", place / "p", "--words", "cat,mat", "--prompt",
                    "a cat, a mat", "-t", "60", "--size", "32", "-o", out)  # fmt: skip
    assert again.code == 2
    assert "what another run made" in again.err


def test_words_of_the_background_and_one_prompt_a_word(place, diffeat, tmp_path) -> None:
    (tmp_path / "w.txt").write_text("cat\nmat, dot\n", "utf-8")
    answer = diffeat(
        "segment", place / "sd1", place / "p", "--words", tmp_path / "w.txt", "--prompt",
        "a {word}", *MODEL_OPTIONS, "--background", "at", "--limit", 2, "--weights", "coherence",
        "--rescale", "--refine", "up.1.attn.*:self.map", "--json",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    shares = json.loads(answer.out)["shares"]
    assert set(shares) == {"background", "cat", "mat"}
    assert sum(shares.values()) == pytest.approx(1)


def test_painted_pictures_with_masks(place, diffeat, tmp_path) -> None:
    out = tmp_path / "made"
    options = ("--words", "cat,mat", "--prompt", "a {word}", "--noise", "generation", "--steps", 2,
               "--size", 32, "--device", "cpu", "--limit", 4, "-o", out)  # fmt: skip
    answer = diffeat("segment", place / "sd1", *options, "--guidance", 3, "--overlay", "--heat")
    assert answer.code == 0, answer.err
    names = [f"{k:05d}" for k in range(4)]
    for name in names:
        assert labels(out / "images" / f"{name}.png").shape == (32, 32, 3)
        assert labels(out / "masks" / f"{name}.png").shape == (32, 32)
    for k, name in enumerate(names):
        assert set(np.unique(labels(out / "masks" / f"{name}.png"))) <= {0, 1 + k % 2}
    prompts = list(csv.reader((out / "prompts.csv").read_text("utf-8").splitlines()))
    assert prompts[1:3] == [["00000", "a cat"], ["00001", "a mat"]]
    # the folder is a labelled set
    targets = open_dense(out)
    assert tuple(targets.classes) == ("background", "cat", "mat")
    for row, name in enumerate(targets.ids):
        file = out / "masks" / Path(name).with_suffix(".png")
        np.testing.assert_array_equal(targets.target(row), labels(file))


def test_captions_are_told_answers(place, diffeat, tmp_path) -> None:
    captions = tmp_path / "captions.csv"
    captions.write_text("id,caption\n0.png,a cat\n1.png,a mat\n2.png,a dot\n", "utf-8")
    ask = ("segment", place / "sd1", place / "p", "--words", "cat,mat", "--captions", captions,
           *MODEL_OPTIONS, "--truth", place / "t", "--json")  # fmt: skip
    refused = diffeat(*ask)
    assert refused.code == 2
    assert "conditioned on their own targets" in refused.err
    out = tmp_path / "masks"
    answer = diffeat(*ask, "--allow-conditioned", "-o", out)
    assert answer.code == 0
    assert "not a measure of recognition" in answer.err
    sets = [set(np.unique(labels(out / f"{k}.png"))) for k in range(3)]
    assert sets == [{0, 1}, {0, 2}, {0}]


def test_captions_are_read_before_anything_runs(place, diffeat, tmp_path) -> None:
    captions, out = tmp_path / "captions.csv", tmp_path / "masks"

    def asked(third: str, words: str = "cat,mat", *more: object):
        captions.write_text(f"id,caption\n0.png,a cat\n1.png,a cat\n2.png,{third}\n", "utf-8")
        return diffeat("segment", place / "sd1", place / "p", "--words", words, "--captions",
                       captions, *MODEL_OPTIONS, "-o", out, *more)  # fmt: skip

    answer = asked("a mat and a long tail of words")
    assert (answer.code, "would be cut off" in answer.err) == (2, True), answer.err
    answer = asked("a dot", "mat,owl")
    assert (answer.code, "has any of the words mat, owl" in answer.err) == (2, True), answer.err
    answer = asked("a dot", "cat", "--background", "none")
    assert (answer.code, "2.png has none of the words" in answer.err) == (2, True), answer.err
    assert not out.exists()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        answer = asked("a mat", "cat,mat,owl")
    assert (answer.code, "has the words owl" in answer.err) == (0, True), answer.err


def test_painted_pictures_go_over_no_others(place, diffeat, tmp_path) -> None:
    out = tmp_path / "made"
    (out / "images").mkdir(parents=True)
    (out / "images" / "00000.png").write_bytes(b"mine")
    ask = ("segment", place / "sd1", "--words", "cat", "--noise", "generation", "--steps", 2,
           "--size", 32, "--device", "cpu", "--limit", 1, "-o", out)  # fmt: skip
    refused = diffeat(*ask)
    assert (refused.code, "images is in use" in refused.err) == (2, True), refused.err
    assert (out / "images" / "00000.png").read_bytes() == b"mine"
    elsewhere = tmp_path / "none"
    for more, match in {("-b", "up.1"): "no map of attention", ("--ensemble", 2): "once"}.items():
        answer = diffeat(*ask[:-1], elsewhere, *more)
        assert (answer.code, match in answer.err) == (2, True), answer.err
        assert not elsewhere.exists()
    for more in (("--overwrite",), ()):  # then it is its own
        assert diffeat(*ask, *more).code == 0
        assert labels(out / "images" / "00000.png").shape == (32, 32, 3)
    assert sorted(one.name for one in out.iterdir()) == ["images", "masks", "prompts.csv"]
    other = diffeat(*ask, "--seed", 3)
    assert "another run made (spec.seed: 0 → 3);" in other.err  # and nothing that is the same


REFUSED = [
    (("pixel", "p", "--words", "cat"), "reads no text"),
    (("sd1", "p", "--words", "dog", "--prompt", "a cat"), "the word 'dog'"),
    (("sd1", "p", "--words", "cat", "--prompt", "a cat and a long tail of words"),
     "'tail of words' would be cut off"),
    (("sd1", "p", "--words", "tail", "--prompt", "a cat and a long tail"), "'tail' would be"),
    (("sd1", "p", "--words", "cat,Cat"), "is there twice"),
    (("sd1", "p", "--words", "cat", "--tokens", "1"), "tokens are given"),
    (("sd1", "p", "--words", "cat", "-b", "up.1"), "no map of attention to text"),
    (("sd1", "p", "--words", "cat", "--background", "3"), "between 0 and 1"),
    (("sd1", "--words", "cat"), "needs a MODEL and PICTURES"),
    (("f.h5", "--words", "cat"), "no words were read with"),
    (("sd1", "p", "--words", "cat", "--noise", "generation"), "of its own; leave"),
    (("sd1", "--words", "cat", "--noise", "generation"), "--limit N"),
    (("sd1", "p", "--words", "cat", "--guidance", "2"), "is for --noise generation"),
    (("sd1", "p", "--words", "cat", "--heads", "7"), "has 2 heads"),
    (("sd1", "p", "--words", "cat", "-b", "up.1.attn.0:cross.map.h7"), "no such head"),
    (("sd1", "p", "--head", "h", "--background", "otsu"), "is for --words"),
]  # fmt: skip


def test_what_cannot_be_done_is_said(place, diffeat, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setattr("warnings.showwarning", lambda *_: None)
    for arguments, match in REFUSED:
        paints = "generation" in arguments and "p" not in arguments
        more = ("-o", tmp_path / "x") if not paints else ("--json",)
        t = () if "generation" in arguments or "--head" in arguments else ("-t", "30")
        answer = diffeat("segment", *arguments, *t, "--size", "32", *more)
        assert (answer.code, match in answer.err) == (2, True), (arguments, answer)
    answer = diffeat("segment", "sd1", "p", "--words", "cat", "--json")
    assert answer.code == 2
    assert "no timesteps given" in answer.err


def test_a_sheet_of_heat() -> None:
    """A tile for the picture, one for each word that was asked for; light where it is hot."""
    picture = np.full((20, 30, 3), 128, np.uint8)
    maps = np.zeros((3, 20, 30), np.float32)
    maps[0, :, 15:], maps[1] = 1, np.nan
    sheet = heat_sheet(picture, maps, ["left", "none", "cold"], side=240)
    width, height = 240, 160
    assert sheet.shape[1] == 3 * (width + 6) + 6
    tile = sheet[-height - 12 : -12, 6 + width + 6 : 6 + 2 * (width + 6)].astype(int)
    assert tile[:, 130:230].mean() > tile[:, 10:110].mean() + 60
    cold = sheet[-height - 12 : -12, 6 + 2 * (width + 6) + 5 :].astype(int)
    assert abs(int(cold[:, 10:110].mean()) - int(tile[:, 10:110].mean())) < 3
