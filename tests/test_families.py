"""docs/families.md says what every family can do; here each cell is tried."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import diffeat
from diffeat.backbones import FAMILIES
from diffeat.errors import SpecError
from diffeat.hooks import HookManager, Tap
from tests.pipelines import levels, pictures

DOCS = Path(__file__).parent.parent / "docs" / "families.md"
# one tiny pipeline per family; a family with labels also where only some of its models have them
MODELS = {
    "pixel-unet": ("pixel", "pixel-classes"),
    "adm": ("adm", "adm-classes"),
    "edm": ("edm",),
    "stable-diffusion": ("sd1", "sd2"),
    "sdxl": ("sdxl",),
    "dit": ("dit", "dit-pixels"),
    "sit": ("sit",),
    "pixart": ("pixart-alpha", "pixart-sigma"),
    "sd3": ("sd3", "sd35"),
    "flux": ("flux", "flux-schnell"),
    "auraflow": ("auraflow",),
}


def run(backbone, name, blocks="all", timesteps=None, **options):
    """Features of one picture; the model's own class, where it needs one."""
    t = levels(name)[-1] if timesteps is None else timesteps
    if backbone.classes is not None and backbone.null_class is None:
        options.setdefault("label", 1)
    spec = diffeat.ExtractSpec(t, blocks, dtype="float32", **options)
    return diffeat.extract(backbone, pictures(1), spec)


def kind(pattern):
    return lambda backbone, name: run(backbone, name, pattern)


def prompt(backbone, name):
    one, other = (run(backbone, name, prompt=text) for text in ("a cat", "dog"))
    assert any(not torch.equal(one[key], other[key]) for key in one)


def label(backbone, name):
    one, other = (run(backbone, name, label=k) for k in (1, 2))
    assert any(not torch.equal(one[key], other[key]) for key in one)


def null_class(backbone, name):
    if backbone.null_class is None:
        raise SpecError("it has none")
    run(backbone, name, label=None)


def trajectory(noise):
    def walk(backbone, name):
        t = backbone.schedule.grid(4)[2].t
        run(backbone, name, timesteps=t, noise=noise, steps=4)

    return walk


def rectangles(backbone, name):
    spec = {} if backbone.classes is None or backbone.null_class is not None else {"label": 1}
    wide = diffeat.ExtractSpec(levels(name)[0], "net:x0", **spec)
    assert diffeat.extract(backbone, pictures(1, (32, 48)), wide)


def edited(backbone, name):
    """All weight on one key, in the first attention that has a map: the prediction moves."""
    path = next(b.path for b in backbone.tensors if b.is_attention)
    plain = run(backbone, name, "net:x0")
    edit = {Tap(path, "attention"): lambda p: torch.eye(p.shape[-1])[0].expand_as(p)}
    with HookManager(backbone.denoiser, {}, edits=edit):
        moved = run(backbone, name, "net:x0")
    assert any(not torch.equal(plain[key], moved[key]) for key in plain)


CAPABILITIES = {
    "block outputs": kind("all"),
    "resnet in, increment": kind(("*.*.res.*:in", "*.*.res.*:increment")),
    "skip, trunk": kind(("*.*.res.*:skip", "*.*.res.*:trunk")),
    "before resampling": kind("*.*:pre"),
    "block in": kind("block.*:in"),
    "self q, k, v": kind(("**:self.q", "**:self.k", "**:self.v")),
    "self z": kind("**:self.z"),
    "self map": kind("**:self.map"),
    "single heads": kind(("**:self.q.h*", "**:self.z.h0", "**:self.map.h1")),
    "edited attention": edited,
    "cross q": kind("**:cross.q"),
    "cross k, v": kind(("**:cross.k", "**:cross.v")),
    "cross z": kind("**:cross.z"),
    "cross map": kind("**:cross.map"),
    "text q, t2i map": kind(("**:text.q", "**:t2i.map")),
    "registers": kind("**:register.map"),
    "ff inner": kind("**:ff.inner"),
    "adaln": kind("**:adaln"),
    "text stream": kind("**:text"),
    "net in, out, x0": kind("net:*"),
    "VAE stages": kind("vae.**"),
    "prompts": prompt,
    "labels": label,
    "null class": null_class,
    "inversion": trajectory("inversion"),
    "generation": trajectory("generation"),
    "not square": rectangles,
}


def table() -> dict[tuple[str, str], str]:
    """(capability, family) → cell of the table in the docs."""
    rows = [line for line in DOCS.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    head, body = cells[0], cells[2:]
    assert all(re.fullmatch(":?-+:?", cell) for cell in cells[1])
    return {(row[0], family): cell for row in body
            for family, cell in zip(head[1:], row[1:], strict=True)}  # fmt: skip


def test_the_table_has_every_family_and_capability():
    cells = table()
    assert {family for _, family in cells} == {f.family for f in FAMILIES} == set(MODELS)
    assert {capability for capability, _ in cells} == set(CAPABILITIES)
    assert set(cells.values()) <= {"yes", "some", "no"}


@pytest.mark.parametrize("family", MODELS)
def test_every_cell_is_true(family, backbone_of):
    cells = table()
    for capability, attempt in CAPABILITIES.items():
        worked = []
        for name in MODELS[family]:
            try:
                attempt(backbone_of(name), name)
                worked.append(True)
            except SpecError:
                worked.append(False)
        found = "yes" if all(worked) else "some" if any(worked) else "no"
        assert cells[capability, family] == found, capability
