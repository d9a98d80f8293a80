"""Joined files keep what their pictures were told."""

from __future__ import annotations

import numpy as np
import pytest

from diffeat.conditioned import conditioned
from diffeat.errors import DiffeatError
from diffeat.store import FeatureStore, merge_files
from tests.search.test_conditioned import tell


def test_embeddings_of_one_row_each_are_not_one_row_for_all(job, tmp_path):
    def made(name, conditions, rows):
        one = job(name, count=4, ids=tuple(f"{name}{k}" for k in range(4)))
        pictures = {"conditions": conditions, "embedding rows": rows}
        return tell(one.write(), {"embeddings": "e.safetensors"}, pictures)

    cats, more, dogs = made("a.h5", "x", 1), made("b.h5", "x", 1), made("c.h5", "y", 1)
    with FeatureStore(merge_files([cats, more], tmp_path / "one.h5")) as store:
        assert conditioned(store.spec, store.pictures) == ""
    with FeatureStore(merge_files([cats, dogs], tmp_path / "two.h5")) as store:
        assert conditioned(store.spec, store.pictures) == "embeddings per picture"


def test_classes_that_are_joined_keep_the_models(job, tmp_path):
    def made(name, names, classes):
        labels, ids = np.arange(4) % 2, tuple(f"{name}{k}" for k in range(4))
        one = job(name, count=4, ids=ids, labels=labels, class_names=names)
        told = {"label": "class", "label_map": f"{name}.csv"}
        return tell(one.write(), told, {"model classes": classes})

    first = made("a.h5", ("cat", "dog"), [3, 5])
    second = made("b.h5", ("dog", "owl"), [5, 2])
    other = made("c.h5", ("dog", "owl"), [4, 2])
    with FeatureStore(merge_files([first, second], tmp_path / "ab.h5")) as store:
        assert store.class_names == ["cat", "dog", "owl"]
        assert store.pictures["model classes"] == [3, 5, 2]
        assert conditioned(store.spec, store.pictures) == "label=class"
    with pytest.raises(DiffeatError, match=r"'dog' was the model's class 4 .* and 5"):
        merge_files([first, other], tmp_path / "ac.h5")
