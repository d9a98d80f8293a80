"""The examples of docs/learned.md run, on tiny models."""

from __future__ import annotations

import re
from pathlib import Path

import diffeat
from tests.adapt.toys import shifted_pairs

PAGE = Path(diffeat.__file__).parent.parent / "docs" / "learned.md"


def test_the_examples_run(folder_of, tmp_path, monkeypatch, capsys):
    train, held = shifted_pairs(8, 1), shifted_pairs(4, 2)
    pictures, others = train.pictures().take(range(8)), held.pictures().take(range(4))
    given = {
        "MODEL": folder_of("sd2"), "BLOCK": "down.0.attn.1", "T": 20,
        "MAPS": ("down.0.attn.*:cross.map",), "train": train, "held": held,
        "pictures": pictures, "others": others, "picture": pictures.load(0),
        "other": pictures.load(1),
    }  # fmt: skip
    monkeypatch.chdir(tmp_path)
    examples = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    assert len(examples) == 3
    for example in examples:
        exec(example, given)
    assert len(given["found"]) == 1
    assert given["features"].levels[0].t == given["clean"].backbone_.learned_t
    assert given["clean"].score(others) > given["clean"].start_["validation_similarity"]
    assert {path.name for path in tmp_path.iterdir()} == {
        "prompt.safetensors", "points.safetensors", "clean",
    }  # fmt: skip
    assert len(capsys.readouterr().out.splitlines()) >= 2


def test_every_class_is_told():
    text = PAGE.read_text(encoding="utf-8")
    for name in ("PromptTuning", "PointPrompts", "CleanDIFT"):
        assert f"`{name}`" in text
        assert hasattr(__import__("diffeat.adapt").adapt, name)
