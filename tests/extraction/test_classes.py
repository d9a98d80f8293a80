"""Two numberings: the classes of the pictures and those of the model."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import diffeat
from diffeat.backbones.class_names import class_names
from diffeat.errors import SpecError
from diffeat.extraction.classes import class_indices, read_label_map
from diffeat.images.classes import sort_classes

CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def model(names=None, count=10):
    """What `class_indices` asks a backbone."""
    names = names and tuple((name,) if isinstance(name, str) else name for name in names)
    return SimpleNamespace(name="toy", classes=count, class_names=names)


def imagenet():
    return SimpleNamespace(
        name="dit", classes=1000, class_names=class_names("dit-xl-2-256", {}, 1000)
    )


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["dog", "frog"], [5, 6]),
        (["Frog", "DOG"], [6, 5]),
        (["0", "1", "9"], [0, 1, 9]),
    ],
)
def test_by_name_and_by_number(names, found):
    backbone = model(CIFAR10)
    assert list(class_indices(backbone, names).values()) == found


def test_names_of_imagenet():
    """ImageNet's own numbers: 0 tench, 1 goldfish, 999 toilet tissue."""
    names = ["n01440764", "goldfish", "Carassius_auratus", "toilet-tissue", "tench"]
    assert list(class_indices(imagenet(), names).values()) == [0, 1, 1, 999, 0]


@pytest.mark.parametrize(
    ("backbone", "names", "told"),
    [
        (model(CIFAR10), ["dog", "toad"], "1 classes .* 'toad'"),
        (model(CIFAR10), ["dogs"], "did you mean 'dog'"),
        (model(CIFAR10), [*"abcdefghij"], "10 classes .*'a', 'b', 'c', 'd', 'e' and 5 more"),
        (model(CIFAR10), ["1", "10"], "'1', '10'"),
        (model(None), ["cat", "dog"], "10 classes have numbers only"),
        (imagenet(), ["crane"], "may be class"),
        (model(None, None), ["cat"], "not class-conditional"),
    ],
)
def test_what_does_not_map_is_refused(backbone, names, told):
    with pytest.raises(SpecError, match=told):
        class_indices(backbone, names)


def test_names_that_nobody_knows_are_taken_in_order_with_a_warning():
    with pytest.warns(UserWarning, match="does not say what its classes are called"):
        assert class_indices(model(None, 2), ["cat", "dog"]) == {"cat": 0, "dog": 1}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("m.csv", "toad,frog\nhound,5\n"),
        ("m.tsv", "toad\tfrog\nhound\t5\n"),
        ("m.json", json.dumps({"toad": "frog", "hound": 5})),
    ],
)
def test_a_table_of_the_users(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    table = read_label_map(tmp_path / name)
    assert class_indices(model(CIFAR10), ["hound", "toad"], table) == {"hound": 5, "toad": 6}
    with pytest.raises(SpecError, match="no line for 'cat'"):
        class_indices(model(CIFAR10), ["cat"], table)


def test_a_table_that_is_none(tmp_path):
    (tmp_path / "m.csv").write_text("a,0\na,1\n")
    with pytest.raises(SpecError, match="'a' has two classes, 0 and 1"):
        read_label_map(tmp_path / "m.csv")
    for text in ("a,b,c\n", "a\n"):
        (tmp_path / "m.csv").write_text(text)
        with pytest.raises(SpecError, match="two columns"):
            read_label_map(tmp_path / "m.csv")
    with pytest.raises(SpecError, match="label='class'"):
        diffeat.ExtractSpec(20, "mid", label_map="m.csv")


def test_names_in_the_index_of_a_pipeline():
    table = {"1": "dog, hound", "0": "cat"}
    assert class_names("x", {"id2label": table}, 2) == (("cat",), ("dog", "hound", "dog, hound"))
    assert class_names("x", {"id2label": table}, 3) is None
    assert class_names("x", {"id2label": {"0": 5}}, 1) is None
    assert class_names("x", {"id2label": {"7": "cat"}}, 1) is None


def test_features_are_those_of_the_models_class():
    """dog and frog are 5 and 6 of CIFAR-10, as given outright."""
    backbone = diffeat.load("dit-cifar10")
    assert [names[0] for names in backbone.class_names] == CIFAR10
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    from diffeat.images import ArraySource

    source = ArraySource("two", ("a", "b"), np.array([0, 1]), ("dog", "frog"), pixels)
    spec = diffeat.ExtractSpec(20, "block.3", pool="1x1", label="class", dtype="float32")
    mapped = diffeat.extract(backbone, source, spec)["block.3", 20]
    tensors = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    plain = diffeat.ExtractSpec(20, "block.3", pool="1x1", dtype="float32")
    outright = diffeat.extract(backbone, tensors, plain, ids=["a", "b"], labels=[5, 6])
    torch.testing.assert_close(mapped, outright["block.3", 20], rtol=1e-5, atol=1e-5)


def test_numbers_sort_as_numbers():
    assert sort_classes(["10", "2", "0", "100", "1"]) == ("0", "1", "2", "10", "100")
    assert sort_classes(["b10", "b2"]) == ("b10", "b2")
    assert sort_classes(["1", "a", "10", "2"]) == ("1", "10", "2", "a")
