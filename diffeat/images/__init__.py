"""Where pictures come from and how they become pixels."""

from diffeat.images.decode import FITS, RESAMPLING, decode, fit_picture, to_rgb
from diffeat.images.loader import PictureBatch, check_on_error, load_batches
from diffeat.images.opening import open_source
from diffeat.images.sources import ArraySource, FileSource, Source

__all__ = [
    "FITS",
    "RESAMPLING",
    "ArraySource",
    "FileSource",
    "PictureBatch",
    "Source",
    "check_on_error",
    "decode",
    "fit_picture",
    "load_batches",
    "open_source",
    "to_rgb",
]
