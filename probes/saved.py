"""A head in one .safetensors file: fitted arrays, and in the metadata JSON. No pickle, no code.

    metadata["head"]    JSON: format, class, parameters, fitted, about, versions; blake2b, a hash of
                        all that and of all tensors, which tells damage
    ATTRIBUTE           fitted arrays, such as coef_; of a torch module module_/NAME

The class is looked up in a table. Strings as labels stand in the JSON.
"""

from __future__ import annotations

import hashlib
import json
import numbers
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import sklearn
import torch
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from probes import fitted as forms
from probes.aggregate.base import Aggregator
from probes.aggregate.bottleneck import Bottleneck
from probes.aggregate.co_pca import CoPCA
from probes.aggregate.fusing import Fusion
from probes.aggregate.hyperfeatures import OBJECTIVES, HyperfeatureMixer
from probes.aggregate.mixer import MixerProbe
from probes.aggregate.reductions import ConcatCells, PCACells, SumCells
from probes.aggregate.spatial import SpatialFusion
from probes.attention import AttentionProbe
from probes.augment import mirror_crop_scale, random_crop_scale
from probes.batchnorm import BatchNormProbe
from probes.conv import ConvProbe
from probes.dense.depth import DepthHead
from probes.dense.dpt import DPTHead
from probes.dense.ensemble import PixelMLPEnsemble
from probes.dense.fpn import FPNHead
from probes.dense.k_means import KMeansSegmenter
from probes.dense.linear import PixelLinear
from probes.dense.mean_depth import MeanDepth
from probes.dense.nearest_mean import NearestMean
from probes.dense.position import MeanMask
from probes.dense.regression import PixelRegression
from probes.detection.detector import BoxDetector
from probes.difformer import DifFormerProbe
from probes.fitted import (
    Array,
    Form,
    HeadError,
    Labels,
    Module,
    Number,
    Sizes,
    Whole,
    rebuild,
)
from probes.knn import KNNProbe
from probes.linear import LinearProbe
from probes.many import ManyLogistic
from probes.mlp import MLPProbe
from probes.multilabel import LinearMultilabelProbe, MLPMultilabelProbe, RidgeMultilabelProbe
from probes.network import NetworkHead
from probes.noise_conditional import NoiseConditionalProbe
from probes.regression import MLPRegressionProbe, RidgeRegressionProbe
from probes.ridge import ManyRidge, RidgeProbe
from probes.tensor_files import Tensors, parse_json, read_tensors, read_texts, write_tensors
from probes.training import mirror

FORMAT = 1
PLACES = ("device", "checkpoint")
"""Parameters that say where something was done: a file is for other machines too."""
PASSING = ("_device", "_metadata_request", "grams_", "about_")
"""Attributes that are not fitted, or needed for more training only."""
FUNCTIONS = MappingProxyType({
    "mirror": mirror, "random_crop_scale": random_crop_scale,
    "mirror_crop_scale": mirror_crop_scale,
})  # fmt: skip
"""Functions that a parameter may be, by name."""

_SEEN = {"n_features_in_": Whole("D"), "feature_names_in_": Labels("D", optional=True)}
_LINEAR = {**_SEEN, "coef_": Array("KD"), "intercept_": Array("K")}
_ALPHA = {"alpha_": Number(), "alphas_": Array("P")}
_SCORED = {**_ALPHA, "scores_": Array("P", gaps=True)}
_NUMBERS = {**_SEEN, "coef_": Array("MD"), "intercept_": Array("M"), "_flat": forms.Flag()}
_NETWORK = {
    **_SEEN, "shapes_": forms.RowShapes(), "n_outputs_": Whole("K"), "module_": Module(),
    "history_": forms.History(), "n_epochs_": Whole(), "best_epoch_": Whole(maybe=True),
}  # fmt: skip
_CLASSES = {**_NETWORK, "classes_": Labels()}
_CELLS = {**_CLASSES, "cells_": forms.CellKeys()}
_MANY = {
    "n_features_in_": Whole("D"), "classes_": Labels(), "penalties_": Array("P"),
    "path_": Array("PG", gaps=True), "penalty_": Array("G"), "validation_": Array("G"),
    "coef_": Array("GKD"), "intercept_": Array("GK"),
}  # fmt: skip
_KNN = {
    **_SEEN, "classes_": Labels(), "_targets": Array("N", "i"), "_rows": forms.Table(),
    "mean_": Array("D", optional=True), "factor_": Array("D", optional=True),
}  # fmt: skip
_MAPS = {"cells_": forms.CellKeys(), "shapes_": forms.RowShapes()}
_AXES = {"mean_": Array("C", optional=True), "components_": Array("PC", optional=True)}
_SHARES = {"explained_variance_": Array("P"), "explained_variance_ratio_": Array("P")}
_IGNORE = Whole(least=-(1 << 63), most=1 << 63)  # any label that a mask can hold
_MIXED = {
    **_NETWORK, "cells_": forms.CellKeys(), "objective_": forms.Choice(tuple(OBJECTIVES)),
    "classes_": Labels(optional=True), "scale_": forms.Scale(optional=True), "left_out_": Whole(),
    "ignore_": replace(_IGNORE, optional=True), "seen_": Array("K", "b", optional=True),
    "train_size_": forms.Size(optional=True),
}  # fmt: skip
_MASKS = {
    **_MAPS, "classes_": Labels(), "ignore_": _IGNORE, "seen_": Array("K", "b"),
}  # fmt: skip

_GRID = {**_NETWORK, "cells_": forms.CellKeys(), "train_size_": forms.Size()}
_SEGMENTED = {**_GRID, **_MASKS, "class_weights_": Array("K")}

HEADS: Mapping[type[BaseEstimator], Mapping[str, Form]] = MappingProxyType({
    LinearProbe: {**_LINEAR, "classes_": Labels(), "n_iter_": Whole()},
    RidgeProbe: {**_LINEAR, **_ALPHA, "classes_": Labels(), "gcv_": Array("P", gaps=True)},
    KNNProbe: _KNN,
    ManyLogistic: {**_MANY, "n_iter_": Array("PG", "i")},
    ManyRidge: _MANY,
    LinearMultilabelProbe: {**_LINEAR, "n_iter_": Array("K", "i")},
    RidgeMultilabelProbe: {**_LINEAR, **_SCORED},
    RidgeRegressionProbe: {**_NUMBERS, **_SCORED},
    MLPRegressionProbe: {**_NETWORK, "n_outputs_": Whole("M"), "scale_": forms.Scale()},
    MLPMultilabelProbe: _NETWORK,
    MLPProbe: _CLASSES,
    ConvProbe: _CLASSES,
    AttentionProbe: _CLASSES,
    BatchNormProbe: _CLASSES,
    NoiseConditionalProbe: _CLASSES,
    DifFormerProbe: _CELLS,
    MixerProbe: _CELLS,
    SumCells: _MAPS,
    ConcatCells: _MAPS,
    PCACells: {**_MAPS, **_AXES, **_SHARES},
    CoPCA: {**_MAPS, **_AXES},
    Fusion: {**_MAPS, "groups_": Array("S", "i")},
    HyperfeatureMixer: _MIXED,
    SpatialFusion: _MIXED,
    Bottleneck: _MIXED,
    BoxDetector: {**_CELLS, "input_size_": Array("I", "i")},
    PixelLinear: {
        **_MASKS, "coef_": Array("KC"), "intercept_": Array("K"), "alpha_": Number(),
        "scores_": Array("P", gaps=True),
    },
    PixelRegression: {
        **_MAPS, "coef_": Array("MC"), "intercept_": Array("M"), "alpha_": Number(),
        "scores_": Array("P", gaps=True), "range_": Array("R"),
    },
    NearestMean: {**_MASKS, "means_": Array("KC")},
    PixelMLPEnsemble: {**_NETWORK, **_MASKS},
    KMeansSegmenter: {
        **_MASKS, "weight_": Array("GC"), "bias_": Array("G"), "names_": Array("G", "i")
    },
    MeanMask: {**_MASKS, "shares_": Array("KPP")},
    MeanDepth: {**_MAPS, "depths_": Array("MPP")},
    FPNHead: _SEGMENTED,
    DPTHead: _SEGMENTED,
    DepthHead: {**_GRID, "n_outputs_": Whole("B"), "max_depth_": Number()},
})  # fmt: skip
"""Every head that can be kept → its fitted attributes."""
MIXERS = (HyperfeatureMixer, SpatialFusion)
"""What may stand before a head, as its parameter."""
CLASSES = MappingProxyType({head.__name__: head for head in HEADS})


def save(
    estimator: BaseEstimator, path: str | Path, about: Mapping[str, Any] | None = None
) -> None:
    """Keep a fitted head as one .safetensors file, written whole or not at all.

    Where it ran (`device`, `checkpoint`) is not kept. Rows that a `KNNProbe` has in a file are
    read and kept too.

    Args:
        estimator: one of the heads of this package.
        path: ends in .safetensors.
        about: what the features were and what the classes are called, as plain JSON values; None
            keeps the `about_` of a head that was loaded.

    Raises:
        HeadError: another class, a parameter or label that JSON does not have, another suffix.
        NotFittedError: it is not fitted.
    """
    kind, path = type(estimator), Path(path)
    if path.suffix != ".safetensors":
        raise HeadError(f"{path}: expected a name that ends in .safetensors")
    if kind not in HEADS:
        raise HeadError(f"{kind.__name__} cannot be kept; expected one of {', '.join(CLASSES)}")
    check_is_fitted(estimator)
    about = getattr(estimator, "about_", {}) if about is None else dict(about)
    tensors: Tensors = {}
    text = {
        "format": FORMAT,
        "class": kind.__name__,
        "parameters": _parameters(estimator),
        "fitted": _fitted(estimator, HEADS[kind], tensors),
        "about": about,
        "versions": {"torch": torch.__version__, "scikit-learn": sklearn.__version__},
    }
    try:
        text["blake2b"] = digest_of(text, tensors)
    except (TypeError, ValueError) as error:
        raise HeadError(f"about: {error}; expected plain JSON values") from error
    write_tensors(path, tensors, {"head": json.dumps(text)})


def digest(estimator: BaseEstimator) -> str:
    """BLAKE2b-128 of what a fitted head is: its class, parameters and fitted arrays.

    Where it ran and what was noted of it play no part, so a head that was kept and loaded has the
    digest that it had before.

    Raises:
        HeadError: as `save`.
        NotFittedError: it is not fitted.
    """
    kind = type(estimator)
    if kind not in HEADS:
        raise HeadError(f"{kind.__name__} cannot be kept; expected one of {', '.join(CLASSES)}")
    check_is_fitted(estimator)
    tensors: Tensors = {}
    fitted = _fitted(estimator, HEADS[kind], tensors)
    text = {"class": kind.__name__, "parameters": _parameters(estimator), "fitted": fitted}
    return digest_of(text, tensors)


def digest_of(text: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> str:
    """BLAKE2b-128 of the JSON and of every tensor's name, dtype, shape and bytes."""
    plain = json.dumps(text, sort_keys=True, allow_nan=False)
    hasher = hashlib.blake2b(plain.encode(), digest_size=16)
    for name, value in sorted(tensors.items()):
        value = value.detach().cpu().contiguous()
        hasher.update(f"\0{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        hasher.update(memoryview(value.reshape(-1).view(torch.uint8).numpy()))
    return hasher.hexdigest()


def _fitted(estimator: BaseEstimator, known: Mapping[str, Form], tensors: Tensors) -> dict:
    """JSON of the fitted attributes; arrays go to `tensors`."""
    values, parameters = vars(estimator), estimator.get_params(deep=False)
    missing = [name for name, form in known.items() if name not in values and not form.optional]
    more = values.keys() - known.keys() - parameters.keys() - {*PASSING}
    if missing or more:
        raise HeadError(
            f"{type(estimator).__name__} lacks {missing} and has {sorted(more)}, which no form "
            "describes; fit it by `fit` alone, and add no attributes"
        )
    return {name: form.write(values[name], name, tensors) for name, form in known.items()
            if name in values}  # fmt: skip


def _parameters(estimator: BaseEstimator) -> dict[str, Any]:
    """Parameters as JSON; HeadError names one that is none."""
    found = {}
    for name, value in estimator.get_params(deep=False).items():
        if name in PLACES:
            continue
        try:
            found[name] = _plain(value)
        except TypeError as error:
            raise HeadError(
                f"{name}={value!r:.60} cannot be kept ({error}); predictions do without it: "
                f"set_params({name}=None) before"
            ) from None
    return found


def _plain(value: Any) -> Any:
    """A parameter as JSON: sequences as lists, functions by name."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, numbers.Integral | numbers.Real):
        return int(value) if isinstance(value, numbers.Integral) else float(value)
    if isinstance(value, tuple | list | range):
        return [_plain(one) for one in value]
    named = [name for name, function in FUNCTIONS.items() if function is value]
    if named:
        return {"function": named[0]}
    if type(value) in MIXERS:
        return {"estimator": type(value).__name__, "parameters": _parameters(value)}
    raise TypeError(f"{type(value).__name__} is no plain value")


def load(path: str | Path, device: str = "auto") -> BaseEstimator:
    """A head that was kept; it predicts what it did, to the bit on the same kind of machine.

    Reading it runs no code of the file. Sequences among the parameters are tuples; `about_` is
    what was noted of it, as plain values.

    Args:
        device: its parameter, which the file does not have.

    Returns:
        The fitted estimator, with `about_`.

    Raises:
        HeadError: no such file, none of a head, of a later format, damaged, or one whose parts do
            not fit together.
    """
    path = Path(path)
    if not path.exists():
        raise HeadError(f"{path}: no such file; expected a head that was kept (.safetensors)")
    try:
        texts = read_texts(path)
        if "head" not in texts:
            raise HeadError("its metadata name no head")
        text = parse_json(texts["head"])
        kind, tensors = _kind(text), read_tensors(path)
        if text.pop("blake2b", None) != digest_of(text, tensors):
            raise HeadError("it is damaged: its checksum is another")
        return _filled(kind, text, tensors, device)
    except (ValueError, TypeError, OSError) as error:
        raise HeadError(f"{path} holds no head that can be loaded: {error}") from error


def _kind(text: Any) -> type[BaseEstimator]:
    """The class of a head, from the table."""
    if not isinstance(text, dict):
        raise HeadError("its metadata are no JSON object")
    if text.get("format") != FORMAT:
        raise HeadError(f"format {text.get('format')!r:.60}; expected {FORMAT}")
    name = text.get("class")
    if not isinstance(name, str) or name not in CLASSES:
        raise HeadError(f"class {name!r:.60}; expected one of {', '.join(CLASSES)}")
    for part in ("parameters", "fitted", "about"):
        if not isinstance(text.get(part), dict):
            raise HeadError(f"{part}: expected a JSON object")
    return CLASSES[name]


def _filled(
    kind: type[BaseEstimator], text: dict[str, Any], tensors: Tensors, device: str
) -> BaseEstimator:
    """The estimator with its parameters and fitted attributes."""
    known, stored = HEADS[kind], text["fitted"]
    parameters = {name: _meant(value) for name, value in text["parameters"].items()}
    if unknown := parameters.keys() - {*kind._get_param_names()} | parameters.keys() & {*PLACES}:
        raise HeadError(f"parameters {sorted(unknown)!r:.60}; {kind.__name__} has none such")
    missing = [name for name, form in known.items() if name not in stored and not form.optional]
    if missing or stored.keys() - known.keys():
        raise HeadError(f"lacks {missing} and has {sorted(stored.keys() - known.keys())!r:.60}")
    estimator, sizes = kind(**parameters, device=device), Sizes()
    for name, form in known.items():
        if name in stored:
            setattr(estimator, name, form.read(stored[name], name, tensors, sizes))
    if tensors:
        raise HeadError(f"{sorted(tensors)[0]!r:.60} and {len(tensors) - 1} other tensors are of "
                        f"no attribute of {kind.__name__}")  # fmt: skip
    if isinstance(estimator, NetworkHead):
        estimator.module_ = rebuild(estimator, estimator.module_)
    if isinstance(estimator, (KNNProbe, Aggregator)):
        estimator._restore()
    estimator.about_ = text["about"]
    return estimator


def _meant(value: Any) -> Any:
    """The reverse of `_plain`."""
    if isinstance(value, list):
        return tuple(map(_meant, value))
    if isinstance(value, dict) and value.keys() == {"estimator", "parameters"}:
        return _mixer(value)
    if isinstance(value, dict):
        name = value.get("function")
        if not isinstance(name, str) or name not in FUNCTIONS or len(value) > 1:
            raise HeadError(f"{value!r:.60} is no parameter")
        return FUNCTIONS[name]
    return value


def _mixer(value: dict[str, Any]) -> BaseEstimator:
    """A mixer that is a parameter, not fitted."""
    known = {kind.__name__: kind for kind in MIXERS}
    name, parameters = value["estimator"], value["parameters"]
    kind = known.get(name) if isinstance(name, str) else None
    if kind is None or not isinstance(parameters, dict):
        raise HeadError(f"{value!r:.60} is no parameter")
    if unknown := parameters.keys() - {*kind._get_param_names()} | parameters.keys() & {*PLACES}:
        raise HeadError(f"parameters {sorted(unknown)!r:.60}; {name} has none such")
    return kind(**{key: _meant(one) for key, one in parameters.items()})
