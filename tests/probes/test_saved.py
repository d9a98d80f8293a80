"""Heads in one file: every exported class comes back and predicts the same; bad files do not."""

from __future__ import annotations

import inspect
import json
import pickle
import struct
import sys
import warnings

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError

import probes
import probes.aggregate
from probes.checkpoints import write_checkpoint
from probes.dense import DenseHead
from probes.detection import BoxDetector
from probes.saved import HEADS, digest_of
from probes.tensor_files import read_tensors, read_texts, write_tensors

BASES = {"NetworkHead", "NetworkProbe", "BaseEstimator", "PoseAdapter"}
"""Exported classes that are no heads by themselves, or that learn nothing."""
TINY = {"epochs": 2, "batch_size": 8, "progress": False, "random_state": 0}
ATTENTION = {"width": 8, "heads": 2, "depth": 1, "limit": 2, **TINY}
RNG = np.random.default_rng(0)
Y = np.array(["cat", "dog", "owl"])[np.arange(24) % 3]
X = RNG.normal(size=(24, 5)).astype(np.float32) + (np.arange(24) % 3)[:, None]
MAPS = RNG.normal(size=(24, 4, 3, 3)).astype(np.float32)
NUMBERS = X[:, :2] @ RNG.normal(size=(2, 2)) + 3
SEVERAL = (X[:, :3] > X[:, :3].mean(0)).astype(int)
CELLS = {("a", 1): MAPS, ("a", 2): MAPS[::-1].copy(), ("b", 1): MAPS * 2, ("b", 2): -MAPS}
MANY = np.stack([X, X[::-1]])
PAIRS = probes.Pairs([0, 3], [1, 2], [[[1, 2]], [[5, 5], [2, 7]]], [[[4, 4]], [[1, 1], [8, 0]]])

MADE = {
    "LinearProbe": (lambda: probes.LinearProbe(C=0.1), X, Y),
    "RidgeProbe": (lambda: probes.RidgeProbe(alphas=(1.0, 10.0)), X, Y),
    "KNNProbe": (lambda: probes.KNNProbe(n_neighbors=4, standardise=True), X, Y),
    "ManyLogistic": (lambda: probes.ManyLogistic((0.01, 0.1)), MANY, Y),
    "ManyRidge": (lambda: probes.ManyRidge((1.0, 10.0)), MANY, Y),
    "LinearMultilabelProbe": (lambda: probes.LinearMultilabelProbe(C=0.1), X, SEVERAL),
    "RidgeMultilabelProbe": (probes.RidgeMultilabelProbe, X, SEVERAL),
    "RidgeRegressionProbe": (probes.RidgeRegressionProbe, X, NUMBERS),
    "MLPRegressionProbe": (lambda: probes.MLPRegressionProbe(hidden=(), **TINY), X, NUMBERS[:, 0]),
    "MLPMultilabelProbe": (lambda: probes.MLPMultilabelProbe(hidden=(6,), **TINY), X, SEVERAL),
    "MLPProbe": (lambda: probes.MLPProbe(hidden=(7, 6), pool=2, **TINY), MAPS, Y),
    "ConvProbe": (lambda: probes.ConvProbe(channels=(6, 8), **TINY), MAPS, Y),
    "AttentionProbe": (lambda: probes.AttentionProbe(qkv_bias=True, **ATTENTION), MAPS, Y),
    "BatchNormProbe": (lambda: probes.BatchNormProbe(**TINY), MAPS, Y),
    "NoiseConditionalProbe": (lambda: probes.NoiseConditionalProbe(**TINY), X, Y),
    "DifFormerProbe": (lambda: probes.DifFormerProbe(**ATTENTION), CELLS, Y),
    "MixerProbe": (lambda: probes.aggregate.MixerProbe(width=6, **TINY), CELLS, Y),
    "SumCells": (lambda: probes.aggregate.SumCells(weights=(1, 2, 0, 1)), CELLS, None),
    "ConcatCells": (lambda: probes.aggregate.ConcatCells(size=(2, 5)), CELLS, None),
    "PCACells": (lambda: probes.aggregate.PCACells(components=5), CELLS, None),
    "CoPCA": (lambda: probes.aggregate.CoPCA(components=3, scope="set"), CELLS, None),
    "Fusion": (lambda: probes.aggregate.Fusion(weights=(1, 2, 1, 0)), CELLS, None),
    "HyperfeatureMixer": (
        lambda: probes.aggregate.HyperfeatureMixer(width=8, size=3, steps=3, **TINY), CELLS, Y,
    ),
    "SpatialFusion": (
        lambda: probes.aggregate.SpatialFusion(width=8, size=3, steps=3, **TINY), CELLS, Y,
    ),
    "Bottleneck": (
        lambda: probes.aggregate.Bottleneck(width=8, size=3, steps=3, **TINY),
        probes.Cells(CELLS, sizes=[(9, 9)] * 24), PAIRS,
    ),
}  # fmt: skip
"""Exported class → how it is made, features and targets."""


def exported() -> set[str]:
    """Every estimator that the package gives to its users."""
    found = {**vars(probes), **vars(probes.aggregate)}
    return {
        name
        for name, one in found.items()
        if inspect.isclass(one) and issubclass(one, BaseEstimator) and name not in BASES
    }


def fitted(name: str) -> BaseEstimator:
    make, features, targets = MADE[name]
    more = {"t": np.arange(24)} if name == "NoiseConditionalProbe" else {}
    more |= (
        {"objective": "classification"} if name in ("HyperfeatureMixer", "SpatialFusion") else {}
    )
    held = (features[:, :9], targets[:9]) if name.startswith("Many") else ()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return make().fit(features, targets, *held, **more)


def predictions(head: BaseEstimator, name: str) -> list[np.ndarray]:
    more = {"t": 7} if name == "NoiseConditionalProbe" else {}
    verbs = ("predict", "predict_proba", "decision_function")
    verbs = verbs if name != "Bottleneck" else ()  # it matches
    found = [getattr(head, verb)(MADE[name][1], **more) for verb in verbs if hasattr(head, verb)]
    if hasattr(head, "transform"):
        found.append(head.transform(MADE[name][1]).rows(head.key)[:])
    assert found
    return found


def rewritten(path, change, tensors=None):
    """The same file with other metadata."""
    with safe_open(path, "pt") as file:
        head = json.loads(file.metadata()["head"])
    change(head)
    tensors = load_file(path) if tensors is None else tensors
    head.pop("blake2b", None)
    head["blake2b"] = digest_of(head, tensors)  # somebody wrote it so
    save_file(tensors, path, {"head": json.dumps(head)})
    return path


@pytest.fixture
def linear(tmp_path):
    path = tmp_path / "linear.safetensors"
    probes.save(fitted("LinearProbe"), path, {"blocks": ["up.1"]})
    return path


@pytest.fixture
def mlp(tmp_path):
    path = tmp_path / "mlp.safetensors"
    probes.save(fitted("MLPProbe"), path)
    return path


def test_every_exported_estimator_can_be_kept():
    apart = (DenseHead, BoxDetector)  # see dense/ and detection/
    kept = {kind.__name__ for kind in HEADS if not issubclass(kind, apart)}
    assert exported() == kept == set(MADE)


@pytest.mark.parametrize("name", sorted(MADE))
def test_it_comes_back_and_predicts_the_same_bits(name, tmp_path):
    head = fitted(name)
    probes.save(head, tmp_path / "h.safetensors", {"classes": ["é", "b"]})
    back = probes.load(tmp_path / "h.safetensors")
    assert type(back) is type(head)
    assert back.about_ == {"classes": ["é", "b"]}
    for before, after in zip(predictions(head, name), predictions(back, name), strict=True):
        assert before.dtype == after.dtype
        assert before.tobytes() == after.tobytes()
    want = {k: v for k, v in head.get_params().items() if k != "checkpoint"}
    assert {k: v for k, v in back.get_params().items() if k != "checkpoint"} == want
    assert clone(back).get_params() == back.get_params()
    assert not hasattr(clone(back), "n_features_in_")
    names = {n for n in vars(head) if n.endswith("_") and n != "grams_"}
    assert names <= vars(back).keys()
    probes.save(back, tmp_path / "again.safetensors")  # about is kept too
    assert (tmp_path / "again.safetensors").read_bytes() == (
        tmp_path / "h.safetensors"
    ).read_bytes()


@pytest.mark.parametrize("name", sorted(probes.PRESETS))
def test_presets_come_back_with_what_they_mirror(name, tmp_path):
    small = {"width": 8, "heads": 2} if "width" in probes.PRESETS[name].arguments else {}
    small |= {"hidden": (6,)} if probes.PRESETS[name].arguments.get("hidden") else {}
    head = probes.preset(name, epochs=1, progress=False, random_state=0, **small)
    data = CELLS if name == "difformer" else MAPS
    more = {"t": 3} if "noise" in name else {}
    head.fit(data, Y, **more)
    probes.save(head, tmp_path / "p.safetensors")
    back = probes.load(tmp_path / "p.safetensors")
    assert back.augment is head.augment
    assert (back.predict_proba(data, **more) == head.predict_proba(data, **more)).all()


@pytest.mark.parametrize(
    "labels", [np.arange(24) % 2 == 0, np.arange(24) % 3 - 1, np.arange(24) % 3 * 1.0,
               np.array(["a", "b"], object)[np.arange(24) % 2], (np.arange(24) % 3).astype("i2")]
)  # fmt: skip
def test_labels_keep_their_kind(labels, tmp_path):
    head = probes.RidgeProbe().fit(X, labels)
    probes.save(head, tmp_path / "h.safetensors")
    back = probes.load(tmp_path / "h.safetensors")
    assert back.classes_.dtype == head.classes_.dtype
    assert (back.predict(X) == head.predict(X)).all()


def test_a_loaded_head_is_fitted_again(linear):
    again = probes.load(linear).fit(X, Y)
    assert (again.coef_ == fitted("LinearProbe").coef_).all()


def test_a_table_with_column_names(tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X.astype(np.float64), columns=list("abcde"))
    probes.save(probes.RidgeProbe().fit(frame, Y), tmp_path / "h.safetensors")
    assert list(probes.load(tmp_path / "h.safetensors").feature_names_in_) == list("abcde")


class TestSaving:
    def test_the_metadata_are_json_with_the_parts_of_the_contract(self, linear):
        with safe_open(linear, "pt") as file:
            head = json.loads(file.metadata()["head"])
        assert head["format"] == 1
        assert head["class"] == "LinearProbe"
        assert head["parameters"]["C"] == 0.1
        assert head["about"] == {"blocks": ["up.1"]}
        assert head["versions"]["torch"] == torch.__version__

    def test_places_are_not_kept(self, tmp_path):
        head = probes.MLPProbe(hidden=(), checkpoint=tmp_path / "c", device="cpu", **TINY)
        probes.save(head.fit(X, Y), tmp_path / "h.safetensors")
        back = probes.load(tmp_path / "h.safetensors")
        assert (back.checkpoint, back.device) == (None, "auto")

    def test_what_json_does_not_have_is_refused(self, tmp_path):
        head = probes.MLPProbe(hidden=(), augment=lambda batches, rng: batches, **TINY).fit(X, Y)
        with pytest.raises(probes.HeadError, match=r"augment=.*set_params\(augment=None\)"):
            probes.save(head, tmp_path / "h.safetensors")
        probes.save(head.set_params(augment=None), tmp_path / "h.safetensors")
        with pytest.raises(probes.HeadError, match="about"):
            probes.save(head, tmp_path / "h.safetensors", {"a": X})

    def test_other_classes_names_and_unfitted_heads_are_refused(self, tmp_path):
        class Mine(probes.LinearProbe):
            pass

        with pytest.raises(probes.HeadError, match="Mine cannot be kept"):
            probes.save(Mine().fit(X, Y), tmp_path / "h.safetensors")
        with pytest.raises(probes.HeadError, match=r"\.safetensors"):
            probes.save(fitted("LinearProbe"), tmp_path / "h.pkl")
        with pytest.raises(NotFittedError):
            probes.save(probes.LinearProbe(), tmp_path / "h.safetensors")
        assert list(tmp_path.iterdir()) == []

    def test_an_attribute_that_no_form_describes_is_refused(self, tmp_path):
        head = fitted("LinearProbe")
        head.more_ = 3
        with pytest.raises(probes.HeadError, match="more_"):
            probes.save(head, tmp_path / "h.safetensors")

    def test_a_failed_write_leaves_the_old_file(self, linear, monkeypatch):
        before = linear.read_bytes()

        def full(*args):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("probes.tensor_files.os.fsync", full)
        with pytest.raises(OSError, match="No space"):
            probes.save(fitted("RidgeProbe"), linear)
        assert linear.read_bytes() == before
        assert [path.name for path in linear.parent.iterdir()] == [linear.name]


def refused(path, match):
    with pytest.raises(probes.HeadError, match=match) as caught:
        probes.load(path)
    assert isinstance(caught.value, ValueError)
    assert str(path) in str(caught.value)


class TestBadFiles:
    def test_no_file_a_folder_and_other_formats(self, tmp_path):
        refused(tmp_path / "none.safetensors", "no such file")
        refused(tmp_path, "no regular file")
        for content in (b"", b"1234567", b"GIF89a" * 9, pickle.dumps(X), b"\xff" * 64):
            (tmp_path / "x.safetensors").write_bytes(content)
            refused(tmp_path / "x.safetensors", r"no \.safetensors file")

    def test_a_header_of_gigabytes_is_not_read(self, tmp_path):
        (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", 1 << 33) + b"{}")
        refused(tmp_path / "x.safetensors", "8,589,934,592 bytes")

    def test_every_truncation(self, linear):
        whole = linear.read_bytes()
        for end in range(0, len(whole), 97):
            linear.write_bytes(whole[:end])
            refused(linear, r"no \.safetensors file")

    def test_damage_anywhere_is_told(self, linear):
        whole, rng, before = linear.read_bytes(), np.random.default_rng(0), probes.load(linear)
        told = 0
        for _ in range(400):
            damaged, place = bytearray(whole), rng.integers(len(whole))
            damaged[place] ^= rng.integers(1, 256)
            linear.write_bytes(bytes(damaged))
            try:
                after = probes.load(linear)
            except probes.HeadError:
                told += 1
                continue
            assert after.coef_.tobytes() == before.coef_.tobytes()  # a space, say, that is no more
            assert after.get_params() == before.get_params()
        assert told > 390
        damaged = bytearray(whole)
        damaged[-3] ^= 1
        linear.write_bytes(bytes(damaged))
        refused(linear, "damaged")

    def test_weights_and_checkpoints_of_others(self, tmp_path):
        save_file({"a": torch.zeros(2)}, tmp_path / "x.safetensors")
        refused(tmp_path / "x.safetensors", "name no head")
        write_checkpoint(tmp_path / "c.safetensors", {}, {}, {"weights": {"a": torch.zeros(2)}})
        refused(tmp_path / "c.safetensors", "name no head")

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            (lambda head: head.update(format=2), "format 2; expected 1"),
            (lambda head: head.update({"class": "os.system"}), "class 'os.system'; expected one"),
            (lambda head: head.update({"class": ["LinearProbe"]}), "class"),
            (lambda head: head.update(parameters=[1]), "parameters: expected a JSON object"),
            (lambda head: head.pop("about"), "about: expected a JSON object"),
            (lambda head: head["parameters"].update(shell="rm"), "shell"),
            (lambda head: head["parameters"].update(device="cuda"), "device"),
            (lambda head: head["parameters"].update(C={"function": "exec"}), "no parameter"),
            (lambda head: head["parameters"].update(C={"a": 1}), "no parameter"),
            (lambda head: head["fitted"].pop("n_iter_"), "lacks"),
            (lambda head: head["fitted"].update(_device="cpu"), "_device"),
            (lambda head: head["fitted"].update(n_features_in_=7), "D=7"),
            (lambda head: head["fitted"].update(n_features_in_=-1), "whole number"),
            (lambda head: head["fitted"].update(n_features_in_=True), "whole number"),
            (lambda head: head["fitted"].update(classes_={"strings": ["a"]}), "K="),
            (lambda head: head["fitted"].update(classes_={"strings": [1, 2, 3]}), "strings"),
            (lambda head: head["fitted"].update(classes_=7), "strings"),
        ],
    )
    def test_metadata_that_do_not_fit(self, linear, change, match):
        refused(rewritten(linear, change), match)

    @pytest.mark.parametrize(
        ("name", "values", "match"),
        [
            ("coef_", torch.zeros(3, 4), "D=5"),
            ("coef_", torch.zeros(3), "expected"),
            ("coef_", torch.zeros(3, 5, dtype=torch.int64), "int64"),
            ("coef_", torch.full((3, 5), torch.nan), "nan or inf"),
            ("intercept_", torch.tensor([0, torch.inf, 0]), "nan or inf"),
            ("intercept_", None, "intercept_ is missing"),
            ("more", torch.zeros(1), "more"),
        ],
    )
    def test_tensors_that_do_not_fit(self, linear, name, values, match):
        tensors = load_file(linear)
        tensors.pop(name, None)
        if values is not None:
            tensors[name] = values
        refused(rewritten(linear, lambda head: None, tensors), match)

    def test_json_that_is_none(self, linear):
        tensors = load_file(linear)
        for text, match in (("{", "Expecting"), ("[1]", "no JSON object"), ("[" * 10**5, "nested"),
                            ('{"format": NaN}', "NaN")):  # fmt: skip
            save_file(tensors, linear, {"head": text})
            refused(linear, match)

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            (lambda head: head["parameters"].update(hidden=[7, 9]), "expected torch.float32"),
            (lambda head: head["parameters"].update(hidden=[7]), "another module"),
            (lambda head: head["parameters"].update(hidden=[10**9, 10**9]), "expected"),
            (lambda head: head["parameters"].update(hidden=[3] * 10**5), "fewer layers"),
            (lambda head: head["parameters"].update(hidden="abc"), "build no module"),
            (lambda head: head["fitted"].update(shapes_=[[10**6, 10**3, 3]]), "expected"),
            (lambda head: head["fitted"].update(shapes_=[[2**40, 2**40]]), "shapes of rows"),
            (lambda head: head["fitted"].update(shapes_=[]), "shapes of rows"),
            (lambda head: head["fitted"].update(n_outputs_=4), "K=4"),
            (lambda head: head["fitted"].update(n_features_in_=5), "n_features_in_=5"),
            (lambda head: head["parameters"].update(batch_size=1.5), "batch_size"),
            (lambda head: head["parameters"].update(memory_mb="x"), "build no module"),
            (lambda head: head["fitted"].update(history_=[3]), "numbers by epoch"),
            (lambda head: head["fitted"].update(history_=[{"a": "x"}]), "numbers by epoch"),
        ],
    )
    def test_modules_that_do_not_fit(self, mlp, change, match):
        refused(rewritten(mlp, change), match)

    def test_weights_that_do_not_fit(self, mlp):
        whole = load_file(mlp)
        key = "module_/3.weight"
        for values, match in (
            (whole[key].double(), "float64"), (whole[key][:1], "expected"),
            (whole[key] * torch.nan, "nan or inf"), (None, "another module"),
        ):  # fmt: skip
            tensors = {**whole, key: values}
            if values is None:
                tensors.pop(key)
            refused(rewritten(mlp, lambda head: None, tensors), match)

    def test_many_layers_take_no_time(self, tmp_path):
        path = tmp_path / "a.safetensors"
        probes.save(fitted("AttentionProbe"), path)
        refused(rewritten(path, lambda head: head["parameters"].update(depth=10**9)), "fewer")

    def test_neighbours_that_do_not_fit(self, tmp_path):
        path = tmp_path / "k.safetensors"
        probes.save(fitted("KNNProbe"), path)
        whole = load_file(path)
        tensors = {**whole, "_targets": whole["_targets"] + 1}
        refused(rewritten(path, lambda head: None, tensors), "do not fit")
        for k in (25, 0, 1.5, None, "x"):
            rewritten(path, lambda head, k=k: head["parameters"].update(n_neighbors=k), whole)
            refused(path, "do not fit")
        rewritten(path, lambda head: head["parameters"].update(temperature=[1]), whole)
        refused(path, "temperature|not supported|do not fit")

    def test_no_code_runs(self, linear, tmp_path):
        before = set(sys.modules)
        refused(rewritten(linear, lambda head: head.update({"class": "antigravity.x"})), "class")
        assert "antigravity" not in set(sys.modules) - before


def test_equal_contents_are_equal_bytes(tmp_path):
    """Whatever order the library writes the metadata in."""
    texts = {f"text {k}": f'é\n"{k}"' for k in range(12)}
    found = set()
    for k in range(4):
        path = tmp_path / f"{k}.safetensors"
        turned = dict(sorted(texts.items(), reverse=k % 2 == 0))
        write_tensors(path, {"b": torch.ones(3), "a": torch.zeros(2, dtype=torch.int8)}, turned)
        found.add(path.read_bytes())
        assert read_texts(path) == texts
    assert len(found) == 1
    assert read_tensors(path)["b"].tolist() == [1, 1, 1]
