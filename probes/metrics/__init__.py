"""What representations have in common, by (N, D) features of the same pictures."""

from probes.metrics.representations import (
    alignment,
    cknna,
    cknna_public,
    linear_cka,
    mutual_knn,
    uniformity,
)

__all__ = ["alignment", "cknna", "cknna_public", "linear_cka", "mutual_knn", "uniformity"]
