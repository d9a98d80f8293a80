import json
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import numpy as np
import pytest

from diffeat.errors import SpecError
from diffeat.hashing import digest, files_fingerprint, fingerprint, unit_interval
from diffeat.specs import ExtractSpec, differences, pool_size

FULL = {
    "timesteps": (20, 0.25, "sigma=0.3"),
    "blocks": ("up.0", "mid"),
    "pool": "2x3",
    "ensemble": 4,
    "seed": 9,
    "noise": "inversion",
    "steps": 20,
    "prompt": "a photo of a 猫",
    "label": "class",
    "label_map": "classes 猫.csv",
    "latent": "sample",
    "scale_latent": False,
    "size": (64, 96),
    "fit": "crop",
    "resample": "lanczos",
    "tile": (32, 48),
    "mirror": True,
    "corrupt": "contrast:2",
    "tile_noise": "tile",
    "tile_layout": "shifted",
    "heads": (0, 2),
    "tokens": (5, 1),
    "low_pass": 0.25,
    "discard": (7,),
    "dtype": "float32",
}
# of these only one may be given
INSTEAD_OF_A_PROMPT = {"captions": "captions 猫.csv", "embeddings": "text.safetensors"}
# nor of these two
OTHER = {**FULL, **INSTEAD_OF_A_PROMPT, "flip": True}


def spec(**changes):
    return ExtractSpec(**{"timesteps": (20,), "blocks": ("up.0",), **changes})


def full(**changes):
    """Every field set, with what is given instead of the prompt."""
    values = {**FULL, **changes}
    if changes:
        del values["prompt"]
    return values


WHOLE = [full(), *(full(**{name: value}) for name, value in INSTEAD_OF_A_PROMPT.items())]


def test_the_full_example_sets_every_field_to_other_than_its_default():
    assert {field.name for field in fields(ExtractSpec)} == set(OTHER)
    plain = spec()
    assert all(getattr(plain, name) != value for name, value in OTHER.items())


def test_defaults():
    # a file of version 0.1.0 has none of the younger fields; these are what it meant
    assert spec().to_dict() == {
        "timesteps": [20], "blocks": ["up.0"], "pool": "none", "ensemble": 1, "seed": 0,
        "noise": "per-image", "steps": 50, "prompt": "", "captions": None, "embeddings": None,
        "label": None, "latent": "mean", "scale_latent": True, "size": None, "fit": "squash",
        "resample": "bicubic", "tile": None, "flip": False, "heads": None, "tokens": None,
        "discard": [], "dtype": "float16",
    }  # fmt: skip


# round trips


@pytest.mark.parametrize("values", [*WHOLE, {"timesteps": (0,), "blocks": ("all",)}])
def test_json_round_trip(values):
    original = ExtractSpec(**values)
    again = ExtractSpec.from_json(original.to_json())
    assert again == original
    assert again.fingerprint == original.fingerprint
    for name in ("timesteps", "blocks", "discard"):
        assert type(getattr(again, name)) is tuple
    assert hash(again) == hash(original)


def test_dict_holds_plain_json_values():
    values = ExtractSpec(**FULL).to_dict()
    assert values["timesteps"] == [20, 0.25, "sigma=0.3"]
    assert (values["size"], values["tile"]) == ([64, 96], [32, 48])
    assert (values["heads"], values["tokens"], values["discard"]) == ([0, 2], [5, 1], [7])
    assert json.loads(json.dumps(values)) == values


def test_toml_file(tmp_path):
    path = tmp_path / "my spec.toml"
    path.write_text(
        'timesteps = [20, "sigma=0.3"]\nblocks = ["up.*"]\nsize = [32, 48]\n'
        'prompt = "ein Foto für 猫"\npool = "1x1"\n',
        encoding="utf-8",
    )
    expected = ExtractSpec(
        timesteps=(20, "sigma=0.3"), blocks=("up.*",), size=(32, 48),
        prompt="ein Foto für 猫", pool="1x1",
    )  # fmt: skip
    assert ExtractSpec.from_file(path) == expected


@pytest.mark.parametrize("values", WHOLE)
def test_every_field_can_be_written_in_toml(tmp_path, values):
    # of these values, JSON's notation is TOML's
    plain = ExtractSpec(**values).to_dict()
    lines = [f"{name} = {json.dumps(value)}" for name, value in plain.items() if value is not None]
    (tmp_path / "s.toml").write_text("\n".join(lines), encoding="utf-8")
    assert ExtractSpec.from_file(tmp_path / "s.toml") == ExtractSpec(**values)


@pytest.mark.parametrize("values", WHOLE)
def test_json_file(tmp_path, values):
    (tmp_path / "s.json").write_text(ExtractSpec(**values).to_json())
    assert ExtractSpec.from_file(str(tmp_path / "s.json")) == ExtractSpec(**values)


@pytest.mark.parametrize("name", ["s.toml", "s.json"])
@pytest.mark.parametrize("content", [b"{ timesteps", b"\xff\xfe", b""])
def test_broken_file_is_refused_by_name(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SpecError, match=f"{name}.*expected TOML or JSON|no timesteps"):
        ExtractSpec.from_file(tmp_path / name)


def test_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(SpecError, match=r"gone\.toml.*No such file"):
        ExtractSpec.from_file(tmp_path / "gone.toml")


@pytest.mark.parametrize("text", ["[1, 2]", '["timesteps", "blocks"]', "null", "3", '"a"'])
def test_json_file_that_holds_no_fields_is_refused(tmp_path, text):
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(SpecError):
        ExtractSpec.from_file(tmp_path / "s.json")


def test_broken_json_is_refused():
    with pytest.raises(SpecError):
        ExtractSpec.from_json("{")


def test_unknown_field_names_the_nearest():
    with pytest.raises(SpecError, match=r"no field 'timestep' .did you mean 'timesteps'"):
        ExtractSpec.from_dict({"timestep": [20], "blocks": ["up.0"]})


@pytest.mark.parametrize("missing", ["timesteps", "blocks"])
def test_missing_field_is_named(missing):
    values = {"timesteps": [20], "blocks": ["up.0"]}
    del values[missing]
    with pytest.raises(SpecError, match=f"the spec has no {missing}"):
        ExtractSpec.from_dict(values)


# values


def test_single_values_become_tuples():
    assert spec(timesteps=20).timesteps == (20,)
    assert spec(timesteps="sigma=0.3").timesteps == ("sigma=0.3",)
    assert spec(blocks="up.0").blocks == ("up.0",)
    assert spec(timesteps=range(0, 30, 10)).timesteps == (0, 10, 20)


def test_one_size_is_square():
    assert spec(size=48).size == (48, 48)
    assert spec(size=[48, 32]).size == (48, 32)
    assert spec(size=48).fingerprint == spec(size=(48, 48)).fingerprint


def test_one_tile_size_is_square():
    assert spec(tile=48).tile == (48, 48)
    assert spec(tile=np.array([48, 32])).tile == (48, 32)
    assert spec(tile=None).tile is None


def test_the_mode_of_a_gaussian_is_its_mean():
    assert spec(latent="mode").latent == "mean"
    assert spec(latent="mode") == spec(latent="mean") == spec()
    assert spec(latent="mode").fingerprint == spec().fingerprint
    assert ExtractSpec.from_dict({**spec().to_dict(), "latent": "mode"}) == spec()


@pytest.mark.parametrize("field", ["heads", "tokens", "discard"])
def test_one_index_is_a_tuple_of_one(field):
    assert getattr(spec(**{field: 3}), field) == (3,)
    assert getattr(spec(**{field: [3, 0]}), field) == (3, 0)  # in the order given
    found = getattr(spec(**{field: np.array([2, 5])}), field)
    assert found == (2, 5)
    assert {type(index) for index in found} == {int}


def test_nothing_to_discard():
    assert spec(discard=None).discard == spec(discard=[]).discard == spec().discard == ()
    assert spec(heads=None).heads is None


@pytest.mark.parametrize("field", INSTEAD_OF_A_PROMPT)
def test_files_may_be_paths(field):
    assert getattr(spec(**{field: Path("a") / "b.csv"}), field) == "a/b.csv"
    assert json.loads(spec(**{field: Path("a/b.csv")}).to_json())[field] == "a/b.csv"


def test_the_label_may_be_each_pictures_own():
    assert spec(label="class").label == "class"
    assert spec(label=np.int64(3)).label == 3
    assert spec(label=0).fingerprint != spec(label=None).fingerprint


@pytest.mark.parametrize("names", [("prompt", "captions"), ("prompt", "embeddings"),
                                   ("captions", "embeddings"),
                                   ("prompt", "captions", "embeddings")])  # fmt: skip
def test_only_one_kind_of_text_is_taken(names):
    with pytest.raises(SpecError, match=f"^{' and '.join(names)} are given; expected one of them"):
        spec(**{name: OTHER[name] for name in names})


def test_an_empty_prompt_leaves_room_for_captions():
    assert spec(prompt="", captions="c.csv").captions == "c.csv"
    assert spec(prompt="a", captions="", embeddings=None).prompt == "a"


def test_no_pool_is_none():
    assert spec(pool=None).pool == spec(pool="").pool == "none"


def test_numpy_timesteps_round_trip():
    original = spec(timesteps=np.arange(0, 60, 20))
    assert ExtractSpec.from_json(original.to_json()).timesteps == (0, 20, 40)
    assert original.fingerprint == spec(timesteps=(0, 20, 40)).fingerprint


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("noise", "per-picture", "noise='per-picture' is unknown.*did you mean .*'per-image'"),
        ("noise", None, "noise=None is unknown"),
        ("noise", "inverted", "noise='inverted' is unknown.*did you mean 'inversion'"),
        ("latent", "median", "latent='median' is unknown; expected 'mean' or 'sample'"),
        ("latent", "Mode", "latent='Mode' is unknown; expected 'mean' or 'sample'"),
        (
            "fit",
            "stretch",
            "fit='stretch' is unknown; expected 'squash' or 'crop' or 'box-crop' or 'pad' or "
            "'native'",
        ),
        ("resample", "linear", "resample='linear' is unknown.*did you mean 'bilinear'"),
        ("dtype", "float64", "dtype='float64' is unknown.*'float16'"),
        ("ensemble", 0, "ensemble=0; expected at least 1"),
        ("ensemble", -3, "ensemble=-3; expected at least 1"),
        ("steps", 0, "steps=0; expected at least 1"),
        ("steps", -1, "steps=-1; expected at least 1"),
        ("label", "cat", "label='cat'; expected a whole number, or 'class'"),
        ("heads", (0, 0), r"heads=\(0, 0\); expected different indices from 0"),
        ("heads", (-1,), r"heads=\(-1,\); expected different indices from 0"),
        ("heads", (), "heads is empty; expected at least one index, or null for all"),
        ("tokens", [3, 1, 3], r"tokens=\[3, 1, 3\]; expected different indices from 0"),
        ("tokens", -2, "tokens=-2; expected different indices from 0"),
        ("tokens", [], "tokens is empty; expected at least one index, or null for all"),
        ("discard", (4, 4), r"discard=\(4, 4\); expected different indices from 0"),
        ("discard", (-1,), r"discard=\(-1,\); expected different indices from 0"),
        ("tile", 0, "tile=0; expected height and width in whole pixels"),
        ("tile", (32, -1), "tile=.*; expected height and width in whole pixels"),
        ("tile", (32,), "tile=.*; expected height and width in whole pixels"),
        ("size", 0, "size=.* expected height and width"),
        ("size", (32, -1), "size=.* expected height and width"),
        ("size", (32,), "size=.* expected height and width"),
        ("size", (3, 32, 32), "size=.* expected height and width"),
        ("size", "256", "size=.* expected height and width"),
        ("pool", "2", "pool='2'; expected 'none' or rows×columns"),
        ("pool", "0x2", "pool='0x2'; expected"),
        ("pool", "-1x2", "pool='-1x2'; expected"),
        ("pool", "2x2x2", "pool='2x2x2'; expected"),
        ("pool", "mean", "pool='mean'; expected"),
        ("pool", "²x2", "pool='²x2'; expected"),
    ],
)
def test_value_that_cannot_be_meant_is_refused(field, value, message):
    with pytest.raises(SpecError, match=message):
        spec(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ensemble", 1.5),
        ("ensemble", "2"),
        ("seed", "x"),
        ("seed", 1.5),
        ("seed", None),
        ("size", "25"),
        ("size", 64.0),
        ("size", (1.5, 2)),
        ("pool", 2),
        ("size", True),
        ("tile", "32"),
        ("tile", 32.0),
        ("tile", (True, 32)),
        ("steps", 2.5),
        ("steps", "50"),
        ("steps", True),
        ("steps", None),
        ("label", 1.5),
        ("label", True),
        ("label", ["class"]),
        ("prompt", 3),
        ("prompt", None),
        ("prompt", Path("a")),
        ("captions", 3),
        ("captions", ["a", "b"]),
        ("embeddings", b"x"),
        ("scale_latent", 1),
        ("scale_latent", None),
        ("scale_latent", "yes"),
        ("flip", 0),
        ("flip", None),
        ("flip", "true"),
        ("heads", "0,1"),
        ("heads", 1.0),
        ("heads", (1.5,)),
        ("tokens", (True,)),
        ("tokens", "all"),
        ("discard", ("3",)),
        ("blocks", 5),
        ("blocks", (5,)),
        ("timesteps", None),
        ("timesteps", (None,)),
        ("resample", ["bicubic"]),
    ],
)
def test_value_of_a_wrong_type_is_refused(field, value):
    with pytest.raises(SpecError, match=field):
        spec(**{field: value})


@pytest.mark.parametrize(("text", "grid"), [("1x1", (1, 1)), ("2x3", (2, 3)), ("4X4", (4, 4))])
def test_pool_size(text, grid):
    assert pool_size(text) == grid


def test_no_pooling_has_no_grid():
    assert pool_size("none") is None


def test_spec_is_frozen():
    with pytest.raises(FrozenInstanceError):
        spec().seed = 1


# fingerprints


@pytest.mark.parametrize("field", OTHER)
def test_fingerprint_changes_with_every_field(field):
    beside = {"tile": 16} if field.startswith("tile_") else {}  # which they need
    beside |= {"label": "class"} if field == "label_map" else {}
    assert spec(**{**beside, field: OTHER[field]}).fingerprint != spec(**beside).fingerprint


def test_fingerprint_changes_with_order():
    assert spec(timesteps=(1, 2)).fingerprint != spec(timesteps=(2, 1)).fingerprint


def test_fingerprint_is_equal_for_equal_specs():
    assert ExtractSpec(**FULL).fingerprint == ExtractSpec(**FULL).fingerprint


def test_fingerprint_depends_on_the_order_of_heads_and_tokens():
    for field in ("heads", "tokens"):
        assert spec(**{field: (0, 1)}).fingerprint != spec(**{field: (1, 0)}).fingerprint


def test_differences_names_fields_old_and_new_values():
    found = spec(seed=1).to_dict()
    wanted = spec(seed=2, pool="1x1").to_dict()
    assert differences(found, wanted) == ["pool: 'none' → '1x1'", "seed: 1 → 2"]
    assert differences(found, found) == []


def test_differences_sees_fields_that_only_one_side_has():
    assert differences({"old": 1}, {"new": 2}) == ["new: None → 2", "old: 1 → None"]


# hashes


def test_hashes_are_the_same_for_ever():
    assert fingerprint("a", "bc") == "3f35ed8d1b13f674dca9dc5d1b259297"
    assert digest("noise", 0, "é", 1).hex() == "006d43bee86f913a9181c17c0d7cd840"
    assert unit_interval("limit", 0, "p1") == pytest.approx(0.49698360210591125, abs=1e-15)


def test_hash_keeps_neighbouring_parts_apart():
    assert digest("a", "bc") != digest("ab", "c")
    assert digest("1") != digest(1)
    assert digest(["a"], "b") != digest("a", ["b"])


def test_hash_accepts_file_names_that_are_no_unicode():
    assert digest("\udcff.png") != digest("\udcfe.png")


def test_hash_does_not_depend_on_the_order_of_keys():
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})


def test_unit_interval_is_uniform():
    values = np.array([unit_interval("limit", 0, f"p{k}") for k in range(4000)])
    assert 0 <= values.min() < values.max() < 1
    # ten bins of about 400: chi-square with 9 degrees of freedom, five standard deviations
    counts = np.histogram(values, 10, (0, 1))[0]
    assert ((counts - 400) ** 2 / 400).sum() < 9 + 5 * 18**0.5


def test_files_fingerprint_follows_names_and_contents_only(tmp_path):
    def written(folder, files):
        paths = [tmp_path / folder / name for name in files]
        (tmp_path / folder).mkdir()
        for path, content in zip(paths, files.values(), strict=True):
            path.write_bytes(content)
        return files_fingerprint(paths)

    first = written("1", {"a": b"x", "b": b"y"})
    assert written("2", {"b": b"y", "a": b"x"}) == first
    others = [
        written("3", {"a": b"x", "b": b"z"}),
        written("4", {"a": b"x", "c": b"y"}),
        written("5", {"a": b"x"}),
    ]
    assert len({first, *others}) == 4
