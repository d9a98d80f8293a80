"""The page of a pair: whole, inert, small enough, and honest about what it lost."""

from __future__ import annotations

import base64
import hashlib
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from diffeat.errors import SpecError
from diffeat.viz import write_pair_page
from diffeat.viz.html import data_uri, encoded, in_script
from diffeat.viz.packed import FEWEST, components, kept_channels, pack
from diffeat.viz.pair_page import SIDE, SPARE
from probes.maps import Maps
from probes.matching import NearestMatcher
from tests.viz.test_page import Reader

EVIL = (
    "</script><script>alert(1)</script>",
    '<img src=x onerror="alert(2)">',
    "a\u2028b\udcff<!--",
)
CELL = ("up.1", 20.0)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def maps_of(size, grid=(6, 8), channels=16, seed=0, cells=(CELL,), **more) -> Maps:
    rng = np.random.default_rng(seed)
    values = {cell: rng.normal(size=(channels, *grid)).astype(np.float32) for cell in cells}
    return Maps(values, size, **{"input_size": (48, 64), **more})


def pair_of(channels=16, cells=(CELL,), **more):
    """Two pictures whose maps are a little alike."""
    first = maps_of((60, 80), channels=channels, cells=cells, **more)
    noise = maps_of((90, 120), channels=channels, seed=1, cells=cells)
    values = {cell: first[cell] + 4 * noise[cell] for cell in cells}
    second = Maps(values, (90, 120), (48, 64))
    return [first, second], [picture(60, 80), picture(90, 120, 1)]


def written(tmp_path, maps, pictures, names=("a.png", "b.png"), **options):
    found = write_pair_page(tmp_path / "p.html", maps, pictures, names, **options)
    return found, (tmp_path / "p.html").read_text("utf-8")


def limit_of(pictures, room: int) -> int:
    """Bytes of a page that has so many for its maps."""
    taken = sum(len(data_uri(*encoded(Image.fromarray(one), SIDE)[:2])) for one in pictures)
    return SPARE + taken + -(-room * 4 // 3)


def data_of(text: str) -> dict:
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])


def unpacked(cell: dict, place: int) -> np.ndarray:
    """(K, h, w) of a page's data, read without the code that wrote it."""
    (h, w), raw = cell["maps"][place]["grid"], base64.b64decode(cell["maps"][place]["data"])
    scales = np.frombuffer(raw, "<f4", h * w)
    values = np.frombuffer(raw, np.int8, offset=4 * h * w).reshape(h * w, cell["channels"])
    return (values * scales[:, None].astype(np.float64)).T.reshape(-1, h, w)


class TestDocument:
    def test_policy_admits_its_own_script_and_style_and_nothing_else(self, tmp_path):
        _, text = written(tmp_path, *pair_of())
        policy = re.search(r'Content-Security-Policy" content="(.*?)"', text)[1]
        rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
        assert rules["default-src"] == "'none'"
        assert rules["img-src"] == "data:"
        for kind, element in (("script-src", "script"), ("style-src", "style")):
            inner = re.findall(f"<{element}>(.*?)</{element}>", text, re.S)
            assert len(inner) == 1
            digest = base64.b64encode(hashlib.sha256(inner[0].encode()).digest()).decode()
            assert rules[kind] == f"'sha256-{digest}'"
        assert "unsafe" not in policy

    def test_nothing_comes_from_outside(self, tmp_path):
        _, text = written(tmp_path, *pair_of())
        bare = re.sub(r'"[A-Za-z0-9+/=]{40,}"|base64,[A-Za-z0-9+/=]+', "", text)
        assert not re.search(
            r"https?:|//\w|url\(|@import|<link|<iframe|fetch|XMLHttp|import\(", bare
        )
        assert not re.search(r"\son\w+=|\sstyle=", bare)

    def test_names_are_text(self, tmp_path):
        cells = (("<b>block</b>", 1.0),)
        maps, pictures = pair_of(cells=cells)
        _, text = written(tmp_path, [*maps, maps[0]], [*pictures, pictures[0]], EVIL,
                          title=EVIL[0], facts={"<u>": EVIL[1]}, notes=["<hr>"])  # fmt: skip
        read = Reader(text)
        assert read.tags.count("script") == 2  # the data and the page's own
        assert not {"b", "u", "hr"} & {*read.tags}
        data = data_of(text)
        assert [one["name"] for one in data["pictures"]] == list(EVIL)
        assert data["cells"][0]["block"] == "<b>block</b>"
        assert "\u2028" not in text

    def test_json_in_a_script_ends_nothing(self):
        value = {"</script>": ["<!--", "&lt;", "\u2028\u2029", "é"]}
        found = in_script(value)
        assert json.loads(found) == value
        assert found.isascii()
        assert not set("<>&") & set(found)
        with pytest.raises(ValueError, match="JSON"):
            in_script(float("nan"))


class TestMaps:
    def test_int8_is_within_half_a_step(self, tmp_path):
        maps, pictures = pair_of()
        _, text = written(tmp_path, maps, pictures)
        for place, one in enumerate(maps):
            exact, found = one[CELL], unpacked(data_of(text)["cells"][0], place)
            step = np.abs(exact).max(0) / 127
            assert (np.abs(found - exact) <= step / 2 * (1 + 1e-5)).all()

    def test_geometry_is_that_of_the_picture_as_shown(self, tmp_path):
        """A cropped and mirrored input of a picture larger than the page shows."""
        placement = (-0.08, 70.0, 0.08, -8.0)
        large = maps_of((800, 1024), placement=placement)
        other = maps_of((60, 80), seed=1)
        _, text = written(tmp_path, [large, other], [picture(800, 1024), picture(60, 80)])
        one, plain = data_of(text)["pictures"]
        assert (one["size"], one["whole"], one["input"]) == ([512, 400], [1024, 800], [64, 48])
        assert (plain["size"], plain["whole"]) == ([80, 60], [80, 60])
        for along, at in ((0, 77), (1, 31)):
            whole = (at + 0.5) * 2 - 0.5  # the same place in pixels of the picture itself
            site = one["scale"][along] * (at + 0.5) + one["shift"][along]
            cells, side = (8, 64) if along == 0 else (6, 48)
            expected = large.sites([[whole, whole]], CELL)[0, along]
            assert site * cells / side - 0.5 == pytest.approx(expected)

    def test_vectors_of_length_zero_stay_zero(self):
        values = np.ones((4, 2, 2), np.float32)
        values[:, 0, 1] = 0
        found = pack([values])
        assert not found.map(0)[:, 0, 1].any()
        np.testing.assert_allclose(found.map(0)[:, 1, 1], 1, rtol=1e-6)

    @pytest.mark.parametrize("kind", ["float16", "bfloat16"])
    def test_half_precision(self, kind):
        values = torch.randn(4, 3, 3, generator=torch.Generator().manual_seed(0))
        found = pack([values.to(getattr(torch, kind))])
        assert np.abs(found.map(0) - values.numpy()).max() < 0.03

    def test_components_keep_the_dots_of_vectors_of_low_rank(self):
        rng = np.random.default_rng(0)
        mixed = rng.normal(size=(5, 40))
        vectors = [(rng.normal(size=(6, 7, 5)) @ mixed).astype(np.float32) for _ in range(2)]
        for some in (vectors, [one[:2, :3] for one in vectors]):  # more sites than channels; fewer
            basis = components(some, 5)
            rows = np.concatenate([one.reshape(-1, 40) for one in some]).astype(np.float64)
            np.testing.assert_allclose(rows @ basis @ (rows @ basis).T, rows @ rows.T, atol=2e-3)

    def test_components_are_those_of_scipy(self):
        from scipy.linalg import subspace_angles, svd

        rows = np.random.default_rng(1).normal(size=(90, 12)) * np.arange(1, 13)
        basis = components([rows.reshape(9, 10, 12).astype(np.float32)], 4)
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        np.testing.assert_allclose(subspace_angles(basis, svd(unit)[2][:4].T), 0, atol=1e-4)
        np.testing.assert_allclose(basis.T @ basis, np.eye(4), atol=1e-5)


class TestSize:
    def test_the_file_stays_below_its_limit(self, tmp_path):
        cells = tuple(("up.1", float(t)) for t in range(6))
        maps, pictures = pair_of(channels=200, cells=cells)
        whole, _ = written(tmp_path, maps, pictures)
        assert {one.kept for one in whole} == {200}
        limit = limit_of(pictures, 50_000)
        found, text = written(tmp_path, maps, pictures, limit=limit)
        assert FEWEST <= found[0].kept < 200
        assert len(text.encode()) <= limit
        kept = [one["data"] for cell in data_of(text)["cells"] for one in cell["maps"]]
        assert 48_000 < sum(len(base64.b64decode(one)) for one in kept) <= 50_000
        assert f"{found[0].kept} components of 200" in text

    def test_the_largest_number_that_fits(self):
        shapes = {"a": [(100, 4, 4), (100, 2, 2)], "b": [(30, 8, 8)]}
        for room in (1200, 2000, 4200):
            most = kept_channels(shapes, room)
            sizes = [
                sum(h * w * (min(c, k) + 4) for c, h, w in [*shapes["a"], *shapes["b"]])
                for k in (most, most + 1)
            ]
            assert sizes[0] <= room < sizes[1]
        assert kept_channels(shapes, 4256) is None

    def test_what_does_not_fit_at_all(self, tmp_path):
        maps, pictures = pair_of(channels=200)
        with pytest.raises(SpecError, match="fewer cells"):
            written(tmp_path, maps, pictures, limit=limit_of(pictures, 96 * 11))
        assert not (tmp_path / "p.html").exists()


class TestAgreement:
    def test_it_is_what_the_page_computes(self, tmp_path):
        """Against the data of the page, read on its own, and cosines in plain float64."""
        maps, pictures = pair_of(channels=64)
        (found,), text = written(tmp_path, maps, pictures, limit=limit_of(pictures, 96 * 30))
        cell = data_of(text)["cells"][0]
        assert cell["channels"] == found.kept < 64
        small = [
            Maps({CELL: unpacked(cell, k)}, one.size, one.input_size) for k, one in enumerate(maps)
        ]
        near, off, count = 0, [], 0
        for a, b in ((0, 1), (1, 0)):
            height, width = maps[a].size
            rows, columns = round(height * 12 / width), 12
            points = [((c + 0.5) * width / columns - 0.5, (r + 0.5) * height / rows - 0.5)
                      for r in range(rows) for c in range(columns)]  # fmt: skip
            best = [NearestMatcher().match(each[a], each[b], points).points
                    for each in (maps, small)]  # fmt: skip
            apart = np.subtract(*best) * (8 / maps[b].size[1], 6 / maps[b].size[0])
            near += (np.linalg.norm(apart, axis=1) <= 1).sum()
            count += len(points)
            off.append(np.abs(np.subtract(*(cosines(each[a], each[b], points)
                                            for each in (maps, small)))))  # fmt: skip
        assert found.points == count
        assert found.same == near / count < 1
        assert found.difference == pytest.approx(np.concatenate(off).mean(), rel=1e-4)
        assert f"{100 * found.same:.1f} % of {count} points" in text

    def test_few_components_are_told_apart_from_many(self, tmp_path):
        maps, pictures = pair_of(channels=200)
        (many,), _ = written(tmp_path, maps, pictures)
        (few,), _ = written(tmp_path, maps, pictures, limit=limit_of(pictures, 96 * 20))
        assert few.kept < 20
        assert many.same > 0.98 > few.same
        assert many.difference < 0.005 < few.difference

    def test_three_pictures_are_compared_in_a_ring(self, tmp_path):
        maps, pictures = pair_of()
        (found,), _ = written(tmp_path, [*maps, maps[0]], [*pictures, pictures[0]], "abc")
        assert found.points == 3 * 9 * 12


def cosines(source: Maps, target: Maps, points) -> np.ndarray:
    """Of features at points, by torch's own bilinear reading, with all sites."""
    at = torch.tensor(points, dtype=torch.float64)
    grid = (at + 0.5) / torch.tensor(source.size[::-1]) * 2 - 1
    values = torch.as_tensor(np.asarray(source[CELL], np.float64))[None]
    read = torch.nn.functional.grid_sample(values, grid[None, None], align_corners=False,
                                           padding_mode="border")[0, :, 0].T  # fmt: skip
    sites = torch.as_tensor(np.asarray(target[CELL], np.float64)).flatten(1).T
    return torch.nn.functional.cosine_similarity(read[:, None], sites[None], dim=2).numpy()


class TestBadInput:
    def test_what_does_not_belong_together(self, tmp_path):
        maps, pictures = pair_of()
        for some, shown, names, told in (
            (maps[:1], pictures[:1], "a", "2 to 8"),
            (maps, pictures, "abc", "3 names"),
            (maps * 5, pictures * 5, "abcdefghij", "2 to 8"),
            (maps, pictures[::-1], "ab", "120×90 pixels"),
            (maps, [pictures[0].astype(float), pictures[1]], "ab", "uint8"),
            ([maps[0], maps_of((90, 120), channels=17)], pictures, "ab", "equally many channels"),
            ([maps[0], maps_of((90, 120), cells=(("up.0", 20.0),))], pictures, "ab", "same cells"),
        ):  # fmt: skip
            with pytest.raises(SpecError, match=told):
                write_pair_page(tmp_path / "p.html", some, shown, names)
        assert not (tmp_path / "p.html").exists()

    @pytest.mark.parametrize("number", [np.nan, np.inf])
    def test_numbers_that_are_none(self, tmp_path, number):
        maps, pictures = pair_of()
        maps[1].values[CELL][3, 2, 1] = number
        with pytest.raises(SpecError, match="nan or inf"):
            write_pair_page(tmp_path / "p.html", maps, pictures, "ab")
