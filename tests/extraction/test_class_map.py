"""Classes of pictures become the model's by a table, by name or by number, never by place."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import diffeat
from diffeat.backbones.classes import class_names_of, imagenet
from diffeat.errors import ModelError, SpecError
from diffeat.extraction.class_map import map_classes, read_label_map
from diffeat.extraction.conditions import Conditions
from diffeat.images import ArraySource
from diffeat.images.classes import sort_classes
from diffeat.store import StoreWriter
from diffeat.work import Job, Worker

CIFAR10 = class_names_of("dit-cifar10", {}, 10)
IMAGENET = class_names_of("sit-xl-2-256", {}, 1000)


def indices(names, model_names=CIFAR10, count=None, **options):
    count = len(model_names) if count is None else count
    return map_classes(names, "the model", count, model_names, **options).indices


@pytest.mark.parametrize(
    ("names", "model_names", "expected"),
    [
        (("dog", "frog"), CIFAR10, (5, 6)),
        (("Truck", "AIRPLANE"), CIFAR10, (9, 0)),
        (("golden_retriever", "Great-White Shark"), IMAGENET, (207, 2)),
        (("b_2", "Tinca tinca"), ("tench, Tinca tinca", "B-2"), (1, 0)),
        (("n01440764", "n02085620", "crane (n03126707)"), IMAGENET, (0, 151, 517)),
        (("0", "1", "2", "10", "100"), IMAGENET, (0, 1, 2, 10, 100)),
        (("3", "07"), CIFAR10, (3, 7)),
        (("1", "0"), ("1", "0"), (0, 1)),  # names that are numbers are names
    ],
)
def test_by_name_or_by_number(names, model_names, expected):
    assert indices(names, model_names) == expected


def test_numbers_do_beside_a_table():
    found = map_classes(("dog", "3", "4"), "m", 5, None, {"dog": 1})
    assert (found.indices, found.by) == ((1, 3, 4), "table and number")
    with pytest.raises(SpecError, match="have numbers only, and the pictures' classes"):
        map_classes(("dog", "3", "5"), "m", 5, None, {"dog": 1})


def test_numbers_do_for_classes_without_names():
    assert indices(("4", "1"), None, 5) == (4, 1)


@pytest.mark.parametrize(
    ("names", "model_names", "count", "message"),
    [
        (("dog", "frgo"), CIFAR10, 10, r"no class for 1 .*'frgo' \(did you mean 'frog'\?\).*-map"),
        (("x", "y"), None, 2, "2 classes of the model have numbers only.*'x'.*--label-map"),
        (("0", "10"), CIFAR10, 10, r"no class for 2 .*numbers go up to 9"),
        (("0", "dog"), CIFAR10, 10, "no class for 1 .*'0'"),
        (tuple("abcdefg"), CIFAR10, 10, r"no class for 7 .*'e'.*, …; "),
        (("crane",), IMAGENET, 1000, r"'crane' may be class 134 \(crane\) or 517 \(crane\)"),
        (("dog", "Dog"), CIFAR10, 10, "'dog' and 'Dog' would both be class 5"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(names, model_names, count, message):
    with pytest.raises(SpecError, match=message):
        indices(names, model_names, count)


def test_classes_without_pictures_need_no_place():
    found = map_classes(("dog", "unknown"), "m", 10, CIFAR10, used={"dog"})
    assert found.indices == (5, None)
    assert found.text == "by name: dog → 5 (dog)"


def test_a_table_comes_first(tmp_path):
    (tmp_path / "m.json").write_text(json.dumps({"beagle": "dog", "poodle": 5, "cat": "ship"}))
    (tmp_path / "m.csv").write_text("class,label\nbeagle,dog\npoodle,5\ncat,ship\n")
    (tmp_path / "m.tsv").write_text("label\tclass\ndog\tbeagle\n5\tpoodle\nship\tcat\n")
    for end in ("json", "csv", "tsv"):
        table = read_label_map(tmp_path / f"m.{end}")
        found = map_classes(("beagle", "poodle", "cat", "frog"), "m", 10, CIFAR10, table)
        assert found.indices == (5, 5, 8, 6)
        assert found.by == "table and name"


def test_what_a_table_names_in_vain_is_said():
    found = map_classes(("dog", "frog"), "m", 10, CIFAR10, {"Dog": "cat", "frog": "cat"})
    assert (found.indices, found.unused) == ((5, 3), ("Dog",))
    assert "the label map's 'Dog' are no classes of these pictures" in found.text


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("m.csv", "dog,5\n", "expected a first line with the columns class and label"),
        ("m.csv", "class,label\ndog\n", "line 2: 1 fields; expected 2 as in the header"),
        ("m.csv", "class,label\ndog,\n", "line 2 lacks its class or its label"),
        ("m.json", "[1]", "expected one object"),
        ("m.json", '{"dog": true}', "label True of 'dog'"),
        ("m.json", '{"dog": 1, "dog": 2}', "two labels for 'dog'"),
        ("m.json", '{"dog": 10}', "'dog' is to be 10, but m has classes 0 … 9"),
        ("m.csv", "class,label\ndog,forg\n", r"'dog' is to be 'forg'.*did you mean 'frog'"),
        ("m.txt", "", "ends in .csv, .tsv or .json"),
    ],
)  # fmt: skip
def test_tables_that_cannot_be_used(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(SpecError, match=message):
        map_classes(("dog",), "m", 10, CIFAR10, read_label_map(tmp_path / name))


def test_names_of_models():
    assert len(IMAGENET) == len(imagenet()) == 1000
    assert IMAGENET[0] == "tench, Tinca tinca"
    assert class_names_of("my/folder", {"_classes": "imagenet-1k"}, 1000) == IMAGENET
    assert class_names_of("my/folder", {"id2label": {"0": "a", "1": "b"}}, 2) == ("a", "b")
    assert class_names_of("my/folder", {}, 2) is None
    assert class_names_of("unet-cifar10", {}, None) is None
    for wrong in ({"0": "a"}, {"0": "a", "1": 3}, ["a", "b"], {"0": "a", "2": "b"}):
        with pytest.raises(ModelError, match=r"id2label .* does not name its 2 classes"):
            class_names_of("my/folder", {"id2label": wrong}, 2)


def test_classes_that_are_numbers_are_in_their_order():
    assert sort_classes(["10", "2", "1", "100", "0", "2"]) == ("0", "1", "2", "10", "100")
    assert sort_classes(["10", "2", "b"]) == ("10", "2", "b")
    assert sort_classes(["10", "2"], reading=1) == ("10", "2")


def test_folders_that_are_numbers(tmp_path):
    """Other than before 0.7, whose order rule 1 keeps for what was begun then."""
    for name in ("0", "2", "10"):
        (tmp_path / name).mkdir()
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / name / "a.png")
    source = diffeat.open_source(tmp_path)
    assert source.class_names == ("0", "2", "10")
    assert [source.class_names[k] for k in source.labels] == [i.split("/")[0] for i in source.ids]
    before = source.by_rule(1)
    assert before.class_names == ("0", "10", "2")
    assert [before.class_names[k] for k in before.labels] == [i.split("/")[0] for i in before.ids]


# --- through an extraction ------------------------------------------------------------------


@pytest.fixture(scope="module")
def cifar():
    return diffeat.load("dit-cifar10", "cpu")


@pytest.fixture
def told(cifar):
    """The classes that the denoiser is given."""
    found = []
    handle = cifar.denoiser.register_forward_pre_hook(
        lambda _module, _args, named: found.append(named["class_labels"].tolist()),
        with_kwargs=True,
    )
    yield found
    handle.remove()


def source_of(names, **fields):
    pixels = np.zeros((len(names), 32, 32, 3), np.uint8)
    ids = tuple(f"{name}/0.png" for name in names)
    return ArraySource("made", ids, np.arange(len(names)), tuple(names), pixels, **fields)


def spec_of(**fields):
    return diffeat.ExtractSpec(20, "block.0", pool="1x1", label="class", **fields)


def test_the_network_is_told_the_class_of_that_name(cifar, told, tmp_path):
    assert cifar.class_names[5:7] == ("dog", "frog")
    source = source_of(("dog", "frog"))
    diffeat.extract(cifar, source, spec_of())
    (tmp_path / "m.csv").write_text("class,label\ndog,truck\n")
    diffeat.extract(cifar, source, spec_of(label_map=tmp_path / "m.csv"))
    diffeat.extract(cifar, source, spec_of(), labels=[0, 1])  # by hand: the model's own numbers
    assert told == [[5, 6], [9, 6], [0, 1]]


def test_a_negative_label_is_not_the_last_class(cifar):
    found = Conditions.of_spec(cifar, spec_of(), 2, None, [-1, 0], ("cat", "dog"))
    with pytest.raises(SpecError, match="label -1 is out of range"):
        found([0, 1])


def test_names_are_not_in_the_fingerprint(cifar):
    names = {path.name for path in cifar.files}
    assert names == {
        "config.json", "diffusion_pytorch_model.safetensors", "scheduler_config.json"
    }  # fmt: skip


def test_a_file_says_how_and_another_table_is_another_request(cifar, tmp_path):
    source, path = source_of(("dog", "frog")), tmp_path / "f.h5"

    def run(**fields):
        return diffeat.extract_to_file(cifar, source, spec_of(**fields), path, progress=False)

    assert run().classes == "by name: dog → 5 (dog), frog → 6 (frog)"
    with diffeat.FeatureStore(path) as store:
        assert store.how["classes"] == "by name: dog → 5 (dog), frog → 6 (frog)"
        assert store.pictures["model classes"] == [5, 6]
    (tmp_path / "same.json").write_text('{"dog": 5, "frog": "frog"}')
    (tmp_path / "other.json").write_text('{"dog": 6, "frog": 5}')
    assert run(label_map=tmp_path / "same.json").status == "already complete"
    with pytest.raises(diffeat.DiffeatError, match=r"model classes: \[5, 6\] → \[6, 5\]"):
        run(label_map=tmp_path / "other.json")


@pytest.mark.parametrize(("names", "same"), [(("0", "1"), True), (("dog", "frog"), False)])
def test_a_run_of_0_6_goes_on_only_if_its_classes_are_the_same(cifar, names, same, tmp_path):
    source, path = source_of(names).by_rule(1), tmp_path / "f.h5"
    worker = Worker(Job(cifar.request, source, spec_of(), path), cifar)
    pictures = {k: v for k, v in worker.job.request.pictures.items() if k != "model classes"}
    request = replace(worker.settled.request, pictures=pictures)
    request = replace(request, how={k: v for k, v in request.how.items() if k != "classes"})
    with StoreWriter(path, request, source, worker.job.columns) as writer:
        for batch, rows in worker.batches([(0, 1)]):
            writer.add(batch.span, batch.indices, rows, [])
    again = (cifar, source_of(names), spec_of(), path)
    older = pytest.warns(UserWarning, match="was begun by a version before 0.7")
    if same:
        with older:
            made = diffeat.extract_to_file(*again, progress=False)
        assert (made.status, made.computed) == ("resumed", 1)
    else:
        error = pytest.raises(diffeat.DiffeatError, match=r"\[5, 6\].*went by position there")
        with older, error:
            diffeat.extract_to_file(*again, progress=False)
