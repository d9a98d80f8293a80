"""Features in HDF5 (format 1): written in shards, merged into one file, read lazily.

/                     attrs: format, diffeat_version, spec, model, pictures, how, fingerprint,
                      complete
/ids                  (N,) utf-8
/labels               (N,) int64, attrs names; -1 of single pictures without; absent when there
                      are none
/targets/<column>     (N,) or (N, K) int64, attrs kind, names; or (N,) float64, attrs kind: what
                      else is to be predicted; absent when there is nothing
/features/<block>/t<timestep>   (N, …), attrs: block, t, alpha, sigma, log_snr, layout, …
/scales/<block>/t<timestep>     (N, K) float32, of features in int8
/sizes                (N, 2) int32, H, W in pixels of each picture as decoded and upright
/placements           (N, 4) float64, sx, tx, sy, ty: where each input lies (diffeat.coords)
/digests              (N, 16) uint8, BLAKE2b-128 of each picture's own bytes
/file_stats           (N, 4) int64, size, mtime_ns, ctime_ns, inode of each picture's file
/skipped/ids, /skipped/reasons  pictures left out with --on-error skip
"""

from diffeat.store.format.columns import PICTURE_COLUMNS, Column, picture_column
from diffeat.store.format.layout import shard_folder
from diffeat.store.format.manifest import (
    Manifest,
    begun_columns,
    noted_labels,
    noted_pictures,
    read_how,
)
from diffeat.store.join.derived import Derived, write_derived
from diffeat.store.join.files import merge_files
from diffeat.store.read.originals import ChangedPictures, beside, find_originals
from diffeat.store.read.reader import FeatureStore
from diffeat.store.read.seen import seen_by, seen_in
from diffeat.store.read.verify import verify
from diffeat.store.write.folder import ShardFolder
from diffeat.store.write.growth import Growth, check_told, growth_of
from diffeat.store.write.merge import merge_parts
from diffeat.store.write.progress import look_at_parts
from diffeat.store.write.sealing import seal_parts
from diffeat.store.write.shards import SHARD_BYTES, ShardWriter
from diffeat.store.write.writer import StoreWriter

__all__ = [
    "PICTURE_COLUMNS",
    "SHARD_BYTES",
    "ChangedPictures",
    "Column",
    "Derived",
    "FeatureStore",
    "Growth",
    "Manifest",
    "ShardFolder",
    "ShardWriter",
    "StoreWriter",
    "begun_columns",
    "beside",
    "check_told",
    "find_originals",
    "growth_of",
    "look_at_parts",
    "merge_files",
    "merge_parts",
    "noted_labels",
    "noted_pictures",
    "picture_column",
    "read_how",
    "seal_parts",
    "seen_by",
    "seen_in",
    "shard_folder",
    "verify",
    "write_derived",
]
