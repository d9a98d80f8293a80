"""`diffeat segment`: one way at a time, and options of that way."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "none of them; expected one: --head"),
        (("--words", "cat", "--parts", "diffcut"), "--words and --parts; expected one"),
        (("--head", "h.safetensors", "--words", "cat"), "--head and --words; expected one"),
        (("--words", "cat", "--uncertainty"), "--uncertainty is for --head, not for --words"),
        (("--parts", "diffcut", "--background", "0.4"), "is for --words, not for --parts"),
        (("--words", "cat", "--threshold", "0.5"), "is for --parts, not for --words"),
        (("--head", "h.safetensors", "-t", "20"), "a head knows its features"),
        (("--parts", "difcut"), "'difcut' is not one of"),
    ],
)
def test_ways_do_not_mix(diffeat, tmp_path, monkeypatch, arguments, told):
    monkeypatch.chdir(tmp_path)
    answer = diffeat("segment", "pictures", *arguments, "-o", "masks")
    assert answer.code == 2
    assert told in " ".join(answer.err.split())
    assert not list(tmp_path.glob("masks/*"))
