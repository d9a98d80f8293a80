"""`diffeat segment`: masks by a kept head, of stored features and straight from pictures."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import sklearn.metrics
from click.testing import CliRunner
from PIL import Image

import diffeat as package
import probes
from diffeat.cli import cli
from diffeat.search.fitted_on import noted
from diffeat.search.kept import about_head
from diffeat.search.stored import made_of
from diffeat.targets.dense import open_dense
from probes.cells import Cells
from probes.dense import NearestMean

MODEL = "unet-cifar10"
OPTIONS = ("-t", 20, "-b", "conv_in,up.1", "--size", 32, "--fit", "pad", "--batch-size", 3)
NAMES = ["background", "red", "blue"]
PALETTE = [[0, 0, 0], [200, 30, 30], [30, 30, 200]]
SIZES = [(36, 52), (40, 52), (44, 30), (24, 24), (33, 47), (52, 36)]


def toy(k: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture of a red and a blue box, and its mask."""
    rng = np.random.default_rng(k)
    h, w = SIZES[k]
    mask = np.zeros((h, w), np.uint8)
    mask[4 : h // 2, 3 + k : w // 2] = 1
    mask[h // 2 + 2 :, w // 2 :] = 2
    pixels = np.array([[60, 60, 60], [220, 60, 40], [40, 90, 220]])[mask]
    return (pixels + rng.integers(0, 30, (h, w, 3))).clip(0, 255).astype(np.uint8), mask


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """p/: pictures, flat and in a folder, one of them turned by EXIF; t/: their masks; f.h5: maps;
    h.safetensors: a head."""
    folder = tmp_path_factory.mktemp("segment")
    for k in range(len(SIZES)):
        pixels, mask = toy(k)
        name = f"s/{k}.png"
        for where in ("p", "t"):
            (folder / where / "s").mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        if k == 5:  # lies on its side in the file
            exif[0x0112] = 6
            pixels = np.ascontiguousarray(pixels.transpose(1, 0, 2)[::-1])
        Image.fromarray(pixels).save(folder / "p" / name, exif=exif)
        Image.fromarray(mask).save(folder / "t" / name)
    arguments = ["extract", MODEL, folder / "p", "-o", folder / "f.h5", *OPTIONS]
    done = CliRunner().invoke(cli, list(map(str, arguments)))
    assert done.exception is None, done.output
    keep(folder)
    return folder


def cells_of(store: package.FeatureStore) -> Cells:
    keys = [(block, 20) for block in store.blocks]
    return Cells({key: store[key] for key in keys}, sizes=store.sizes,
                 placements=store.placements, input_size=store.spec.size)  # fmt: skip


def keep(folder: Path, name: str = "h.safetensors", **more) -> Path:
    with package.FeatureStore(folder / "f.h5") as store:
        cells = cells_of(store)
        masks = [toy(int(Path(one).stem))[1] for one in store.ids]
        head = NearestMean().fit(cells, masks, classes=NAMES)
        about = {"task": "segmentation", "palette": PALETTE, "fitted_on": noted(store.digests)}
        about |= more
        probes.save(head, folder / name, about_head(made_of(store), cells.keys, NAMES, **about))
    return folder / name


@pytest.fixture
def wanted(place) -> dict[str, np.ndarray]:
    """Masks by the head alone, from the file."""
    head = probes.load(place / "h.safetensors", "cpu")
    with package.FeatureStore(place / "f.h5") as store:
        return dict(zip(store.ids, head.predict(cells_of(store)), strict=True))


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


class TestMasks:
    def test_of_a_file(self, diffeat, place, wanted, tmp_path):
        answer = diffeat("segment", place / "f.h5", "--head", place / "h.safetensors", "-o",
                         tmp_path / "m", "--overlay", "--uncertainty", "--pictures", place / "p",
                         "--csv", tmp_path / "a.csv")  # fmt: skip
        assert answer.code == 0, answer.err
        rows = {row["id"]: row for row in rows_of(tmp_path / "a.csv")}
        assert list(rows) == list(wanted)
        for name, mask in wanted.items():
            path = tmp_path / "m" / rows[name]["file"]
            with Image.open(path) as image:
                assert image.mode == "P"
                assert image.getpalette()[:9] == np.ravel(PALETTE).tolist()
                np.testing.assert_array_equal(np.asarray(image), mask)
            assert mask.shape == SIZES[int(Path(name).stem)]  # as it is seen, turned or not
            shares = [float(rows[name][f"share of {one}"]) for one in NAMES]
            np.testing.assert_allclose(shares, np.bincount(mask.ravel(), minlength=3) / mask.size,
                                       rtol=1e-6)  # fmt: skip
            assert (tmp_path / "m/overlays" / path.relative_to(tmp_path / "m")).with_suffix(
                ".jpg").is_file()  # fmt: skip
        meaning = json.loads((tmp_path / "m/classes.json").read_text("utf-8"))
        assert [one["name"] for one in meaning["classes"]] == NAMES
        assert [one["color"] for one in meaning["classes"]] == PALETTE
        assert "6 masks of 6 pictures" in answer.out

    def test_uncertainty_is_the_heads(self, diffeat, place, tmp_path):
        diffeat("segment", place / "f.h5", "--head", place / "h.safetensors", "-o", tmp_path / "m",
                "--uncertainty", "--csv", tmp_path / "a.csv")  # fmt: skip
        head = probes.load(place / "h.safetensors", "cpu")
        scale = json.loads((tmp_path / "m/classes.json").read_text("utf-8"))["uncertainty"]["scale"]
        with package.FeatureStore(place / "f.h5") as store:
            for row, doubt in zip(rows_of(tmp_path / "a.csv"), head.uncertainty(cells_of(store)),
                                  strict=True):  # fmt: skip
                levels = read(tmp_path / "m/uncertainty" / row["file"]).astype(float)
                np.testing.assert_allclose(levels * scale, doubt, atol=scale / 1.9)
                assert float(row["uncertainty"]) == pytest.approx(doubt.mean(), rel=1e-5)
                top = np.sort(doubt.ravel())[-(doubt.size // 10) :].mean()
                assert float(row["uncertainty_top10"]) == pytest.approx(top, rel=1e-5)

    def test_pictures_and_their_file_give_the_same(self, diffeat, place, wanted, tmp_path):
        """With the batches of the file, to the last bit; nothing else is written."""
        for what in ((place / "p",), (MODEL, place / "p")):
            out = tmp_path / f"{len(what)}"
            answer = diffeat("segment", *what, "--head", place / "h.safetensors", "-o", out,
                             "--batch-size", 3, "--csv", tmp_path / "live.csv")  # fmt: skip
            assert answer.code == 0, answer.err
            for name, mask in wanted.items():
                np.testing.assert_array_equal(read(out / name), mask)
            files = [path for path in out.rglob("*") if path.is_file()]
            assert len(files) == len(wanted) + 1
        diffeat("segment", place / "f.h5", "--head", place / "h.safetensors", "-o", tmp_path / "f",
                "--csv", tmp_path / "file.csv")  # fmt: skip
        assert (tmp_path / "live.csv").read_text() == (tmp_path / "file.csv").read_text()

    def test_only_so_many(self, diffeat, place, tmp_path):
        answer = diffeat("segment", place / "f.h5", "--head", place / "h.safetensors", "-o",
                         tmp_path / "m", "--limit", 2, "--json")  # fmt: skip
        found = json.loads(answer.out)
        assert (found["pictures"], found["predicted"]) == (2, 2)
        assert sum(found["shares"].values()) == pytest.approx(1)
        assert len(list((tmp_path / "m").rglob("*.png"))) == 2

    def test_a_second_run_writes_the_same_and_another_head_does_not(self, diffeat, place, tmp_path):
        asked = ("segment", place / "f.h5", "-o", tmp_path / "m", "--limit", 1, "--head")
        assert diffeat(*asked, place / "h.safetensors").code == 0
        before = (tmp_path / "m/s/0.png").read_bytes()
        assert diffeat(*asked, place / "h.safetensors").code == 0
        assert (tmp_path / "m/s/0.png").read_bytes() == before
        head = probes.load(place / "h.safetensors", "cpu")
        head.means_ = head.means_ + 1
        probes.save(head, tmp_path / "other.safetensors")
        answer = diffeat(*asked, tmp_path / "other.safetensors")
        assert answer.code == 2
        assert "holds what another run made (digest:" in answer.err
        assert diffeat(*asked, tmp_path / "other.safetensors", "--overwrite").code == 0

    def test_memory_is_that_of_a_batch(self, place, monkeypatch):
        """Pictures are asked for as masks are taken, not before."""
        from diffeat.search.applied import pieces_of_pictures
        from diffeat.search.dense.applied import AppliedDense
        from diffeat.search.kept import load_head

        source = package.open_source(place / "p")
        loaded, load = [], type(source).load
        monkeypatch.setattr(
            type(source), "load", lambda self, index: loaded.append(index) or load(self, index)
        )
        head, note = load_head(place / "h.safetensors", "cpu")
        backbone = package.load(MODEL, device="cpu", dtype="float32")
        _, pieces = pieces_of_pictures(backbone, source, note, batch_size=1, workers=1)
        first = next(AppliedDense(head, note, note.spec.size).predict(next(pieces)))
        assert first.row == 0
        assert len(loaded) < len(source)
        pieces.close()


class TestTruth:
    def by_hand(self, wanted, spoil=None) -> dict:
        """Of scikit-learn, over all pixels that count."""
        found = np.concatenate([wanted[name].ravel() for name in wanted])
        true = np.concatenate([toy(int(Path(name).stem))[1].ravel() for name in wanted])
        return {"mIoU": sklearn.metrics.jaccard_score(true, found, average="macro"),
                "pixel accuracy": sklearn.metrics.accuracy_score(true, found),
                "mean accuracy": sklearn.metrics.balanced_accuracy_score(true, found)}  # fmt: skip

    @pytest.mark.parametrize("what", ["f.h5", "p"])
    def test_scores_are_those_by_hand(self, diffeat, place, wanted, tmp_path, what):
        asked = ("segment", place / what, "--head", place / "h.safetensors", "--truth", place / "t",
                 "--csv", tmp_path / "a.csv", "--batch-size", 3)  # fmt: skip
        asked = asked[:-2] if what == "f.h5" else asked
        answer = diffeat(*asked, "--json")
        assert answer.code == 0, answer.err
        scores = json.loads(answer.out)["scores"]
        for name, value in self.by_hand(wanted).items():
            assert scores[name] == pytest.approx(value, abs=1e-9)
        assert set(scores["IoU"]) == set(NAMES)
        low, high = scores["interval"]
        assert low <= scores["mIoU"] <= high
        assert "absent: skip" in scores["policy"]
        for row in rows_of(tmp_path / "a.csv"):
            true, found = toy(int(Path(row["id"]).stem))[1], wanted[row["id"]]
            score = sklearn.metrics.jaccard_score(true.ravel(), found.ravel(), average="macro")
            assert float(row["mIoU"]) == pytest.approx(score, rel=1e-6)
        risk = scores["risk-coverage"]
        assert risk["oracle"] <= risk["aurc"] <= 1
        assert risk["random"] == pytest.approx(1 - scores["pixel accuracy"])
        assert "was fitted on 6 of these 6 pictures, so no score of them is a test" in answer.err

    def test_a_table_for_people(self, diffeat, place, wanted):
        answer = diffeat("segment", place / "f.h5", "--head", place / "h.safetensors", "--truth",
                         place / "t")  # fmt: skip
        score = self.by_hand(wanted)["mIoU"]
        assert f"mIoU {100 * score:.2f} %" in answer.out
        for word in (*NAMES, "boundary F", "risk-coverage: area", "in random order", "IoU %"):
            assert word in answer.out

    def test_ignored_pixels_and_a_missing_mask(self, diffeat, place, wanted, tmp_path):
        shutil.copytree(place / "t", tmp_path / "t")
        (tmp_path / "t/s/1.png").unlink()
        wrong = np.where(wanted["s/0.png"] != toy(0)[1], 255, toy(0)[1]).astype(np.uint8)
        Image.fromarray(wrong).save(tmp_path / "t/s/0.png")
        answer = diffeat("segment", place / "f.h5", "--head", place / "h.safetensors", "--truth",
                         tmp_path / "t", "--csv", tmp_path / "a.csv", "--json")  # fmt: skip
        assert answer.code == 0, answer.err
        scores = json.loads(answer.out)["scores"]
        assert (scores["pictures"], scores["without a true mask"]) == (5, 1)
        rows = {row["id"]: row["mIoU"] for row in rows_of(tmp_path / "a.csv")}
        assert (rows["s/0.png"], rows["s/1.png"]) == ("1", "")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda t: (t / "classes.txt").write_text("0 background\n1 red\n2 blue\n3 owl"),
             "classes that the head does not know: owl"),
            (lambda t: Image.new("L", (52, 36), 7).save(t / "s/0.png"), "holds 7, of which"),
            (lambda t: Image.new("L", (5, 5)).save(t / "s/0.png"), "is 5×5"),
            (lambda t: [one.rename(t / f"other{k}.png") for k, one in enumerate(
                sorted((t / "s").iterdir()))], "none of 6 pictures has a mask"),
            (lambda t: Image.new("RGB", (52, 36)).save(t / "s/0.png"), "holds colours"),
        ],
    )  # fmt: skip
    def test_truth_that_will_not_do(self, diffeat, place, tmp_path, change, message):
        shutil.copytree(place / "t", tmp_path / "t")
        change(tmp_path / "t")
        answer = diffeat("segment", place / "f.h5", "--head", place / "h.safetensors", "--truth",
                         tmp_path / "t", "--csv", tmp_path / "a.csv")  # fmt: skip
        assert answer.code in (1, 2)
        assert message in " ".join(answer.err.split())
        assert "--on-error" not in answer.err  # which is of pictures
        assert not (tmp_path / "a.csv").exists()

    def test_classes_go_by_name_and_not_by_number(self, diffeat, place, tmp_path):
        shutil.copytree(place / "t", tmp_path / "t")
        (tmp_path / "t/classes.txt").write_text("0 red\n1 blue\n2 background")
        for path in (tmp_path / "t/s").iterdir():
            Image.fromarray(np.array([2, 0, 1], np.uint8)[read(path)]).save(path)
        scores = [
            json.loads(diffeat("segment", place / "f.h5", "--head", place / "h.safetensors",
                               "--truth", folder, "--json").out)["scores"]
            for folder in (place / "t", tmp_path / "t")
        ]  # fmt: skip
        assert scores[0] == scores[1]

    def test_what_is_written_can_be_read_as_targets(self, diffeat, place, wanted, tmp_path):
        diffeat("segment", place / "f.h5", "--head", place / "h.safetensors", "-o", tmp_path / "m")
        targets = open_dense(tmp_path / "m", pictures=list(wanted))
        assert (targets.classes, targets.ignore) == (tuple(NAMES), 255)
        assert targets.palette.tolist() == PALETTE
        for row, name in enumerate(targets.ids):
            np.testing.assert_array_equal(targets.target(row), wanted[name])


class TestBroken:
    @pytest.fixture
    def broken(self, place, tmp_path):
        shutil.copytree(place / "p", tmp_path / "p")
        (tmp_path / "p/s/2.png").write_bytes(b"no picture")
        return tmp_path / "p"

    def test_pictures_that_cannot_be_read(self, diffeat, place, broken, tmp_path):
        asked = ("segment", broken, "--head", place / "h.safetensors", "-o", tmp_path / "m")
        answer = diffeat(*asked)
        assert answer.code == 1
        assert "--on-error skip" in answer.err
        answer = diffeat(*asked, "--on-error", "skip", "--csv", tmp_path / "a.csv")
        assert answer.code == 0, answer.err
        rows = {row["id"]: row for row in rows_of(tmp_path / "a.csv")}
        bad = rows.pop("s/2.png")
        assert "not a picture" in bad["error"]
        assert bad["file"] == bad["uncertainty"] == ""
        assert len(rows) == 5
        assert all(row["error"] == "" and row["file"] for row in rows.values())
        assert "1 of 6 pictures could not be read" in answer.err


class TestRefused:
    def refused(self, diffeat, *asked, code=2):
        answer = diffeat("segment", *asked)
        assert answer.code == code, answer.err
        return " ".join(answer.err.split())

    def test_options_that_do_not_go_together(self, diffeat, place, tmp_path):
        file, head = place / "f.h5", ("--head", place / "h.safetensors")
        for asked, message in (
            ((file, *head), "nothing would come of it"),
            ((file, *head, "--overlay", "--json"), "--overlay is for -o masks/"),
            ((file, *head, "--pictures", "x", "--json"), "--pictures is for --overlay"),
            ((file, place / "p", *head, "--json"), "holds features, so"),
            ((file, *head, "--batch-size", 2, "--json"), "--batch-size is for PICTURES"),
            ((file, "--json"), "--head"),
        ):
            assert message in self.refused(diffeat, *asked)

    def test_a_head_of_another_kind(self, diffeat, place, tmp_path):
        head = probes.LinearProbe().fit(np.random.default_rng(0).normal(size=(9, 4)),
                                        np.arange(9) % 2)  # fmt: skip
        with package.FeatureStore(place / "f.h5") as store:
            about = about_head(made_of(store), [("conv_in", 20)])
        probes.save(head, tmp_path / "l.safetensors", about)
        text = self.refused(diffeat, place / "f.h5", "--head", tmp_path / "l.safetensors", "--json")
        assert "LinearProbe says something of a whole picture" in text
        assert "diffeat predict" in text

    def test_predict_says_segment(self, diffeat, place):
        answer = diffeat("predict", place / "h.safetensors", place / "f.h5")
        assert answer.code == 2
        assert f"diffeat segment {place / 'f.h5'} --head" in " ".join(answer.err.split())

    def test_vectors_in_place_of_maps(self, diffeat, place, tmp_path):
        diffeat("extract", MODEL, place / "p", "-o", tmp_path / "v.h5", *OPTIONS, "--pool", "1x1")
        text = self.refused(diffeat, tmp_path / "v.h5", "--head", place / "h.safetensors",
                            "--json", code=1)  # fmt: skip
        assert "pool: '1x1' → 'none'" in text

    def test_features_of_another_spec(self, diffeat, place, tmp_path):
        keep(place, "other.safetensors", spec={"timesteps": [20], "blocks": ["conv_in", "up.1"],
                                               "pool": "none", "seed": 3})  # fmt: skip
        text = self.refused(diffeat, place / "f.h5", "--head", place / "other.safetensors",
                            "--json", code=1)  # fmt: skip
        assert "seed: 0 → 3" in text

    def test_a_file_without_placements(self, diffeat, place, tmp_path):
        shutil.copy(place / "f.h5", tmp_path / "old.h5")
        with h5py.File(tmp_path / "old.h5", "a") as file:
            del file["placements"], file["sizes"]
        text = self.refused(diffeat, tmp_path / "old.h5", "--head", place / "h.safetensors",
                            "-o", tmp_path / "m")  # fmt: skip
        assert "where the maps lie in their pictures is not known" in text

    def test_a_folder_in_use(self, diffeat, place, tmp_path):
        (tmp_path / "m").mkdir()
        (tmp_path / "m/0.png").write_text("mine")
        asked = (place / "f.h5", "--head", place / "h.safetensors", "-o", tmp_path / "m")
        assert "is in use: it holds '0.png'" in self.refused(diffeat, *asked)
        assert (tmp_path / "m/0.png").read_text() == "mine"
        text = self.refused(diffeat, place / "p", "--head", place / "h.safetensors", "-o",
                            place / "p", "--overwrite")  # fmt: skip
        assert "holds the pictures, which could be written over" in text

    def test_another_model(self, diffeat, place):
        text = self.refused(diffeat, f"{MODEL}@random", place / "p", "--head",
                            place / "h.safetensors", "--json", code=1)  # fmt: skip
        assert "is not the one that the head's features are of" in text

    def test_maps_that_were_aggregated(self, diffeat, place, tmp_path):
        assert diffeat("aggregate", place / "f.h5", "-o", tmp_path / "a.h5", "--concat").code == 0
        with package.FeatureStore(tmp_path / "a.h5") as store:
            key = store.blocks[0], store.timesteps[0]
            cells = Cells({key: store[key]}, sizes=store.sizes, placements=store.placements,
                          input_size=store.spec.size)  # fmt: skip
            masks = [toy(int(Path(one).stem))[1] for one in store.ids]
            head = NearestMean().fit(cells, masks, classes=NAMES)
            wanted = list(head.predict(cells))
            probes.save(head, tmp_path / "h.safetensors", about_head(made_of(store), [key]))
        asked = ("--head", tmp_path / "h.safetensors", "-o", tmp_path / "m")
        assert "diffeat aggregate made" in self.refused(diffeat, place / "p", *asked)
        assert diffeat("segment", tmp_path / "a.h5", *asked).code == 0
        for k, mask in enumerate(wanted):
            np.testing.assert_array_equal(read(tmp_path / f"m/s/{k}.png"), mask)
