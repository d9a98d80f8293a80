"""Memory of matching does not grow with the pairs."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import sys
import numpy as np, torch
from benchmarks.machine import peak_memory_mb
from probes.cells import Cells
from probes.matching import NearestMatcher
from probes.metrics.pck import PCK
from probes.pairs import Pairs

torch.set_num_threads(1)
count = int(sys.argv[1])
rng = np.random.default_rng(0)
maps = rng.standard_normal((64, 32, 8, 8), np.float32)
cells = Cells({("up", 20): maps}, sizes=np.full((64, 2), 48), input_size=(48, 48))
source, target = rng.integers(0, 64, (2, count))
points = [np.array([[10.0, 20.0], [30.0, 5.0]])] * count
pairs = Pairs(source, target, points, points, np.full(count, 20.0))
pck = PCK((0.1, 0.05))
for place, found in enumerate(NearestMatcher(memory_mb=4).match_pairs(cells, pairs)):
    pck.update(found.points, points[place], 20.0, groups=(str(source[place]), str(target[place])))
assert len(pck) == count
print(peak_memory_mb())
"""


def peak(pairs: int) -> float:
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(pairs)], check=True, text=True,
                          capture_output=True)  # fmt: skip
    return float(done.stdout)


@pytest.mark.slow
def test_ten_thousand_pairs_take_no_more_than_a_thousand():
    assert peak(10_000) <= 1.05 * peak(1_000)
