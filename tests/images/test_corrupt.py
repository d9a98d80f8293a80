"""Corruptions, against Pillow, OpenCV, SciPy, colorsys and arithmetic."""

from __future__ import annotations

import colorsys
import io
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from diffeat.errors import SpecError
from diffeat.images import CORRUPTIONS, Corruption, FileSource, corruption_of, load_batches
from diffeat.images.corrupt import STRENGTHS, disk_kernel
from diffeat.specs import HELP, ExtractSpec


def photo(size=(40, 56), seed=0):
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8))
    return coarse.resize(size[::-1], Image.Resampling.BICUBIC)


def worse(text, image, seed=0, picture="a.png"):
    return np.asarray(Corruption.read(text).apply(image, seed, picture)).astype(int)


def flat(value, size=(200, 300)):
    return Image.fromarray(np.full((*size, 3), value, np.uint8))


@pytest.mark.parametrize("table", ["", "cifar:"])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_severities_grow(name, table):
    image = photo()
    clean = np.asarray(image).astype(int)
    off = [np.abs(worse(f"{table}{name}:{k}", image) - clean).mean() for k in range(1, 6)]
    assert off[0] > 0 or name == "defocus_blur"  # CIFAR's weakest moves less than a level
    if name == "saturate":  # down, down, up, up, up
        assert off[0] < off[1]
        assert off[2] < off[3] < off[4]
    else:
        assert all(low <= high for low, high in pairwise(off))
    assert off[4] > 1
    assert (worse(f"{table}{name}:1", image) != worse(f"{table}{name}:5", image)).any()


def test_noise():
    middle = worse("gaussian_noise:1", flat(128)) / 255
    assert middle.mean() == pytest.approx(128 / 255, abs=2e-3)
    assert middle.std() == pytest.approx(0.08, rel=0.02)
    assert stats.kstest((middle - 128 / 255).ravel()[::50] / 0.08, "norm").pvalue > 1e-4
    shots = worse("shot_noise:2", flat(102)) / 255 * 25
    assert np.abs(shots - shots.round()).max() < 0.05  # whole numbers of photons
    assert shots.mean() == pytest.approx(10, rel=0.01)
    assert shots.var() == pytest.approx(10, rel=0.03)
    hit = worse("impulse_noise:4", flat(100))
    assert np.isin(hit, (0, 100, 255)).all()
    assert [(hit == one).mean() for one in (0, 255)] == pytest.approx([0.085, 0.085], rel=0.05)
    assert len(np.unique(hit.reshape(-1, 3), axis=0)) > 8  # each channel by itself
    speckle = worse("cifar:speckle_noise:5", flat(100)) / 100
    assert speckle.std() == pytest.approx(0.2, rel=0.03)
    assert (worse("speckle_noise:5", flat(0)) == 0).all()


def test_blurs():
    cv2 = pytest.importorskip("cv2")
    image = photo((60, 70))
    pixels = np.asarray(image) / 255.0
    for severity, sigma in enumerate((1, 2, 3, 4, 6), 1):
        side = 2 * int(4 * sigma + 0.5) + 1
        expected = cv2.GaussianBlur(pixels, (side, side), sigma, borderType=cv2.BORDER_REPLICATE)
        assert np.abs(worse(f"gaussian_blur:{severity}", image) - 255 * expected).max() < 0.51
    for table, strengths in STRENGTHS.items():
        for severity, (radius, sigma) in enumerate(strengths["defocus_blur"], 1):
            reach = max(8, int(radius))
            y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
            disk = (x**2 + y**2 <= radius**2).astype(np.float64)
            side = (3, 3) if radius <= 8 else (5, 5)
            kernel = cv2.GaussianBlur(disk / disk.sum(), side, sigma)
            np.testing.assert_allclose(disk_kernel(radius, sigma), kernel, atol=1e-12)
            found = worse(f"{table}{':' * bool(table)}defocus_blur:{severity}", image)
            expected = np.clip(255 * cv2.filter2D(pixels, -1, kernel), 0, 255)
            assert np.abs(found - expected).max() < 0.51
    assert worse("defocus_blur:5", photo((1, 3))).shape == (1, 3, 3)


@pytest.mark.parametrize("severity", range(1, 6))
def test_colours(severity):
    rng = np.random.default_rng(0)
    pixels = np.concatenate([rng.integers(0, 256, (60, 3)), [[0] * 3, [255] * 3, [90] * 3,
                             [255, 0, 0], [0, 0, 7]]]).astype(np.uint8)  # fmt: skip
    image = Image.fromarray(pixels[None])
    more = STRENGTHS[""]["brightness"][severity - 1]
    times, plus = STRENGTHS[""]["saturate"][severity - 1]
    lighter, richer = [], []
    for red, green, blue in pixels / 255:
        h, s, v = colorsys.rgb_to_hsv(red, green, blue)
        lighter.append(colorsys.hsv_to_rgb(h, s, min(v + more, 1)))
        richer.append(colorsys.hsv_to_rgb(h, min(s * times + plus, 1), v))
    assert np.abs(worse(f"brightness:{severity}", image)[0] - 255 * np.array(lighter)).max() < 0.51
    assert np.abs(worse(f"saturate:{severity}", image)[0] - 255 * np.array(richer)).max() < 0.51
    means = pixels.mean(0)
    factor = STRENGTHS[""]["contrast"][severity - 1]
    expected = means + factor * (pixels - means)
    assert np.abs(worse(f"contrast:{severity}", image)[0] - expected).max() < 0.51


def test_pillow():
    image = photo()
    file = io.BytesIO()
    image.save(file, "JPEG", quality=15)
    assert np.array_equal(worse("jpeg_compression:3", image), np.asarray(Image.open(file)))
    small = np.asarray(photo((40, 60))).reshape(20, 2, 30, 2, 3).mean((1, 3))
    found = worse("pixelate:2", photo((40, 60)))
    assert (found[::2, ::2] == found[1::2, 1::2]).all()
    assert np.abs(found[::2, ::2] - small).max() <= 1  # Pillow rounds along each side
    assert worse("pixelate:5", photo((1, 2))).shape == (1, 2, 3)


def test_draws_are_of_seed_and_picture():
    image = photo()
    one = worse("gaussian_noise:3", image)
    assert np.array_equal(one, worse("gaussian_noise:3", image))
    assert (one != worse("gaussian_noise:3", image, seed=1)).any()
    assert (one != worse("gaussian_noise:3", image, picture="b.png")).any()
    middle, off = flat(128, (50, 50)), []
    for severity in (1, 2):
        off.append(worse(f"gaussian_noise:{severity}", middle).ravel() - 128)
    assert np.corrcoef(off)[0, 1] > 0.99  # severities share their draws


@pytest.mark.parametrize(
    ("text", "plain"), [(" Contrast:2", "contrast:2"), ("CIFAR:pixelate:5", "cifar:pixelate:5")]
)
def test_names(text, plain):
    assert str(Corruption.read(text)) == plain
    spec = ExtractSpec(timesteps=(1,), blocks=("mid",), corrupt=text)
    assert spec.corrupt == plain
    assert ExtractSpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize(
    "text", ["", "contrast", "contrast:0", "contrast:6", "fog:1", "other:contrast:1", ":",
             "cifar:cifar:contrast:1", "contrast:1.5", "cifar:1"]
)  # fmt: skip
def test_unknown_names(text):
    with pytest.raises(SpecError, match=r"expected NAME:SEVERITY.*gaussian_noise"):
        ExtractSpec(timesteps=(1,), blocks=("mid",), corrupt=text)


def test_what_is_nearest_is_named():
    with pytest.raises(SpecError, match=r"did you mean 'gaussian_noise'"):
        Corruption.read("gaussian-noise:3")


def test_help_lists_all():
    assert all(name in HELP["corrupt"] for name in CORRUPTIONS)
    assert tuple(STRENGTHS["cifar"]) == CORRUPTIONS


def test_before_the_fit_whatever_the_batch(tmp_path):
    for k in range(3):
        photo(seed=k).save(tmp_path / f"{k}.png")
    source = FileSource(
        "three", ("0", "1", "2"), paths=tuple(tmp_path / f"{k}.png" for k in range(3))
    )
    change = corruption_of("shot_noise:4", 7)
    whole = next(load_batches(source, [(0, 3)], (16, 16), corrupt=change)).pixels
    alone = [next(load_batches(source, [(k, k + 1)], (16, 16), workers=1, corrupt=change)).pixels[0]
             for k in (2, 0, 1)]  # fmt: skip
    assert np.array_equal(whole, np.stack([alone[1], alone[2], alone[0]]))
    for k in range(3):
        image = Corruption("shot_noise", 4).apply(photo(seed=k), 7, str(k))
        expected = np.asarray(image.resize((16, 16), Image.Resampling.BICUBIC))
        assert np.array_equal(whole[k], expected.transpose(2, 0, 1))
    assert corruption_of(None, 0) is None
