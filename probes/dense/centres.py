"""K-means of pixels' features, as scores that are linear in the features.

    cluster(x) = argmin_c |z(x) − m_c|²,        z = (f − mean)/deviation, by channel

|z|² is the same for all clusters, so the cluster is the argmax of W·f + b, which is read off the
maps' own grids (`probes.dense.column`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from probes.dense.column import Column
from probes.maps import Maps

NUMBERS = 1 << 26
"""At most, that sampled features hold: 256 MiB."""


def pixels_of(
    maps: Maps, keys: Any, pixels: int, pictures: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A sample of the pixels that the input shows, of one of several pictures.

    Args:
        maps: of the picture. keys: cells, in order.
        pixels: wanted of all pictures; fewer where `NUMBERS` does not hold their features. Of more
            pictures than that each gives its one with a chance of pixels / pictures.
        pictures: how many pictures there are.
        rng: draws the pixels.

    Returns:
        (n, C) float32 features; (n, 2) int64 row, column. n may be 0.
    """
    column = Column(maps, keys)
    most = min(pixels, max(1, NUMBERS // column.channels))
    shown = np.argwhere(column.shown())
    kept = shown[np.sort(rng.permutation(len(shown))[: -(-most // pictures)])]
    if most < pictures and rng.random() * pictures >= most:
        kept = kept[:0]
    return column.at(kept).numpy(), kept


def clustered(
    features: np.ndarray, clusters: int, standardise: bool, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Clusters of features.

    Args:
        features: (n, C) float32; overwritten.
        clusters: M.
        standardise: whether channels are brought to mean 0 and deviation 1 first.
        seed: of k-means.

    Returns:
        (M, C) float32 weight and (M,) float32 bias of the scores, the largest of which says the
        cluster; (n,) cluster of each row.

    Raises:
        ValueError: fewer rows than clusters.
    """
    from sklearn.cluster import MiniBatchKMeans

    if len(features) < clusters:
        raise ValueError(f"{len(features)} pixels for {clusters} clusters; expected more")
    mean, deviation = np.zeros(1, np.float32), np.ones(1, np.float32)
    if standardise:
        mean, deviation = features.mean(0), features.std(0)
        deviation[deviation < 1e-6 * np.abs(mean) + 1e-12] = 1
    features -= mean
    features /= deviation
    found = MiniBatchKMeans(clusters, n_init=3, random_state=seed, batch_size=4096)
    places = found.fit_predict(features)
    centres = found.cluster_centers_.astype(np.float64)
    weight = (centres / deviation).astype(np.float32)
    bias = (-(centres**2).sum(1) / 2 - (centres * mean / deviation).sum(1)).astype(np.float32)
    return weight, bias, places
