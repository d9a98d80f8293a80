import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from diffeat import errors
from diffeat.errors import (
    DiffeatError,
    HookError,
    PictureError,
    SpecError,
    brief,
    nearest,
    reason_of,
)


@pytest.mark.parametrize(
    ("name", "builtin", "exit_code"),
    [
        ("SpecError", ValueError, 2),
        ("ModelError", OSError, 1),
        ("DeviceError", RuntimeError, 1),
        ("SourceError", ValueError, 1),
        ("PictureError", ValueError, 1),
        ("HookError", KeyError, 1),
        ("StoreError", OSError, 1),
        ("SpecMismatch", OSError, 1),
        ("NameTaken", ImportError, 1),
        ("NumericsError", ArithmeticError, 1),
    ],
)
def test_errors_are_also_the_builtin_that_a_caller_would_catch(name, builtin, exit_code):
    kind = getattr(errors, name)
    assert issubclass(kind, DiffeatError)
    assert issubclass(kind, builtin)
    assert kind.exit_code == exit_code


def test_every_error_is_covered_above():
    kinds = {
        name
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, Exception) and kind is not DiffeatError
    }
    assert len(kinds) == 10


def test_spec_mismatch_is_a_store_error():
    assert issubclass(errors.SpecMismatch, errors.StoreError)


@pytest.mark.parametrize("again", [copy.copy, lambda e: pickle.loads(pickle.dumps(e))])
def test_picture_error_survives_being_sent_to_another_process(again):
    error = again(PictureError("cat/1.png", "truncated"))
    assert type(error) is PictureError
    assert (error.picture, error.reason) == ("cat/1.png", "truncated")
    assert str(error) == "picture 'cat/1.png': truncated"


@pytest.mark.parametrize("kind", [SpecError, HookError, errors.StoreError])
def test_other_errors_survive_pickling(kind):
    error = pickle.loads(pickle.dumps(kind("what to do")))
    assert type(error) is kind
    assert str(error) == "what to do"


def test_hook_error_shows_its_message_without_quotes():
    assert str(HookError("no tap 'a'")) == "no tap 'a'"


def test_nearest_says_what_was_probably_meant():
    assert nearest("up.l", ["up.1", "down.0"]) == " (did you mean 'up.1'?)"
    hint = nearest("block.1x", ["block.1", "block.2", "block.11", "block.12", "mid"])
    assert hint.count(" or ") == 2
    assert "'block.1'" in hint
    assert "mid" not in hint


def test_nearest_is_silent_where_nothing_is_like_it():
    assert nearest("qqq", ["up.1", "mid"]) == ""
    assert nearest("up", []) == ""


def test_errors_of_the_system_say_their_reason_alone():
    with pytest.raises(FileNotFoundError) as caught:
        Path("/nowhere/at-all").read_text()
    assert reason_of(caught.value) == "No such file or directory"
    assert reason_of(ValueError("no JSON")) == "no JSON"
    assert reason_of(OSError("a broken file")) == "a broken file"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (torch.rand(2, 3), "Tensor (2, 3) float32"),
        (np.zeros((4, 1), np.uint8), "ndarray (4, 1) uint8"),
        (np.float64(0.5), "0.5"),
        (torch.tensor(7), "7"),
        ("up.1", "'up.1'"),
        ([1, 2], "[1, 2]"),
        (list(range(9)), "list of 9"),
        ([torch.rand(2)], "list of 1"),
        ({"a": (np.zeros(3),)}, "dict of 1"),
        ("x" * 200, "'" + "x" * 76 + "…"),
    ],
)
def test_values_in_messages_are_short(value, shown):
    assert brief(value) == shown
