import json
from dataclasses import FrozenInstanceError, fields

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
    "noise": "shared",
    "prompt": "a photo of a 猫",
    "label": 3,
    "latent": "sample",
    "size": (64, 96),
    "fit": "crop",
    "resample": "lanczos",
    "dtype": "float32",
}


def spec(**changes):
    return ExtractSpec(**{"timesteps": (20,), "blocks": ("up.0",), **changes})


def test_the_full_example_sets_every_field_to_other_than_its_default():
    assert {field.name for field in fields(ExtractSpec)} == set(FULL)
    plain = spec()
    assert all(getattr(plain, name) != value for name, value in FULL.items())


# round trips


@pytest.mark.parametrize("values", [FULL, {"timesteps": (0,), "blocks": ("all",)}])
def test_json_round_trip(values):
    original = ExtractSpec(**values)
    again = ExtractSpec.from_json(original.to_json())
    assert again == original
    assert again.fingerprint == original.fingerprint
    assert type(again.timesteps) is tuple
    assert hash(again) == hash(original)


def test_dict_holds_plain_json_values():
    values = ExtractSpec(**FULL).to_dict()
    assert values["timesteps"] == [20, 0.25, "sigma=0.3"]
    assert values["size"] == [64, 96]
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


def test_json_file(tmp_path):
    (tmp_path / "s.json").write_text(ExtractSpec(**FULL).to_json())
    assert ExtractSpec.from_file(str(tmp_path / "s.json")) == ExtractSpec(**FULL)


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


def test_no_pool_is_none():
    assert spec(pool=None).pool == spec(pool="").pool == "none"


def test_numpy_timesteps_round_trip():
    original = spec(timesteps=np.arange(0, 60, 20))
    assert ExtractSpec.from_json(original.to_json()).timesteps == (0, 20, 40)
    assert original.fingerprint == spec(timesteps=(0, 20, 40)).fingerprint


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("noise", "per-picture", "noise='per-picture' is unknown.*did you mean 'per-image'"),
        ("noise", None, "noise=None is unknown"),
        ("latent", "mode", "latent='mode' is unknown; expected 'mean' or 'sample'"),
        ("fit", "stretch", "fit='stretch' is unknown; expected 'squash' or 'crop' or 'pad'"),
        ("resample", "linear", "resample='linear' is unknown.*did you mean 'bilinear'"),
        ("dtype", "float64", "dtype='float64' is unknown.*'float16'"),
        ("ensemble", 0, "ensemble=0; expected at least 1"),
        ("ensemble", -3, "ensemble=-3; expected at least 1"),
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
        ("label", "cat"),
        ("prompt", 3),
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


@pytest.mark.parametrize("field", FULL)
def test_fingerprint_changes_with_every_field(field):
    assert spec(**{field: FULL[field]}).fingerprint != spec().fingerprint


def test_fingerprint_changes_with_order():
    assert spec(timesteps=(1, 2)).fingerprint != spec(timesteps=(2, 1)).fingerprint


def test_fingerprint_is_equal_for_equal_specs():
    assert ExtractSpec(**FULL).fingerprint == ExtractSpec(**FULL).fingerprint


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
