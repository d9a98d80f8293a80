"""What features were told of their pictures, when a file grows; and paths in other folders."""

from __future__ import annotations

from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import diffeat
from diffeat.errors import SpecMismatch
from diffeat.images import open_source
from diffeat.jobs import extract_to_file
from diffeat.store import FeatureStore, verify
from tests.command import command
from tests.test_growing import FIRST, LATER, as_if_in_one_go, put
from tests.test_requests import source

TEXTS = ("a cat", "do", "", "at", "a")
TOLD = diffeat.ExtractSpec(200, "up.1", pool="1x1", dtype="float32")


def extract(backbone, pictures, spec, path):
    return extract_to_file(backbone, pictures, spec, path, batch_size=4, progress=False)


@pytest.fixture
def run(monkeypatch, capsys):
    with command(monkeypatch, capsys) as run:
        yield run


def test_captions_of_what_is_finished_must_be_those_that_it_was_told(backbone_of, tmp_path):
    backbone, path = backbone_of("sd1"), tmp_path / "f.h5"
    spec = replace(TOLD, captions="pictures")
    extract(backbone, source(3, captions=TEXTS[:3]), spec, path)
    other = source(5, captions=("a cat", "at", *TEXTS[2:]))
    with pytest.raises(SpecMismatch, match="captions or embeddings of pictures that it holds"):
        extract(backbone, other, spec, path)
    whole = source(5, captions=TEXTS).take([4, 0, 1, 3, 2])
    assert extract(backbone, whole, spec, path).computed == 2
    with FeatureStore(path) as store:
        assert store.ids == list(whole.ids)
    as_if_in_one_go(backbone, path, whole, spec)


def test_captions_of_a_picture_that_could_not_be_read_count_too(backbone_of, tmp_path):
    put(tmp_path / "in", FIRST)
    (tmp_path / "in" / LATER[0]).parent.mkdir()
    (tmp_path / "in" / LATER[0]).write_bytes(b"none")
    table, path = tmp_path / "c.csv", tmp_path / "f.h5"
    names = (*FIRST, *LATER)
    rows = [f"{name},{TEXTS[k % len(TEXTS)]}" for k, name in enumerate(names)]
    table.write_text("\n".join(["id,caption", *rows]))
    spec, backbone = replace(TOLD, captions=str(table)), backbone_of("sd1")
    options = {"batch_size": 4, "progress": False, "on_error": "skip"}
    extract_to_file(backbone, open_source(tmp_path / "in"), spec, path, **options)
    put(tmp_path / "in", LATER)
    result = extract_to_file(backbone, open_source(tmp_path / "in"), spec, path, **options)
    assert (result.status, result.computed) == ("grown", 4)
    as_if_in_one_go(backbone, path, tmp_path / "in", spec)


def test_one_text_embedding_for_all_serves_more_pictures(backbone_of, tmp_path):
    backbone, path = backbone_of("sd1"), tmp_path / "f.h5"
    shape = backbone.embedding_shapes["encoder_hidden_states"]
    for rows in (1, 5):
        values = torch.randn(rows, *shape, generator=torch.Generator().manual_seed(rows))
        save_file({"encoder_hidden_states": values}, tmp_path / f"{rows}.safetensors")
    spec = replace(TOLD, embeddings=str(tmp_path / "1.safetensors"))
    extract(backbone, source(3), spec, path)
    assert extract(backbone, source(5), spec, path).computed == 2
    as_if_in_one_go(backbone, path, source(5), spec)
    each = replace(TOLD, embeddings=str(tmp_path / "5.safetensors"))
    with pytest.raises(SpecMismatch, match="captions or embeddings: "):
        extract(backbone, source(5), each, path)


def test_classes_that_the_model_was_told_stay(backbone_of, tmp_path):
    backbone, path = backbone_of("adm-classes"), tmp_path / "f.h5"
    spec = diffeat.ExtractSpec(20, "mid", pool="1x1", dtype="float32", label="class")
    names = tuple("01234")
    extract(backbone, source(3, labels=np.array([2, 0, 4]), class_names=names), spec, path)
    other = source(4, labels=np.array([2, 1, 4, 0]), class_names=names)
    with pytest.raises(SpecMismatch, match=r"1 picture has another class .* \(picture-001\)"):
        extract(backbone, other, spec, path)
    # the classes have other places, and the model's classes stay those of their names
    whole = source(4, labels=np.array([1, 3, 0, 2]), class_names=("4", "2", "1", "0"))
    assert extract(backbone, whole, spec, path).computed == 1
    as_if_in_one_go(backbone, path, whole, spec)


def test_names_of_classes_in_a_prompt_stay(backbone_of, tmp_path):
    backbone, path = backbone_of("sd1"), tmp_path / "f.h5"
    spec = replace(TOLD, prompt="a {class}")
    extract(backbone, source(2, labels=np.array([0, 1]), class_names=("cat", "do")), spec, path)
    other = source(2, labels=np.array([0, 1]), class_names=("cat", "at"))
    with pytest.raises(SpecMismatch, match=r"1 picture has another class .* \(picture-001\)"):
        extract(backbone, other, spec, path)
    whole = source(3, labels=np.array([1, 2, 0]), class_names=("at", "cat", "do"))
    assert extract(backbone, whole, spec, path).computed == 1
    as_if_in_one_go(backbone, path, whole, spec)


def test_a_file_without_placements_grows_without(backbone_of, tmp_path):
    backbone, path = backbone_of("pixel"), tmp_path / "f.h5"
    spec = diffeat.ExtractSpec(20, "mid", pool="1x1", dtype="float32")
    extract(backbone, source(3), spec, path)
    with h5py.File(path, "a") as file:
        del file["sizes"], file["placements"]
    with pytest.warns(UserWarning, match="without /sizes and /placements, which it lacks so far"):
        assert extract(backbone, source(5), spec, path).computed == 2
    assert verify(path) == []
    with FeatureStore(path) as store:
        assert (len(store), store.sizes, len(store.digests)) == (5, None, 5)


# paths


def test_the_same_from_another_folder(tmp_path, monkeypatch, run, folder_of):
    """What is told by path is compared by what it says; what is new is added from there, too."""
    put(tmp_path / "in", FIRST)
    names = (*FIRST, *LATER)
    rows = [f"{name},{TEXTS[k % len(TEXTS)]}" for k, name in enumerate(names)]
    (tmp_path / "c.csv").write_text("\n".join(["id,caption", *rows]))
    (tmp_path / "model").symlink_to(folder_of("sd1"))
    (tmp_path / "sub").mkdir()
    options = ("-t", 200, "-b", "up.1", "--pool", "1x1", "--device", "cpu", "--json")

    def extracted(prefix: str) -> str:
        answer = run("extract", f"{prefix}model", f"{prefix}in", "-o", f"{prefix}f.h5",
                     "--captions", f"{prefix}c.csv", *options)  # fmt: skip
        assert answer.code == 0, answer.err
        return answer.out.partition('"status": "')[2].partition('"')[0]

    monkeypatch.chdir(tmp_path)
    assert extracted("") == "done"
    monkeypatch.chdir(tmp_path / "sub")
    assert extracted("../") == "already complete"
    assert extracted(f"{tmp_path}/") == "already complete"
    put(tmp_path / "in", LATER)
    assert extracted("../") == "grown"
    monkeypatch.chdir("/")
    assert extracted(f"{tmp_path}/") == "already complete"
    answer = run("view", tmp_path / "f.h5", "-o", tmp_path / "v.png")
    assert "holds pooled vectors" in answer.err  # and so no picture; of maps it would be found


def test_the_command_says_what_it_adds(tmp_path, monkeypatch, run):
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    for k in range(3):
        pixels = draw.integers(0, 256, (32, 32, 3), np.uint8)
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "in" / f"{k}.png")
        command = ("extract", "unet-cifar10", "in", "-o", "f.h5", "-t", 20, "-b", "mid", "--device")
        answer = run(*command, "cpu", "--pool", "1x1")
        assert answer.code == 0
        if k:
            assert f"f.h5: 1 of {k + 1} pictures is new; extracting it\n" in answer.err
            assert answer.out.startswith(f"f.h5: {k + 1} pictures, 1 computed now")
    shown = run("info", "f.h5").out
    assert shown.count("added     1 pictures later\n") == 2
