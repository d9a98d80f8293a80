import io
import struct
import zlib
from functools import partial

import numpy as np
import pytest
from PIL import Image, ImageFile

from diffeat.errors import PictureError, SpecError
from diffeat.images import FITS, RESAMPLING, decode, fit_picture


def noise_picture(height=12, width=20, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def saved(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def decoded(raw, picture="a"):
    return np.asarray(decode(partial(io.BytesIO, raw), picture))


def refused(raw):
    with pytest.raises(PictureError) as caught:
        decode(partial(io.BytesIO, raw), "cats/tom.jpg")
    assert caught.value.picture == "cats/tom.jpg"
    assert "'cats/tom.jpg'" in str(caught.value)
    return caught.value.reason


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_without_pixels(width, height, bits=1):
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", b"")


# broken files


def test_truncated_jpeg_is_refused():
    raw = saved(noise_picture(64, 64), "JPEG")
    assert "truncated" in refused(raw[: len(raw) // 2])


def test_truncated_png_is_refused():
    raw = saved(noise_picture(64, 64))
    assert "cannot be decoded" in refused(raw[: len(raw) // 2])


def test_zero_byte_file_is_refused():
    assert "empty" in refused(b"")


def test_text_named_jpg_is_refused(tmp_path):
    path = tmp_path / "letter.jpg"
    path.write_text("dear reader")
    with pytest.raises(PictureError, match=r"'letter\.jpg': not a picture"):
        decode(lambda: str(path), "letter.jpg")


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(PictureError, match=r"'gone\.png': no such file"):
        decode(lambda: str(tmp_path / "gone.png"), "gone.png")


def test_folder_in_place_of_a_file_is_refused(tmp_path):
    with pytest.raises(PictureError, match=r"'a\.png': cannot be decoded"):
        decode(lambda: str(tmp_path), "a.png")


def test_tiff_whose_second_page_is_broken_gives_its_first():
    raw = bytearray(saved(Image.new("RGB", (3, 2), (9, 8, 7)), "TIFF"))
    (first,) = struct.unpack_from("<I", raw, 4)
    (entries,) = struct.unpack_from("<H", raw, first)
    struct.pack_into("<I", raw, first + 2 + 12 * entries, len(raw))
    raw += struct.pack("<HI", 0, 0)  # a directory without entries
    picture = decode(lambda: io.BytesIO(bytes(raw)), "a.tif")
    assert picture.getcolors() == [(6, (9, 8, 7))]


def test_plugin_that_fails_with_runtime_error_raises_picture_error(monkeypatch):
    def fail(self):
        raise RuntimeError("Failed to decode image: Missing or empty image item")

    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    assert "empty image item" in refused(saved(noise_picture()))


# huge pictures


def test_huge_picture_is_refused_from_its_header():
    # decoding it would fail in another way, since it has no pixels
    assert "178,956,970 pixels" in refused(png_without_pixels(30_000, 30_000))


def test_huge_picture_is_refused_where_pillows_own_limit_is_off(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert "178,956,970 pixels" in refused(png_without_pixels(30_000, 30_000))


def test_picture_one_row_over_the_limit_is_refused(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    rows = 178_956_970 // 10_000
    assert "shrink it" in refused(png_without_pixels(10_000, rows + 1))
    assert "cannot be decoded" in refused(png_without_pixels(10_000, rows))


# modes


def test_rgb_png_keeps_its_pixels():
    image = noise_picture()
    assert np.array_equal(decoded(saved(image)), np.asarray(image))


def test_path_is_opened_like_a_file(tmp_path):
    image = noise_picture()
    image.save(tmp_path / "a.png")
    assert np.array_equal(decode(lambda: str(tmp_path / "a.png"), "a"), np.asarray(image))


def test_cmyk_tiff_becomes_rgb():
    inks = bytes([0, 255, 255, 0, 255, 0, 0, 0, 0, 0, 0, 255])
    expected = [[[255, 0, 0], [0, 255, 255], [0, 0, 0]]]
    assert decoded(saved(Image.frombytes("CMYK", (3, 1), inks), "TIFF")).tolist() == expected


def test_cmyk_jpeg_is_not_inverted():
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    pixels = decoded(saved(red, "JPEG", quality=95)).astype(int)
    assert abs(pixels - [255, 0, 0]).max() <= 3


def test_grey_becomes_three_equal_channels():
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert np.array_equal(decoded(saved(Image.fromarray(grey))), np.stack([grey] * 3, axis=-1))


def test_one_bit_becomes_black_and_white():
    bits = Image.fromarray(np.array([[True, False]]))
    assert decoded(saved(bits)).tolist() == [[[255] * 3, [0] * 3]]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_not_clipped(kind):
    samples = np.array([[0, 128, 129, 255, 256, 32_768, 65_406, 65_407, 65_535]], np.uint16)
    # 65535 / 255 = 257 sample steps to one step of 8 bits
    expected = [0, 0, 1, 1, 1, 128, 254, 255, 255]
    pixels = decoded(saved(Image.fromarray(samples), kind))
    assert pixels[0].tolist() == [[value] * 3 for value in expected]


def test_big_endian_16_bit_tiff_is_read_in_the_right_byte_order():
    samples = np.array([[0x0102, 0xFF00]], ">u2")
    image = Image.frombytes("I;16B", (2, 1), samples.tobytes())
    assert decoded(saved(image, "TIFF"))[0, :, 0].tolist() == [1, 254]


def test_16_bit_pgm_is_scaled():
    raw = b"P5\n2 1\n65535\n" + np.array([257 * 7, 257 * 200], ">u2").tobytes()
    assert decoded(raw)[0, :, 0].tolist() == [7, 200]


def test_palette_transparency_is_laid_over_white():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putdata([0, 1])
    assert decoded(saved(image, transparency=0)).tolist() == [[[255] * 3, [40, 50, 60]]]


def test_palette_without_transparency_keeps_its_colours():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putdata([0, 1])
    assert decoded(saved(image)).tolist() == [[[10, 20, 30], [40, 50, 60]]]


@pytest.mark.parametrize("alpha", [0, 64, 128, 255])
def test_alpha_is_laid_over_white(alpha):
    image = Image.new("RGBA", (1, 1), (200, 100, 0, alpha))
    expected = np.array([200, 100, 0]) * alpha / 255 + 255 * (1 - alpha / 255)
    assert abs(decoded(saved(image))[0, 0] - expected).max() <= 1


def test_grey_with_alpha_is_laid_over_white():
    image = Image.new("LA", (1, 1), (100, 0))
    assert decoded(saved(image)).tolist() == [[[255] * 3]]


def test_rgb_with_a_transparent_colour_is_laid_over_white():
    image = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    assert decoded(saved(image, transparency=(1, 2, 3))).tolist() == [[[255] * 3, [4, 5, 6]]]


def test_float_tiff_is_refused_with_its_reason():
    image = Image.fromarray(np.ones((2, 2), np.float32))
    assert "floating-point" in refused(saved(image, "TIFF"))


def test_one_pixel_picture():
    assert decoded(saved(Image.new("RGB", (1, 1), (9, 8, 7)))).tolist() == [[[9, 8, 7]]]


# animation


def test_animated_gif_gives_its_first_frame_and_a_warning():
    first, second = Image.new("RGB", (4, 3), (255, 0, 0)), Image.new("RGB", (4, 3), (0, 0, 255))
    raw = saved(first, "GIF", save_all=True, append_images=[second])
    with pytest.warns(UserWarning, match=r"'walk\.gif' is animated: its first frame"):
        pixels = decoded(raw, "walk.gif")
    assert np.array_equal(pixels, np.asarray(first))


def test_still_gif_gives_no_warning():
    image = Image.new("RGB", (4, 3), (255, 0, 0))
    assert np.array_equal(decoded(saved(image, "GIF")), np.asarray(image))


# orientation

UPRIGHT = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_is_applied(orientation):
    stored = noise_picture(2, 3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = decoded(saved(stored, exif=exif))
    assert np.array_equal(pixels, UPRIGHT[orientation](np.asarray(stored)))


# fitting


def test_squash_is_pillows_resize():
    image = noise_picture(20, 31)
    expected = np.asarray(image.resize((9, 6), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    assert np.array_equal(fit_picture(image, (6, 9), "squash"), expected)


def test_crop_is_the_centre_of_the_scaled_picture():
    image = noise_picture(20, 40)
    scaled = image.resize((20, 10), Image.Resampling.BICUBIC)
    expected = np.asarray(scaled.crop((5, 0, 15, 10))).transpose(2, 0, 1)
    assert np.array_equal(fit_picture(image, (10, 10), "crop"), expected)


def test_crop_of_a_tall_picture_cuts_top_and_bottom():
    rows = np.arange(8, dtype=np.uint8)
    image = Image.fromarray(np.repeat(np.tile(rows[:, None], (1, 4))[..., None], 3, axis=2))
    fitted = fit_picture(image, (4, 4), "crop")
    assert np.array_equal(fitted[0], np.tile(rows[2:6, None], (1, 4)))


def test_pad_is_the_scaled_picture_on_black():
    image = noise_picture(20, 40)
    expected = np.zeros((12, 12, 3), np.uint8)
    expected[3:9] = image.resize((12, 6), Image.Resampling.BICUBIC)
    assert np.array_equal(fit_picture(image, (12, 12), "pad"), expected.transpose(2, 0, 1))


def test_pad_of_a_tall_picture_has_black_sides():
    fitted = fit_picture(Image.new("RGB", (10, 20), (255,) * 3), (8, 8), "pad")
    expected = np.zeros((3, 8, 8), np.uint8)
    expected[:, :, 2:6] = 255
    assert np.array_equal(fitted, expected)


@pytest.mark.parametrize("fit", FITS)
def test_right_size_is_left_alone(fit):
    image = noise_picture(7, 5)
    fitted = fit_picture(image, (7, 5), fit)
    assert np.array_equal(fitted, np.asarray(image).transpose(2, 0, 1))
    assert fitted.flags.c_contiguous


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1)])
def test_extreme_shapes_give_the_size_asked_for(fit, shape):
    fitted = fit_picture(Image.new("RGB", shape[::-1], (255,) * 3), (6, 8), fit)
    assert fitted.shape == (3, 6, 8)
    assert fitted.dtype == np.uint8
    assert fitted.max() == 255


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("name", RESAMPLING)
def test_filters_are_pillows_filters(name, fit):
    image = noise_picture(20, 40)
    method = getattr(Image.Resampling, name.upper())
    if fit in ("squash", "native"):
        expected = image.resize((8, 8), method)
    elif fit == "crop":
        expected = image.resize((16, 8), method).crop((4, 0, 12, 8))
    elif fit == "box-crop":
        half = image.resize((20, 10), Image.Resampling.BOX)
        expected = half.resize((16, 8), method).crop((4, 0, 12, 8))
    else:
        expected = Image.new("RGB", (8, 8))
        expected.paste(image.resize((8, 4), method), (0, 2))
    fitted = fit_picture(image, (8, 8), fit, name)
    assert np.array_equal(fitted, np.asarray(expected).transpose(2, 0, 1))


def test_unknown_fit_is_refused():
    with pytest.raises(SpecError, match="fit='stretch' is unknown; expected one of squash"):
        fit_picture(noise_picture(), (4, 4), "stretch")


def test_unknown_filter_is_refused():
    with pytest.raises(SpecError, match="resample='cubic' is unknown; expected one of nearest"):
        fit_picture(noise_picture(), (4, 4), "squash", "cubic")
