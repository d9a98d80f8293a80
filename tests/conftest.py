"""Tiny pipelines on disk, each built once per test run."""

from __future__ import annotations

import gc
import multiprocessing
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import diffeat as package
from diffeat import progress
from diffeat.backbones import Backbone
from tests.command import command
from tests.pipelines import BUILDERS, Plain, build

torch.set_num_threads(1)  # the models here are so small that threads only wait for each other


def pytest_collection_finish() -> None:
    """Spare the garbage collector what the imports left, which it would look at again and again."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """What was spared may go, so that nothing is said to leak."""
    gc.unfreeze()


def pytest_runtest_setup() -> None:
    """A test's progress has a minute of its own, as that of a command has."""
    vars(progress._of_thread).clear()


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory) -> Callable[[str], Path]:
    """Pipeline folder by name; never write into it, see `copy_of`."""
    root, built = tmp_path_factory.mktemp("pipelines"), {}

    def folder(name: str) -> Path:
        if name not in built:
            built[name] = build(name, root / name)
        return built[name]

    return folder


@pytest.fixture
def copy_of(folder_of, tmp_path) -> Callable[[str], Path]:
    """A pipeline folder that a test may damage."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(folder_of(name), tmp_path / f"copy-{name}"))

    return copy


@pytest.fixture(scope="session")
def backbone_of(folder_of) -> Callable[[str], Backbone]:
    """Backbone in fp32 on the CPU by name; leave it as it is."""
    loaded = {}

    def backbone(name: str) -> Backbone:
        if name not in loaded:
            loaded[name] = package.load(str(folder_of(name)), device="cpu", dtype="float32")
        return loaded[name]

    return backbone


@pytest.fixture(scope="session")
def plain_of(folder_of) -> Callable[[str], Plain]:
    """The same pipeline without diffeat, by name."""
    loaded = {}

    def plain(name: str) -> Plain:
        return loaded.setdefault(name, Plain(name, folder_of(name)))

    return plain


@pytest.fixture
def diffeat(monkeypatch, capsys):
    """The `diffeat` command, run in this process: diffeat("info", file) → code, out, err."""
    with command(monkeypatch, capsys) as run:
        yield run


@pytest.fixture(scope="session")
def server():
    """Starts processes that have imported everything already; otherwise like spawn."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.engines.preload"])
    return context


@pytest.fixture(params=BUILDERS)
def name(request) -> str:
    """Every pipeline of `tests.pipelines`."""
    return request.param
