import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from diffeat.errors import PictureError, SourceError
from diffeat.images import HubSource, load_batches, open_source
from tests.images.builders import PICTURE, noise, saved
from tests.versions import wants

hub = pytest.importorskip("datasets")

IMAGE = hub.Image()
CLASSES = hub.ClassLabel(names=["cat", "dog", "owl"])
TEXT = hub.Value("string")


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    for name in ("HF_DATASETS_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "1")
    # the environment is read at import, which may have been earlier
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def raw(data):
    return {"bytes": data, "path": None}


def dataset(features=None, **columns):
    """Pictures of noise unless told, with a column for every argument."""
    if "image" not in columns:
        count = len(next(iter(columns.values()), range(3)))
        columns["image"] = [raw(saved(noise(k))) for k in range(count)]
    features = hub.Features({"image": IMAGE, **(features or {})})
    return hub.Dataset.from_dict(columns, features=features)


@pytest.fixture
def serve(monkeypatch):
    """Put a data set on a pretended hub, which knows no other; returns the calls to it."""

    def on_hub(data, splits=("train", "test")):
        calls = []

        def load(*args, **kwargs):
            calls.append((args, kwargs))
            return data

        monkeypatch.setattr(hub, "load_dataset", load)
        monkeypatch.setattr(hub, "get_dataset_split_names", lambda name: list(splits))
        return calls

    return on_hub


@pytest.fixture
def save(tmp_path):
    def to_disk(data, name="data"):
        data.save_to_disk(tmp_path / name)
        return tmp_path / name

    return to_disk


def pixels(source, index):
    return np.asarray(source.load(index))


# pictures


def test_saved_data_set_gives_its_pictures_labels_and_captions(save):
    data = dataset(
        {"label": CLASSES, "caption": TEXT},
        label=[2, 0, 2],
        caption=["an owl", "", "another owl, ä"],
    )
    folder = save(data)
    source = open_source(f"hf:{folder}")
    assert isinstance(source, HubSource)
    assert source.name == f"hf:{folder}"
    assert source.ids == ("all/0000000", "all/0000001", "all/0000002")
    assert source.labels.tolist() == [2, 0, 2]
    assert source.labels.dtype == np.int64
    assert source.class_names == ("cat", "dog", "owl")
    assert source.captions == ("an owl", "", "another owl, ä")
    for index in range(3):
        assert np.array_equal(pixels(source, index), noise(index))


def test_folder_is_recognised_without_hf(save):
    folder = save(dataset())
    assert open_source(folder).ids == open_source(f"hf:{folder}").ids
    assert np.array_equal(pixels(open_source(str(folder)), 2), noise(2))


def test_another_column_is_another_source(save):
    """Of the same table, so that files and rows are the same."""
    columns = {name: [raw(saved(noise(k + first))) for k in range(3)]
               for name, first in (("image", 0), ("other", 3))}  # fmt: skip
    folder = save(dataset({"other": IMAGE}, **columns))
    one, other = (open_source(f"hf:{folder}#{name}") for name in columns)
    assert (one.stats()[:, :3] == other.stats()[:, :3]).all()
    assert not (one.stats() == other.stats()).all(1).any()


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_exif_orientation_is_applied(save, serve, tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = noise(0, 2, 3)
    data = saved(stored, exif=exif)
    expected = np.rot90(stored, {3: 2, 6: -1, 8: 1}[orientation])
    assert np.array_equal(pixels(open_source(save(dataset(image=[raw(data)]))), 0), expected)
    (tmp_path / "x.png").write_bytes(data)
    serve(dataset(image=[{"bytes": None, "path": str(tmp_path / "x.png")}]))
    assert np.array_equal(pixels(open_source("hf:o/n:train"), 0), expected)


def test_16_bit_samples_are_scaled(save):
    data = saved(np.array([[0, 257 * 7, 65_535]], np.uint16))
    assert pixels(open_source(save(dataset(image=[raw(data)]))), 0)[0, :, 0].tolist() == [0, 7, 255]


def test_rows_stay_memory_mapped(save):
    folder = save(dataset())
    source = open_source(folder)
    (mapped,) = source.table.cache_files
    assert mapped["filename"].startswith(str(folder))
    assert source.table.column_names == ["image"]


def test_selected_and_shuffled_rows_are_those_that_were_saved(save):
    data = dataset({"label": CLASSES}, label=[0, 1, 2, 0, 1, 2]).select([5, 0, 4])
    source = open_source(save(data))
    assert source.labels.tolist() == [2, 0, 1]
    assert all(np.array_equal(pixels(source, k), noise(row)) for k, row in enumerate([5, 0, 4]))


def test_saved_output_format_does_not_matter(save):
    data = dataset({"label": CLASSES}, label=[1, 2, 0]).with_format("numpy", columns=["label"])
    source = open_source(save(data))
    assert source.labels.tolist() == [1, 2, 0]
    assert np.array_equal(pixels(source, 1), noise(1))


def test_several_files_are_one_data_set(tmp_path):
    dataset(label=range(7), features={"label": hub.Value("int64")}).save_to_disk(
        tmp_path / "data", num_shards=3
    )
    source = open_source(tmp_path / "data")
    assert len(source) == 7
    assert all(np.array_equal(pixels(source, k), noise(k)) for k in range(7))


def test_threads_read_the_same_table(save):
    data = dataset(image=[raw(saved(noise(k, 30, 30))) for k in range(40)])
    source = open_source(save(data))
    order = np.random.default_rng(0).permutation(np.repeat(np.arange(40), 4))
    with ThreadPoolExecutor(8) as pool:
        loaded = pool.map(lambda k: pixels(source, k), order)
        assert all(np.array_equal(p, noise(k, 30, 30)) for k, p in zip(order, loaded, strict=True))
    (batch,) = load_batches(source, [(3, 6)], (30, 30), workers=3)
    assert np.array_equal(batch.pixels[2], noise(5, 30, 30).transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("record", "match"),
    [
        (None, "its row holds no picture"),
        (raw(b""), "not a picture, or empty"),
        (raw(PICTURE[:60]), "cannot be decoded"),
        ({"bytes": None, "path": "gone/x.png"}, "no such file"),
        ({"bytes": None, "path": "https://example.org/x.png"}, "which is not fetched"),
        ({"bytes": None, "path": "zip://x.png::https://example.org/x.zip"}, "is not fetched"),
    ],
)
def test_broken_picture_is_named_when_it_is_read(serve, record, match):
    serve(dataset(image=[raw(PICTURE), record]))
    source = open_source("hf:o/n:train")
    assert np.array_equal(pixels(source, 0), noise(0))
    with pytest.raises(PictureError, match=f"'train/0000001': .*{match}"):
        source.load(1)
    assert source.fingerprint()


def test_take_keeps_pictures_labels_and_captions_together(save):
    data = dataset({"label": CLASSES, "text": TEXT}, label=[0, 1, 2, 1], text=list("abcd"))
    source = open_source(save(data))
    taken = source.take(np.array([3, 1, 2])).take([1, 0])
    assert isinstance(taken, HubSource)
    assert taken.ids == ("all/0000001", "all/0000003")
    assert taken.labels.tolist() == [1, 1]
    assert taken.captions == ("b", "d")
    assert taken.class_names == source.class_names
    assert np.array_equal(pixels(taken, 1), noise(3))


# splits


@pytest.fixture
def splits(save):
    return save(
        hub.DatasetDict(
            train=dataset({"label": CLASSES}, label=[0, 1, 2]),
            test=dataset(image=[raw(saved(noise(9)))]),
        )
    )


def test_split_of_a_saved_dict(splits):
    source = open_source(f"hf:{splits}:test")
    assert source.ids == ("test/0000000",)
    assert np.array_equal(pixels(source, 0), noise(9))
    assert open_source(f"hf:{splits}:train").labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize("prefix", ["hf:", ""])
def test_several_splits_have_to_be_chosen_from(splits, prefix):
    with pytest.raises(SourceError, match=rf"has the splits train, test; .* hf:{splits}:train"):
        open_source(f"{prefix}{splits}")


def test_only_split_is_taken(save):
    folder = save(hub.DatasetDict(validation=dataset()))
    assert open_source(folder).ids[0] == "validation/0000000"


def test_unknown_split_is_refused(splits):
    with pytest.raises(SourceError, match=r"no split 'tset'; expected train, test \(did you mean"):
        open_source(f"hf:{splits}:tset")


def test_split_that_was_saved_with_the_data_is_its_name(save):
    data = dataset()
    named = hub.Dataset(data.data, info=data.info, split=hub.Split.TRAIN)
    folder = save(named)
    assert open_source(f"hf:{folder}:train").ids[0] == open_source(folder).ids[0] == "train/0000000"
    with pytest.raises(
        SourceError, match=f"no split 'test', .* only 'train'; open it as hf:{folder}"
    ):
        open_source(f"hf:{folder}:test")


@pytest.mark.parametrize("split", ["train[:10]", "../data", "a+b"])
def test_split_that_is_no_name_is_refused(splits, split):
    with pytest.raises(SourceError, match="is no name of a split"):
        open_source(f"hf:{splits}:{split}")


def test_dict_that_names_another_folder_as_its_split_is_refused(splits):
    (splits / "dataset_dict.json").write_text(json.dumps({"splits": ["../data/train"]}))
    with pytest.raises(SourceError, match=r"damaged, .*names the split '\.\./data/train'"):
        open_source(splits)


# columns


def test_several_picture_columns_have_to_be_chosen_from(save):
    data = dataset({"mask": IMAGE}, image=[noise(0)], mask=[noise(1)])
    folder = save(data)
    with pytest.raises(SourceError, match=rf"2 picture columns; .* hf:{folder}#image \(columns: "):
        open_source(folder)
    assert np.array_equal(pixels(open_source(f"hf:{folder}#mask"), 0), noise(1))


def test_column_of_a_split(save):
    data = dataset({"mask": IMAGE}, image=[noise(0)], mask=[noise(1)])
    folder = save(hub.DatasetDict(train=data, test=data))
    assert np.array_equal(pixels(open_source(f"hf:{folder}:test#mask"), 0), noise(1))
    with pytest.raises(SourceError, match=rf"hf:{folder}:test#image"):
        open_source(f"hf:{folder}:test")


def test_unknown_column_names_those_there_are(save):
    folder = save(dataset({"label": CLASSES}, label=[0]))
    for column in ("imag", "label"):
        with pytest.raises(SourceError, match=rf"no picture column '{column}'; .*label \(ClassLab"):
            open_source(f"hf:{folder}#{column}")


def test_data_set_without_pictures_is_refused(save):
    folder = save(hub.Dataset.from_dict({"text": ["a"]}))
    with pytest.raises(SourceError, match=r"no picture column, its columns are text \(Value\)"):
        open_source(folder)


@pytest.mark.parametrize(
    ("labels", "warns"), [([0, -1, 2], True), ([0, None, 2], True), ([-1, -1, None], False)]
)
def test_labels_are_taken_only_if_every_row_has_one(save, labels, warns):
    folder = save(dataset({"label": CLASSES}, label=labels))
    if warns:
        with pytest.warns(UserWarning, match="1 of 3 rows have no label, so no labels are taken"):
            source = open_source(folder)
    else:
        source = open_source(folder)
    assert (source.labels, source.class_names) == (None, ())


def test_two_class_columns_give_no_labels(save):
    folder = save(dataset({"fine": CLASSES, "coarse": CLASSES}, fine=[2], coarse=[0]))
    with pytest.warns(UserWarning, match=r"2 class columns \(fine, coarse\), so no labels"):
        assert open_source(folder).labels is None


def test_label_without_a_class_name_is_refused(save):
    folder = save(dataset({"label": hub.Value("int64")}, label=[0, 1, 3]))
    info = json.loads((folder / "dataset_info.json").read_text())
    info["features"]["label"] = {"_type": "ClassLabel", "names": ["a", "b", "c"]}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(SourceError, match="column 'label' has labels from 0 to 3; expected 0 to 2"):
        open_source(folder)


@pytest.mark.parametrize("column", ["caption", "text"])
@pytest.mark.parametrize("kind", ["string", "large_string"])
def test_captions_are_text_columns(save, column, kind):
    folder = save(dataset({column: hub.Value(kind)}, **{column: ["a", "b"]}))
    assert open_source(folder).captions == ("a", "b")


def test_caption_goes_before_text_and_numbers_are_no_captions(save):
    both = dataset({"text": TEXT, "caption": TEXT}, text=["t"], caption=["c"])
    assert open_source(save(both, "both")).captions == ("c",)
    number = dataset({"caption": hub.Value("int64"), "text": TEXT}, caption=[1], text=["t"])
    assert open_source(save(number, "number")).captions == ("t",)


def test_captions_are_taken_only_if_every_row_has_one(save):
    folder = save(dataset({"caption": TEXT}, caption=["a", None]))
    with pytest.warns(UserWarning, match="1 of 2 rows have no caption, so no captions"):
        assert open_source(folder).captions is None


# fingerprints


def test_fingerprint_does_not_depend_on_where_the_folder_lies(save, tmp_path):
    folder = save(dataset({"label": CLASSES}, label=[0, 1]))
    shutil.copytree(folder, tmp_path / "elsewhere")
    here, there = open_source(folder), open_source(tmp_path / "elsewhere")
    assert here.fingerprint() == there.fingerprint()
    state = json.loads((folder / "state.json").read_text())
    assert here.revision == state["_fingerprint"]


def test_fingerprint_follows_the_bytes_and_by_rule_1_the_library_too(save):
    folder = save(dataset())
    first = open_source(folder).fingerprint()
    first_by_rule_1 = open_source(folder).by_rule(1).fingerprint()
    assert open_source(folder).take([0, 2, 1]).fingerprint() != first
    (arrow,) = folder.glob("*.arrow")
    whole = arrow.read_bytes()
    arrow.unlink()  # never written over, it may still be mapped
    arrow.write_bytes(whole.replace(b"IDAT", b"IDAX"))
    assert open_source(folder).fingerprint() != first
    arrow.unlink()
    arrow.write_bytes(whole)
    assert open_source(folder).fingerprint() == first
    state = folder / "state.json"
    state.write_text(state.read_text().replace('_fingerprint": "', '_fingerprint": "0'))
    assert open_source(folder).fingerprint() == first
    assert open_source(folder).by_rule(1).fingerprint() != first_by_rule_1


# what is refused


def test_folder_that_was_not_saved_is_refused(tmp_path):
    with pytest.raises(SourceError, match=r"was not made by save_to_disk; expected state\.json"):
        open_source(f"hf:{tmp_path}")


@wants("empty folder")
def test_empty_folder_is_refused(save):
    with pytest.raises(SourceError, match="cannot be loaded"):  # saved without any file
        open_source(save(dataset(image=[])))


def test_empty_data_set_is_refused(serve):
    serve(dataset().select([]))
    with pytest.raises(SourceError, match="no pictures found; split 'train' has no rows"):
        open_source("hf:o/n:train")


@pytest.mark.parametrize(
    "damaged", ["state.json", "dataset_info.json", "data-00000-of-00001.arrow"]
)
@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_damaged_folder_is_refused(save, damaged, text):
    folder = save(dataset())
    (folder / damaged).write_text(text)
    with pytest.raises(SourceError, match=r"damaged, .* cannot be loaded .*; save it again"):
        open_source(folder)


def test_missing_library_says_how_to_install_it(save, monkeypatch):
    folder = save(dataset())
    monkeypatch.setitem(sys.modules, "datasets", None)
    for name in (f"hf:{folder}", folder, "hf:owner/name"):
        with pytest.raises(SourceError, match=r"needs the library datasets .*diffeat\[hf\]"):
            open_source(name)


def test_old_library_that_could_run_scripts_is_refused(monkeypatch):
    monkeypatch.setattr("datasets.__version__", "3.6.0")
    with pytest.raises(SourceError, match=r"datasets 3\.6\.0 can run scripts .*; expected 4\.0"):
        open_source("hf:owner/name")


def test_library_is_imported_only_when_it_is_used():
    code = "import sys, diffeat.images; sys.exit('datasets' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# the hub


def test_split_of_the_hub_goes_through_load_dataset_alone(serve):
    calls = serve(dataset({"label": CLASSES}, label=[2, 1]))
    source = open_source("hf:some-owner/na.me:test")
    assert calls == [(("some-owner/na.me",), {"split": "test"})]  # no remote code, no streaming
    assert source.ids == ("test/0000000", "test/0000001")
    assert source.labels.tolist() == [2, 1]
    assert np.array_equal(pixels(source, 1), noise(1))


def test_nothing_is_loaded_before_a_split_is_chosen(serve):
    calls = serve(dataset())
    with pytest.raises(SourceError, match="has the splits train, test; choose one, as in hf:o/n:t"):
        open_source("hf:o/n")
    assert calls == []
    serve(dataset(), splits=["train"])
    assert open_source("hf:o/n#image").ids[0] == "train/0000000"


def test_script_on_disk_is_never_passed_on(serve, tmp_path, monkeypatch):
    calls = serve(dataset())
    (tmp_path / "owner").mkdir()
    (tmp_path / "owner" / "script.py").write_text("raise SystemExit")
    monkeypatch.chdir(tmp_path)
    for name in ("owner/script.py", "owner/script.py:train", "imagefolder", "a/b/c", "../x", ""):
        with pytest.raises(SourceError, match="expected"):
            open_source(f"hf:{name}")
    assert calls == []


def test_unreachable_hub_is_a_source_error():
    for name in ("hf:nobody/nothing", "hf:nobody/nothing:train"):
        with pytest.raises(SourceError, match="cannot be loaded from the hub or its cache"):
            open_source(name)
