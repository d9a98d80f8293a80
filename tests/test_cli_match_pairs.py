"""`diffeat match --pairs`: textures that were moved by whole pixels, so that all is known."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffeat.cli.match import KINDS, match
from diffeat.cli.match_options import SETTINGS
from diffeat.search.matching import scored
from tests.test_cli_match import CLEAN, MODEL, MOVED, found_of, rows_of, texture

COLUMNS = "source,target,source_x,source_y,target_x,target_y"
HEADER = f"{COLUMNS},category,target_x1,target_y1,target_x2,target_y2\n"
POINTS = ((8, 9), (20, 11), (14, 22), (23, 25))
NAMES = "abcd"


def moved_by(k: int) -> np.ndarray:
    """By how much the texture of a picture lies further than that of the first."""
    return k * np.array(MOVED)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Four pictures of one texture, and a list of pairs: every picture with its neighbours."""
    folder = tmp_path_factory.mktemp("pairs")
    for k, name in enumerate(NAMES):
        Image.fromarray(texture(0, tuple(moved_by(k).tolist()))).save(folder / f"{name}.png")
    lines = [HEADER]
    for a, b in ((0, 1), (1, 0), (1, 2), (2, 1)):
        # the last of the points truly lies elsewhere, so that it counts as wrong
        lines += [row_of(a, b, point, off=-9 * (point == POINTS[-1])) for point in POINTS[a:]]
    (folder / "pairs.csv").write_text("".join(lines))
    return folder


def row_of(a: int, b: int, point, off: float = 0) -> str:
    x, y = np.array(point) - (MOVED if a else 0)
    to = np.array([x, y]) + moved_by(b) - moved_by(a)
    both, what = f"{NAMES[a]}.png,{NAMES[b]}.png", "cat" if a else "dog"
    return f"{both},{x},{y},{to[0] + off},{to[1]},{what},0,0,20,16\n"


@pytest.fixture(scope="module")
def list_(folder) -> Path:
    return folder / "pairs.csv"


@pytest.fixture
def file(diffeat, folder, tmp_path) -> Path:
    assert diffeat("extract", MODEL, folder / "*.png", "-o", tmp_path / "f.h5", *CLEAN).code == 0
    return tmp_path / "f.h5"


def tables_of(answer) -> list[dict]:
    assert answer.code == 0, answer.err
    return json.loads(answer.out)["tables"]


class TestTable:
    def test_the_share_that_is_found_and_how_it_is_counted(self, diffeat, file, list_, tmp_path):
        out = ("--csv", tmp_path / "p.csv", "--class-csv", tmp_path / "c.csv")
        answer = diffeat("match", file, "--pairs", list_, "--alphas", "0.1,0.5", *out)
        assert answer.code == 0, answer.err
        # of 4 + 3 + 3 + 2 points the last of each pair is said to lie elsewhere
        point, pair = 100 * 8 / 12, 100 * (3 / 4 + 2 / 3 + 2 / 3 + 1 / 2) / 4
        lines = [line.split() for line in answer.out.splitlines() if line.startswith("all, ")]
        assert [line[-2:] for line in lines] == [
            [f"{point:.1f}", "100.0"],
            [f"{pair:.1f}", "100.0"],
        ]
        assert "larger side of the target's box, per point, ≤, original pixels" in answer.out
        assert "NearestMatcher" in answer.out
        assert [row["right@0.1"] for row in rows_of(tmp_path / "p.csv")] == ["3", "2", "2", "1"]
        assert [row["class"] for row in rows_of(tmp_path / "c.csv")] == ["cat", "dog"]

    def test_other_ways_of_counting(self, diffeat, file, list_):
        asked = ("match", file, "--pairs", list_, "--alphas", "0.1", "--json")
        [table] = tables_of(diffeat(*asked, "--reference", "image", "--aggregate", "pair"))
        [value] = table["values"]
        assert (value["reference"], value["aggregate"]) == ("image", "pair")
        [table] = tables_of(diffeat(*asked, "--preset", "dift,sd-dino"))
        assert {one["strict"] for one in table["values"]} == {True, False}
        assert diffeat(*asked, "--preset", "dift", "--aggregate", "pair").code == 2
        answer = diffeat(*asked, "--preset", "DIFT")
        assert (answer.code, "expected dift, sd-dino" in answer.err) == (2, True)

    def test_matches_too(self, diffeat, file, list_, tmp_path):
        answer = diffeat("match", file, "--pairs", list_, "-o", tmp_path / "m.csv")
        assert answer.code == 0, answer.err
        rows = rows_of(tmp_path / "m.csv")
        given = rows_of(list_)
        assert [row["source"] for row in rows] == [row["source"] for row in given]
        far = found_of(rows)[:, 2:] - found_of(given)[:, 2:]
        np.testing.assert_array_equal(far[:3], 0)
        np.testing.assert_array_equal(far[3], (9, 0))

    def test_a_list_without_truth(self, diffeat, file, list_, tmp_path):
        bare = list_.parent / "bare.csv"
        bare.write_text("source,target,source_x,source_y\na.png,b.png,8,9\nb.png,a.png,13,12\n")
        answer = diffeat("match", file, "--pairs", bare)
        assert (answer.code, "-o M.csv" in answer.err) == (2, True)
        answer = diffeat("match", file, "--pairs", bare, "-o", tmp_path / "m.csv")
        assert answer.code == 0, answer.err
        assert "2 pairs, 2 points, 2 groups, without a truth" in answer.out
        np.testing.assert_array_equal(
            found_of(rows_of(tmp_path / "m.csv"))[:, 2:], [(13, 12), (8, 9)]
        )

        answer = diffeat("match", file, "--pairs", bare, "--json", "--csv", tmp_path / "p.csv")
        assert (answer.code, "leave --csv out" in answer.err) == (2, True)
        answer = diffeat("match", file, "--pairs", bare, "--json", "--check", 3)
        found = json.loads(answer.out)
        assert found["cells"] == ["conv_in t=0"]
        assert "matched back within 3 px" in found["matcher"]
        assert [row["target_x"] for row in found["matches"]] == [13, 8]

    def test_what_a_check_does_not_confirm_counts_as_wrong(self, diffeat, file, list_, tmp_path):
        bare = list_.parent / "apart.csv"
        # the border's patches are nowhere in d, so ways back from what is most like them may miss
        points = ((23, 25), (0, 0), (31, 0), (0, 31), (31, 31), (0, 12))
        lines = [f"a.png,d.png,{x},{y},6,2" for x, y in points]
        bare.write_text("\n".join([COLUMNS, *lines]))
        asked = ("match", file, "--pairs", bare, "--alphas", "5")
        rows = {}
        for name, more in (("all", ()), ("checked", ("--check", 2))):
            out = ("--json", "-o", tmp_path / f"{name}.csv")
            [table] = tables_of(diffeat(*asked, *more, *out))
            rows[name] = found_of(rows_of(tmp_path / f"{name}.csv")), table
        np.testing.assert_array_equal(rows["all"][0], rows["checked"][0])
        back = bare.parent / "back.csv"
        lines = [f"d.png,a.png,{x:.0f},{y:.0f},0,0" for x, y in rows["all"][0][:, 2:]]
        back.write_text("\n".join([COLUMNS, *lines]))
        diffeat("match", file, "--pairs", back, "-o", tmp_path / "back.csv")
        far = found_of(rows_of(tmp_path / "back.csv"))[:, 2:] - rows["all"][0][:, :2]
        confirmed = np.hypot(*far.T) <= 2
        assert 0 < confirmed.sum() < len(points)
        assert [one[1]["unsaid"] for one in rows.values()] == [0, (~confirmed).sum()]
        assert rows["all"][1]["values"][0]["pck"] == 1
        assert rows["checked"][1]["values"][0]["pck"] == confirmed.mean()

    def test_means_over_classes_need_classes(self, diffeat, folder, list_, tmp_path):
        bare = list_.parent / "nameless.csv"
        bare.write_text(f"{COLUMNS}\na.png,b.png,8,9,13,12\n")
        cache = ("--cache", tmp_path / "cache.h5")
        asked = ("match", MODEL, "--pairs", bare, *CLEAN, *cache)
        for more, said in (
            (("--aggregate", "class"), "has no category"),
            (("--preset", "dift"), "expected a box"),
            (("--reference", "extent"), "expected"),
        ):
            answer = diffeat(*asked, *more)
            assert answer.code == 2
            assert said in answer.err
        assert not (tmp_path / "cache.h5").exists()  # no feature was computed for that
        answer = diffeat(*asked, "--aggregate", "pair", "--json")
        assert tables_of(answer)[0]["values"][0]["reference"] == "image"

    def test_pictures_in_two_files(self, diffeat, folder, file, list_, tmp_path):
        both = []
        for name, some in (("one.h5", "a.png"), ("two.h5", "[b-d].png")):
            both.append(tmp_path / name)
            assert diffeat("extract", MODEL, folder / some, "-o", both[-1], *CLEAN).code == 0
        asked = ("--pairs", list_, "--json")
        one, two = (tables_of(diffeat("match", *files, *asked))
                    for files in ([file], both))  # fmt: skip
        assert one[0]["values"] == two[0]["values"]
        answer = diffeat("match", both[0], *asked)
        assert answer.code == 2
        assert "pictures of" in answer.err
        assert "are not there" in answer.err

    def test_several_cells(self, diffeat, folder, list_, tmp_path):
        path = tmp_path / "two.h5"
        diffeat("extract", MODEL, folder / "*.png", "-o", path, *CLEAN, "-b", "down.0.res.0")
        answer = diffeat("match", path, "--pair-list", list_)
        assert (answer.code, "--each" in answer.err) == (2, True)
        tables = tables_of(diffeat("match", path, "--pairs", list_, "--each", "--json"))
        assert [one["features"] for one in tables] == ["conv_in t=0", "down.0.res.0 t=0"]
        one = diffeat("match", path, "--pairs", list_, "-b", "conv_in", "--json")
        assert tables_of(one) == tables[:1]
        [both] = tables_of(diffeat("match", path, "--pairs", list_, "--combine", "sum", "--json"))
        assert both["features"] == "conv_in t=0 + down.0.res.0 t=0"

    def test_several_cells_each_in_a_file_of_its_own(self, diffeat, folder, list_, tmp_path):
        path, out = tmp_path / "two.h5", ("-o", tmp_path / "m.csv", "--csv", tmp_path / "p.csv")
        diffeat("extract", MODEL, folder / "*.png", "-o", path, *CLEAN, "-b", "down.0.res.0")
        answer = diffeat("match", path, "--pairs", list_, "--each", *out)
        assert answer.code == 0, answer.err
        assert "m-1.csv: down.0.res.0 t=0" in answer.err
        for place, block in enumerate(("conv_in", "down.0.res.0")):
            assert diffeat("match", path, "--pairs", list_, "-b", block, *out).code == 0
            for name in "mp":
                alone, each = (tmp_path / f"{name}{end}.csv" for end in ("", f"-{place}"))
                assert each.read_text() == alone.read_text()
        assert {row["features"] for row in rows_of(tmp_path / "p-1.csv")} == {"down.0.res.0 t=0"}


class TestResumed:
    def test_finished_pairs_are_kept(self, diffeat, file, list_, tmp_path, monkeypatch):
        monkeypatch.setattr(scored, "CHUNK", 1)
        asked = ("match", file, "--pairs", list_, "--out", tmp_path / "kept")
        first = diffeat(*asked)
        assert "0 pieces of work were there already, 4 computed now" in first.err
        kept = sorted((tmp_path / "kept").glob("*.json"))
        kept[0].unlink()
        second = diffeat(*asked)
        assert "3 pieces of work were there already, 1 computed now" in second.err
        assert second.out == first.out
        third = diffeat(*asked, "--metric", "l2")
        assert "0 pieces of work were there already, 4 computed now" in third.err

    def test_matches_are_written_in_the_same_pass_and_kept(
        self, diffeat, file, list_, tmp_path, monkeypatch
    ):
        monkeypatch.setattr(scored, "CHUNK", 3)
        streamed, whole = [], scored.stream

        def watched(*args):
            for pair, matches in whole(*args):
                streamed.append(pair)
                yield pair, matches

        monkeypatch.setattr(scored, "stream", watched)
        asked = ("match", file, "--pairs", list_, "-o", tmp_path / "m.csv")
        first = diffeat(*asked)
        assert first.code == 0, first.err
        assert sorted(streamed) == [0, 1, 2, 3]
        rows = (tmp_path / "m.csv").read_bytes()
        for pairs in (4, 0):
            streamed.clear()
            again = diffeat(*asked, "--out", tmp_path / "kept")
            assert len(streamed) == pairs
            assert again.out == first.out
            assert (tmp_path / "m.csv").read_bytes() == rows

    def test_matches_without_a_truth_are_kept_too(self, diffeat, file, list_, tmp_path):
        bare = list_.parent / "bare2.csv"
        bare.write_text("source,target,source_x,source_y\na.png,b.png,8,9\nb.png,a.png,13,12\n")
        asked = ("match", file, "--pairs", bare, "--out", tmp_path / "kept", "--json")
        first, second = diffeat(*asked), diffeat(*asked)
        assert "0 pieces of work were there already, 1 computed now" in first.err
        assert "1 pieces of work were there already, 0 computed now" in second.err
        assert second.out == first.out

    def test_interrupted(self, diffeat, file, list_, tmp_path, monkeypatch):
        monkeypatch.setattr(scored, "CHUNK", 1)
        whole, calls = scored.count, []

        def stopped(*args, **more):
            calls.append(args)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return whole(*args, **more)

        asked = ("match", file, "--pairs", list_, "--out", tmp_path / "kept")
        monkeypatch.setattr(scored, "count", stopped)
        answer = diffeat(*asked)
        assert answer.code == 130
        assert "finished pairs are kept" in answer.err
        monkeypatch.setattr(scored, "count", whole)
        again = diffeat(*asked)
        assert "2 pieces of work were there already, 2 computed now" in again.err
        assert again.out == diffeat("match", file, "--pairs", list_).out


class TestModel:
    def test_straight_from_a_model(self, diffeat, file, list_, tmp_path):
        asked = ("match", MODEL, "--pairs", list_, *CLEAN)
        first = diffeat(*asked)
        assert first.code == 0, first.err
        assert "temporary folder" in first.err
        assert first.out == diffeat("match", file, "--pairs", list_).out
        cached = (*asked, "--cache", tmp_path / "cache.h5")
        assert "3 pictures, 3 computed now" in diffeat(*cached).err
        again = diffeat(*cached)
        assert "3 pictures, 0 computed now" in again.err
        assert again.out == first.out
        # the pictures of a list are found again for what is drawn
        drawn = ("a.png", "b.png", "--png", tmp_path / "lines.png")
        answer = diffeat("match", tmp_path / "cache.h5", *drawn)
        assert answer.code == 0, answer.err

    def test_what_is_refused_before_anything_is_computed(self, diffeat, list_, tmp_path):
        asked = ("match", MODEL, "--pairs", list_, "--cache", tmp_path / "cache.h5", *CLEAN)
        for more, said in (
            (("-t", "5"), "2 cells here: conv_in at t=0, conv_in at t=5"),
            (("--points", "3,4"), "--points: not for lists of pairs"),
            (("--radius", 3), "has no use for --radius"),
        ):
            answer = diffeat(*asked, *more)
            assert answer.code == 2
            assert said in answer.err
        assert not (tmp_path / "cache.h5").exists()
        answer = diffeat("match", MODEL, "a.png", "--pairs", list_, *CLEAN)
        assert (answer.code, "the list names the pictures" in answer.err) == (2, True)


class TestBadLists:
    @pytest.mark.parametrize(("rows", "said"), [
        ("a.png,z.png,8,9,1,1", "z.png"),
        ("a.png,../b.png,8,9,1,1", ".."),
        ("a.png,b.png,8,nan,1,1", "nan"),
        ("a.png,b.png,8,9,60,1", "outside"),
        ("", "no rows"),
    ])  # fmt: skip
    def test_are_refused_by_name(self, diffeat, file, folder, rows, said):
        path = folder / "bad.csv"
        path.write_text(f"{COLUMNS}\n{rows}\n")
        answer = diffeat("match", file, "--pairs", path)
        assert answer.code in (1, 2)
        assert said in answer.err
        assert "Traceback" not in answer.err

    def test_a_picture_that_is_another_one_by_now(self, diffeat, list_, tmp_path):
        for name in NAMES[:3]:
            picture = list_.parent / f"{name}.png"
            (tmp_path / picture.name).write_bytes(picture.read_bytes())
        (tmp_path / "pairs.csv").write_text(list_.read_text())
        path = tmp_path / "f.h5"
        assert diffeat("extract", MODEL, tmp_path / "*.png", "-o", path, *CLEAN).code == 0
        Image.fromarray(texture(7)).save(tmp_path / "b.png")
        answer = diffeat("match", path, "--pairs", tmp_path / "pairs.csv")
        assert answer.code == 2
        assert "'b.png'" in answer.err
        assert "something else" in answer.err

    def test_points_outside_can_be_left_out(self, diffeat, file, folder):
        path = folder / "beyond.csv"
        path.write_text(f"{COLUMNS}\na.png,b.png,8,9,13,12\na.png,b.png,20,11,60,1\n")
        assert diffeat("match", file, "--pairs", path).code == 1
        [table] = tables_of(diffeat("match", file, "--pairs", path, "--outside", "drop", "--json"))
        assert table["points"] == 1

    def test_no_such_set(self, diffeat, file):
        answer = diffeat("match", file, "--pairs", "spare:test")
        assert (answer.code, "did you mean 'spair'" in answer.err) == (1, True)


def test_the_examples_of_the_page_run(diffeat, tmp_path, monkeypatch, capsys):
    """With textures in place of the horses."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "horses").mkdir()
    rng = np.random.default_rng(0)
    for name, size in (("horse027", (192, 512, 3)), ("horse014", (178, 220, 3))):
        Image.fromarray(rng.integers(0, 256, size, np.uint8)).save(f"horses/{name}.jpg")
    row = "horse027.jpg,horse014.jpg,78,170,15,60\n"
    Path("horses/pairs.csv").write_text(f"{COLUMNS}\n{row}")
    cell = ("-t", 20, "-b", "up.0.attn.0")
    assert diffeat("extract", MODEL, "horses", "-o", "horses.h5", *cell).code == 0
    page = Path(__file__).parent.parent / "docs/matching.md"
    examples = re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.S)
    assert len(examples) == 2
    given = {}
    for example in examples:
        exec(example, given)
    assert given["found"].points.shape == (2, 2)
    assert "per point, ≤, original pixels" in capsys.readouterr().out


def test_every_option_of_two_pictures_lists_and_clips_is_told():
    docs = Path(__file__).parent.parent / "docs"
    page = "".join((docs / name).read_text("utf-8") for name in ("matching.md", "video.md"))
    own = {one for names in (*KINDS.values(), SETTINGS) for one in names}
    flags = {one.opts[0] for one in match.params if one.name in own}
    assert len(flags) > 20
    assert not {flag for flag in flags if flag not in page}
