"""A whole extraction to a file on a device that is claimed: decoded ahead, fetched behind."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

import diffeat
from tests.extraction.common import spec
from tests.vision.conftest import pictures


@pytest.mark.parametrize("options", [{}, {"flip": True, "tile": 16}], ids=["whole", "views"])
def test_the_file_is_that_of_the_cpu(options, backbone_of, claimed_backbone, tmp_path, mode):
    """Every row of every data set, of three batches, the last one smaller."""
    source, asked = pictures(7), spec("pixel", ("mid", "up.1"), (600, 30), **options)
    for name, backbone in (("cpu", backbone_of("pixel")), ("cuda", claimed_backbone("pixel"))):
        result = diffeat.extract_to_file(
            backbone, source, asked, tmp_path / f"{name}.h5", batch_size=6, progress=False,
            engine="local",
        )  # fmt: skip
        assert result.computed == 7
    with h5py.File(tmp_path / "cpu.h5") as cpu, h5py.File(tmp_path / "cuda.h5") as cuda:
        names = []
        cpu.visit(names.append)
        for name in names:
            if isinstance(cpu[name], h5py.Dataset) and cpu[name].dtype.kind in "fiu":
                np.testing.assert_allclose(cuda[name][()], cpu[name][()], rtol=1e-5, atol=1e-5)
