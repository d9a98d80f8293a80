"""Features in HDF5 (format 1): written in shards, merged into one file, read lazily.

/                     attrs: format, diffeat_version, spec, model, pictures, fingerprint, complete
/ids                  (N,) utf-8
/labels               (N,) int64, attrs names; absent when there are none
/features/<block>/t<timestep>   (N, …), attrs: block, t, alpha, sigma, log_snr, layout, …
/skipped/ids, /skipped/reasons  pictures left out with --on-error skip
"""

from diffeat.store.reader import FeatureStore, verify
from diffeat.store.writer import Request, StoreWriter

__all__ = ["FeatureStore", "Request", "StoreWriter", "verify"]
