"""Where pictures come from and how they become pixels."""

from diffeat.coords import FITS, content_box, native_size, real_mask
from diffeat.images.ahead import ahead
from diffeat.images.captions import captions_for, read_captions
from diffeat.images.clips import ClipSource, clip_of, frame_id, number_of
from diffeat.images.columns import TargetColumn
from diffeat.images.corrupt import CORRUPTIONS, Corruption, corruption_of
from diffeat.images.decode import (
    RESAMPLING,
    decode,
    fit_and_place,
    fit_picture,
    to_rgb,
)
from diffeat.images.digests import STAT, Seen, look
from diffeat.images.files import check_there
from diffeat.images.found import found_text
from diffeat.images.huggingface import HubSource
from diffeat.images.loader import PictureBatch, check_on_error, load_batches
from diffeat.images.masks import move_mask, read_labels, stored_size, upright_mask
from diffeat.images.opening import open_source
from diffeat.images.reading import READING, rule_of
from diffeat.images.sources import ArraySource, FileSource, Source
from diffeat.images.walk import left_out_text, nfc
from diffeat.images.webdataset import TarSource

__all__ = [
    "CORRUPTIONS",
    "FITS",
    "READING",
    "RESAMPLING",
    "STAT",
    "ArraySource",
    "ClipSource",
    "Corruption",
    "FileSource",
    "HubSource",
    "PictureBatch",
    "Seen",
    "Source",
    "TarSource",
    "TargetColumn",
    "ahead",
    "captions_for",
    "check_on_error",
    "check_there",
    "clip_of",
    "content_box",
    "corruption_of",
    "decode",
    "fit_and_place",
    "fit_picture",
    "found_text",
    "frame_id",
    "left_out_text",
    "load_batches",
    "look",
    "move_mask",
    "native_size",
    "nfc",
    "number_of",
    "open_source",
    "read_captions",
    "read_labels",
    "real_mask",
    "rule_of",
    "stored_size",
    "to_rgb",
    "upright_mask",
]
