"""Exact nearest neighbours in blocks: memory is that of one block of similarities."""

from __future__ import annotations

import numpy as np
import torch

from probes.lazy import Rows, as_tensor

METRICS = ("cosine", "euclidean", "dot")
QUERIES = 1024
BASE = 8192


def nearest(
    queries: Rows,
    base: Rows,
    k: int,
    metric: str = "cosine",
    device: torch.device | str = "cpu",
    skip_self: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The k rows of `base` most similar to each query, the most similar first.

    Similarity is q·b/(||q||·||b||) (0 where a row is 0), -||q - b||, or q·b, computed in the
    rows' own precision: with float32, neighbours whose distances agree to 6 digits may swap.
    Blocks of 1,024 × 8,192 similarities are in memory at a time; `base` is read once per block
    of queries.

    Args:
        queries: (M, D).
        base: (N, D).
        k: at most N, or N - 1 with `skip_self`.
        metric: "cosine", "euclidean" or "dot".
        skip_self: row i of `base` is no neighbour of query i.

    Returns:
        (M, k) similarities and (M, k) int64 rows of `base`, both on the CPU.

    Raises:
        ValueError: an unknown metric, too few rows, or rows of other width.
    """
    if metric not in METRICS:
        raise ValueError(f"metric={metric!r}; expected one of {', '.join(METRICS)}")
    if not 1 <= k <= len(base) - skip_self:
        raise ValueError(f"{k} neighbours among {len(base) - skip_self} rows; expected at least "
                         "1 and at most as many as there are")  # fmt: skip
    if queries.shape[1:] != base.shape[1:]:
        raise ValueError(f"rows of shape {queries.shape[1:]} against {base.shape[1:]}; expected "
                         "the same width")  # fmt: skip
    exact = np.promote_types(queries.dtype, base.dtype)  # the finer of the two
    origin = base[:BASE].astype(exact).mean(0) if metric == "euclidean" else 0
    found = []
    for start, block in queries.chunks(QUERIES):
        q, best, place = _ready(block.astype(exact), metric, origin, device), None, None
        for first, piece in base.chunks(BASE):
            similar = _similarity(q, _ready(piece.astype(exact), metric, origin, device), metric)
            if skip_self:
                same = torch.arange(len(q)) + start - first
                inside = (same >= 0) & (same < len(piece))
                similar[torch.arange(len(q))[inside], same[inside]] = -torch.inf
            top, where = similar.topk(min(k, similar.shape[1]), dim=1)
            where = where + first
            if best is not None:
                top, where = torch.cat([best, top], 1), torch.cat([place, where], 1)
                top, order = top.topk(min(k, top.shape[1]), dim=1)
                where = where.gather(1, order)
            best, place = top, where
        found.append((best.cpu(), place.cpu()))
    return torch.cat([one for one, _ in found]), torch.cat([one for _, one in found])


def _ready(
    rows: np.ndarray, metric: str, origin: np.ndarray | int, device: torch.device | str
) -> torch.Tensor:
    found = as_tensor(rows - origin)
    return (torch.nn.functional.normalize(found, dim=1) if metric == "cosine" else found).to(device)


def _similarity(q: torch.Tensor, b: torch.Tensor, metric: str) -> torch.Tensor:
    product = q @ b.T
    if metric != "euclidean":
        return product
    squares = q.square().sum(1, keepdim=True) + b.square().sum(1) - 2 * product
    return -squares.clamp_min(0).sqrt()
