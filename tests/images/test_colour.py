"""ICC profiles: linear and wide ones made by hand, and what sRGB is by IEC 61966-2-1."""

from __future__ import annotations

import io
import struct
import warnings

import numpy as np
import pytest
from PIL import Image, ImageCms

from diffeat.images import decode, load_batches, open_source
from diffeat.images.colour import CONVERTED
from tests.images.builders import noise, pack, saved
from tests.store.earlier import linear_profile, png

SRGB = np.array([  # linear sRGB → XYZ under D50 (Bradford), as profiles have it
    [0.4360747, 0.3850649, 0.1430804],
    [0.2225045, 0.7168786, 0.0606169],
    [0.0139322, 0.0971045, 0.7141733],
])  # fmt: skip
ADOBE = np.array([  # Adobe RGB (1998)'s primaries under D50 (Bradford)
    [0.6097559, 0.2052401, 0.1492240],
    [0.3111242, 0.6256560, 0.0632197],
    [0.0194811, 0.0608902, 0.7448387],
])  # fmt: skip


def encoded(linear: np.ndarray) -> np.ndarray:
    """Linear light in [0, 1] as sRGB's 0 … 255, not rounded."""
    linear = np.clip(linear, 0, 1)
    curve = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return 255 * curve


def read(data: bytes, reading: int = 2) -> np.ndarray:
    return np.asarray(decode(lambda: io.BytesIO(data), "a.png", reading)).astype(float)


def with_profile(image: Image.Image, profile: bytes, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, icc_profile=profile)
    return buffer.getvalue()


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)


def test_linear_light_becomes_srgb(pixels):
    found = read(png(pixels, linear_profile()))
    np.testing.assert_allclose(found, encoded(pixels / 255), atol=1)


def test_wider_primaries_become_srgb(pixels):
    found = read(png(pixels, linear_profile(primaries=ADOBE)))
    linear = pixels / 255 @ (np.linalg.inv(SRGB) @ ADOBE).T
    expected = encoded(linear)
    assert np.abs(expected - encoded(pixels / 255)).max() > 20  # it matters
    np.testing.assert_allclose(found, expected, atol=1.5)


def test_rule_1_ignores_profiles(pixels):
    data = png(pixels, linear_profile())
    assert np.array_equal(read(data, reading=1), pixels)
    assert not np.array_equal(read(data), pixels)


def test_the_profile_of_srgb_changes_no_bit(pixels):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for own in (profile, linear_profile()[:0]):
        found = decode(lambda own=own: io.BytesIO(png(pixels, own or None)), "a")
        assert np.array_equal(np.asarray(found), pixels)
        assert CONVERTED not in found.info


def grey_profile() -> bytes:
    """Linear grey, from the profile of linear colours: one curve, no primaries."""
    tags = {b"wtpt": b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061),
            b"kTRC": b"curv\0\0\0\0" + struct.pack(">I", 0),
            b"desc": b"desc\0\0\0\0" + struct.pack(">I", 5) + b"grey\0" + bytes(79)}  # fmt: skip
    table, body, start = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for name, data in tags.items():
        data += bytes(-len(data) % 4)
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data
    whole = linear_profile()[:128] + table + body
    return struct.pack(">I", len(whole)) + whole[4:16] + b"GRAY" + whole[20:]


def test_grey_profiles(pixels):
    grey = pixels[..., 0]
    found = read(with_profile(Image.fromarray(grey), grey_profile()))
    np.testing.assert_allclose(found, encoded(grey / 255)[..., None].repeat(3, 2), atol=1)


def test_grey_pictures_with_a_profile_of_colours(pixels):
    grey = pixels[..., 0]
    found = read(with_profile(Image.fromarray(grey), linear_profile()))
    np.testing.assert_allclose(found, encoded(grey / 255)[..., None].repeat(3, 2), atol=1)


def test_transparency_stays(pixels):
    """Over white by alpha, after the colours were converted."""
    alpha = np.random.default_rng(1).integers(0, 256, (16, 16, 1)).astype(np.uint8)
    picture = Image.fromarray(np.concatenate([pixels, alpha], 2))
    found = read(with_profile(picture, linear_profile()))
    share = alpha / 255
    expected = share * encoded(pixels / 255) + (1 - share) * 255
    np.testing.assert_allclose(found, expected, atol=1.5)


def test_palettes_are_converted(pixels):
    picture = Image.fromarray(pixels).quantize(16)
    found = read(with_profile(picture, linear_profile()))
    np.testing.assert_allclose(found, encoded(np.asarray(picture.convert("RGB")) / 255), atol=1)


def test_sixteen_bits_are_converted():
    grey = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    found = read(with_profile(Image.fromarray(grey), grey_profile()))
    np.testing.assert_allclose(found[..., 1], encoded(np.arange(256) / 255).reshape(16, 16), atol=1)


@pytest.mark.parametrize("profile", [b"no profile at all", linear_profile()[:200]])
def test_a_broken_profile_is_passed_over_with_a_warning(pixels, profile):
    with pytest.warns(UserWarning, match=r"'a\.png': its ICC profile is passed over"):
        found = read(png(pixels, profile))
    assert np.array_equal(found, pixels)


def test_a_profile_of_another_kind_is_passed_over(pixels):
    with pytest.warns(UserWarning, match="it describes GRAY and the picture is RGB"):
        found = read(with_profile(Image.fromarray(pixels), grey_profile()))
    assert np.array_equal(found, pixels)


def test_every_reader_converts_and_batches_count(tmp_path, pixels):
    data = {"a.png": saved(noise(0)), "b.png": png(pixels, linear_profile())}
    (tmp_path / "in").mkdir()
    for name, raw in data.items():
        (tmp_path / "in" / name).write_bytes(raw)
    for source in (open_source(tmp_path / "in"), open_source(pack(tmp_path / "a.tar", data))):
        (batch,) = load_batches(source, [(0, 2)], (16, 16))
        assert batch.converted == 1
        np.testing.assert_allclose(
            batch.pixels[1].transpose(1, 2, 0), encoded(pixels / 255), atol=1
        )
        (batch,) = load_batches(source.by_rule(1), [(0, 2)], (16, 16))
        assert batch.converted == 0


def test_the_turned_picture_is_converted(pixels):
    exif = Image.Exif()
    exif[274] = 6  # a quarter turn
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", icc_profile=linear_profile(), exif=exif)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = read(buffer.getvalue())
    np.testing.assert_allclose(found, encoded(np.rot90(pixels, -1) / 255), atol=1)
