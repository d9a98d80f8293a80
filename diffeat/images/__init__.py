"""Where pictures come from and how they become pixels."""

from diffeat.images.ahead import ahead
from diffeat.images.captions import captions_for, read_captions
from diffeat.images.decode import (
    FITS,
    RESAMPLING,
    content_box,
    decode,
    fit_native,
    fit_picture,
    native_size,
    real_mask,
    to_rgb,
)
from diffeat.images.huggingface import HubSource
from diffeat.images.loader import PictureBatch, check_on_error, load_batches
from diffeat.images.opening import open_source
from diffeat.images.sources import ArraySource, FileSource, Source
from diffeat.images.webdataset import TarSource

__all__ = [
    "FITS",
    "RESAMPLING",
    "ArraySource",
    "FileSource",
    "HubSource",
    "PictureBatch",
    "Source",
    "TarSource",
    "ahead",
    "captions_for",
    "check_on_error",
    "content_box",
    "decode",
    "fit_native",
    "fit_picture",
    "load_batches",
    "native_size",
    "open_source",
    "read_captions",
    "real_mask",
    "to_rgb",
]
