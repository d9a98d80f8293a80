"""Features in HDF5 (format 1): written in shards, merged into one file, read lazily.

/                     attrs: format, diffeat_version, spec, model, pictures, how, fingerprint,
                      complete
/ids                  (N,) utf-8
/labels               (N,) int64, attrs names; absent when there are none
/features/<block>/t<timestep>   (N, …), attrs: block, t, alpha, sigma, log_snr, layout, …
/scales/<block>/t<timestep>     (N, K) float32, of features in int8
/sizes                (N, 2) int32, H, W in pixels of each picture as decoded and upright
/placements           (N, 4) float64, sx, tx, sy, ty: where each input lies (diffeat.coords)
/digests              (N, 16) uint8, BLAKE2b-128 of each picture's own bytes
/file_stats           (N, 4) int64, size, mtime_ns, ctime_ns, inode of each picture's file
/skipped/ids, /skipped/reasons  pictures left out with --on-error skip
"""

from diffeat.store.checks import look_at_parts, verify
from diffeat.store.join import merge_files
from diffeat.store.merge import merge_parts
from diffeat.store.reader import FeatureStore
from diffeat.store.request import Column, Request, begun_columns, noted_pictures, read_how
from diffeat.store.seen import seen_by, seen_in
from diffeat.store.shards import ShardWriter
from diffeat.store.writer import StoreWriter

__all__ = [
    "Column",
    "FeatureStore",
    "Request",
    "ShardWriter",
    "StoreWriter",
    "begun_columns",
    "look_at_parts",
    "merge_files",
    "merge_parts",
    "noted_pictures",
    "read_how",
    "seen_by",
    "seen_in",
    "verify",
]
