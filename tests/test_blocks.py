import pytest

from diffeat.blocks import BlockInfo, resolve_blocks, select_names
from diffeat.errors import SpecError
from diffeat.hooks import Tap

UNET = {
    "conv_in": ("conv", "encoder"),
    "down.0.res.0": ("resnet", "encoder"),
    "down.0": ("stage", "encoder"),
    "down.1.res.0": ("resnet", "encoder"),
    "down.1.attn.0": ("attention", "encoder"),
    "down.1": ("stage", "encoder"),
    "mid.res.0": ("resnet", "mid"),
    "mid": ("stage", "mid"),
    "up.0.res.0": ("resnet", "decoder"),
    "up.0.res.1": ("resnet", "decoder"),
    "up.0": ("stage", "decoder"),
    "up.1.res.0": ("resnet", "decoder"),
    "up.1": ("stage", "decoder"),
}
BLOCKS = tuple(
    BlockInfo(name, f"net.{name}", kind, part, 8, 4, "NCHW", order)
    for order, (name, (kind, part)) in enumerate(UNET.items())
)
TRANSFORMER = tuple(
    BlockInfo(f"block.{k}", f"blocks.{k}", "transformer", "blocks", 8, 2, "NLD", k)
    for k in range(28)
)
KINDS = {
    "res": ("in", "increment"),
    "attn": ("block", "self.q", "self.k", "self.map", "cross.q", "cross.map"),
}


def one(layout, **how):
    values = {"channels": 8, "stride": 4, "part": "blocks", **how}
    return BlockInfo("block.0", "blocks.0", "transformer", layout=layout, order=0, **values)


# form, what it says of itself, and its shape for a picture of 32×48 pixels and 7 text tokens
FORMS = [
    (one("NCHW"), {"has_grid"}, (8, 8, 12)),
    (one("NLD"), {"has_grid", "is_tokens"}, (8, 8, 12)),
    (one("patches", part="network"), {"has_grid", "is_patches", "of_network"}, (8, 8, 12)),
    (one("x0", part="network"), {"has_grid", "is_clean", "of_network"}, (8, 8, 12)),
    (one("NCHW", part="vae"), {"has_grid", "of_vae"}, (8, 8, 12)),
    (one("NLD", tensor="adaln"), {"has_grid", "is_tokens", "is_adaptive"}, (8, 8, 12)),
    (one("text", stride=0), {"is_text", "counts_text"}, (7, 8)),
    (one("map", channels=0, keys="text"), {"has_grid", "is_attention", "counts_text"}, (7, 8, 12)),
    (
        one("map", channels=0, keys="image"),
        {"has_grid", "is_attention", "attends_to_image"},
        (96, 8, 12),
    ),
]
ASKED = ("has_grid", "is_text", "is_tokens", "is_patches", "is_attention", "is_clean",
         "is_adaptive", "attends_to_image", "counts_text", "of_vae", "of_network")  # fmt: skip


@pytest.mark.parametrize(("block", "true", "shape"), FORMS)
def test_a_tensor_knows_its_form_and_its_shape(block, true, shape):
    assert {name for name in ASKED if getattr(block, name)} == true
    assert block.shape((32, 48), 7) == shape
    assert block.stored_layout(pooled=True) == "NC"
    assert block.stored_layout(pooled=False) == ("NLD" if "is_text" in true else "NCHW")


def test_heads_and_keys_that_are_kept():
    image = one("map", channels=0, keys="image", heads=4)
    assert image.shape((32, 48), heads=(0, 3)) == (192, 8, 12)
    assert image.shape((32, 48), heads=(0, 3), tokens=(5, 95, 0)) == (6, 8, 12)
    with pytest.raises(SpecError, match=r"tokens=96: the map 'block\.0' has 96 keys"):
        image.shape((32, 48), tokens=(96,))


def with_kinds(blocks, kinds_of):
    """Every block, and behind it its kinds of tensor."""
    found = []
    for block in blocks:
        found.append(block)
        for tensor in kinds_of(block.name):
            tap = Tap(f"{block.path}.{tensor}")
            found.append(
                BlockInfo(f"{block.name}:{tensor}", tap.path, block.kind, block.part, 8, 4,
                          "NCHW", block.order, tensor, tap)
            )  # fmt: skip
    return tuple(found)


def unet_kinds(name):
    words = name.split(".")
    return next((kinds for word, kinds in KINDS.items() if word in words), ())


def single(name, tensor, part):
    kind = "vae" if part == "vae" else "network"
    return BlockInfo(name, "", kind, part, 4, 1, "NCHW", 0, tensor)


ENDS = (
    single("net:in", "in", "network"),
    single("net:x0", "x0", "network"),
    single("vae.down.0.res.0", "", "vae"),
    single("vae.down.0.res.0:in", "in", "vae"),
    single("vae.down.0.res.0:increment", "increment", "vae"),
    single("vae.mid", "", "vae"),
    single("vae", "", "vae"),
)
TENSORS = (*with_kinds(BLOCKS, unet_kinds), *ENDS)
TOKENS = (
    *with_kinds(TRANSFORMER[:3], lambda _: ("in", "adaln", "self.q", "self.map", "cross.map")),
    *ENDS,
)
ALIASES = {
    "dift:0": "up.0",
    "dift:1": "up.1",
    "ddae:1": "up.0.res.0",
    "hyperfeatures:0.0": "up.0.res.0:increment",
    "hyperfeatures:0.1": "up.0.res.1:increment",
    "hyperfeatures:1.0": "up.1.res.0:increment",
    "odise:vae.0": "vae.down.0.res.0:in",
    "ddae:layer-0": "conv_in",
}


def names(*patterns, blocks=BLOCKS, aliases=None):
    return [block.name for block in resolve_blocks(patterns, blocks, aliases)]


def test_one_name_gives_that_block_with_its_description():
    (block,) = resolve_blocks(["up.0.res.1"], BLOCKS)
    assert block is BLOCKS[9]


def test_blocks_come_in_the_order_of_execution():
    assert names("up.1", "down.0", "mid") == ["down.0", "mid", "up.1"]


def test_block_selected_twice_comes_once():
    assert names("up.0", "up.*", "up.0") == ["up.0", "up.1"]


def test_wildcard_stays_within_one_part_of_the_name():
    assert names("up.*") == ["up.0", "up.1"]
    assert names("*") == ["conv_in", "mid"]
    assert names("*.0") == ["down.0", "up.0"]


def test_wildcard_in_the_middle():
    assert names("up.*.res.*") == ["up.0.res.0", "up.0.res.1", "up.1.res.0"]
    assert names("*.*.attn.*") == ["down.1.attn.0"]


def test_character_ranges():
    assert names("block.[12]?", blocks=TRANSFORMER) == [f"block.{k}" for k in range(10, 28)]


def test_name_is_no_prefix():
    assert names("block.1", blocks=TRANSFORMER) == ["block.1"]


def test_double_wildcard_goes_down():
    assert names("down.1.**") == ["down.1.res.0", "down.1.attn.0"]
    assert names("up.**") == ["up.0.res.0", "up.0.res.1", "up.0", "up.1.res.0", "up.1"]
    assert names("**") == list(UNET)


def test_groups():
    assert names("all") == list(UNET)
    assert names("encoder") == list(UNET)[:6]
    assert names("decoder") == list(UNET)[8:]
    assert names("stages") == ["down.0", "down.1", "mid", "up.0", "up.1"]
    assert names("stages", blocks=TRANSFORMER) == names("all", blocks=TRANSFORMER)


def test_unknown_block_names_the_nearest():
    with pytest.raises(SpecError, match=r"block 'up\.0\.rez\.1' selects nothing") as caught:
        names("up.0", "up.0.rez.1")
    assert "did you mean 'up.0.res.1'" in str(caught.value)


def test_block_unlike_any_other_lists_what_there_is():
    with pytest.raises(SpecError, match=r"it has block\.0, block\.1, .*, …") as caught:
        names("qqq", blocks=TRANSFORMER)
    assert "block.27" not in str(caught.value)


def test_group_that_the_model_lacks_is_refused():
    with pytest.raises(SpecError, match="'decoder' selects nothing"):
        names("decoder", blocks=TRANSFORMER)


def test_names_are_case_sensitive():
    with pytest.raises(SpecError, match=r"'UP\.0' selects nothing"):
        names("UP.0")


def test_no_pattern_is_refused():
    with pytest.raises(SpecError, match="no block given"):
        names()


def test_grid_of_a_picture_that_is_not_square():
    assert BLOCKS[0].grid((32, 48)) == (8, 12)


# --- kinds of tensor ------------------------------------------------------------------------


def test_one_tensor_by_its_name():
    (tensor,) = resolve_blocks(["down.1.attn.0:cross.q"], TENSORS)
    assert (tensor.name, tensor.tensor) == ("down.1.attn.0:cross.q", "cross.q")
    assert tensor.where == Tap("net.down.1.attn.0.cross.q")


def test_without_a_colon_only_outputs_are_meant():
    for pattern in ("all", "encoder", "decoder", "stages", "up.*", "up.**", "*.0", "up.*.res.*"):
        assert names(pattern, blocks=TENSORS) == names(pattern), pattern
    assert names("down.1.attn.0", blocks=TENSORS) == ["down.1.attn.0"]


def test_the_same_kind_of_many_places():
    found = ["up.0.res.0:increment", "up.0.res.1:increment", "up.1.res.0:increment"]
    assert names("up.*.res.*:increment", blocks=TENSORS) == found
    assert names("up.**:increment", blocks=TENSORS) == found


def test_wildcards_in_the_kind():
    found = [f"block.{k}:self.{kind}" for k in range(3) for kind in ("q", "map")]
    assert names("block.*:self.*", blocks=TOKENS) == found
    assert names("block.1:*.map", blocks=TOKENS) == ["block.1:self.map", "block.1:cross.map"]
    # within one kind a wildcard knows no parts
    assert names("block.0:*", blocks=TOKENS) == [
        f"block.0:{kind}" for kind in ("in", "adaln", "self.q", "self.map", "cross.map")
    ]
    assert names("block.[02]:self.?", blocks=TOKENS) == ["block.0:self.q", "block.2:self.q"]


def test_a_kind_throughout_a_group():
    decoder = ["up.0.res.0:increment", "up.0.res.1:increment", "up.1.res.0:increment"]
    encoder = ["down.0.res.0:increment", "down.1.res.0:increment"]
    assert names("decoder:increment", blocks=TENSORS) == decoder
    assert names("encoder:increment", blocks=TENSORS) == encoder
    assert names("all:increment", blocks=TENSORS) == [*encoder, "mid.res.0:increment", *decoder]
    assert names("stages:adaln", blocks=TOKENS) == [f"block.{k}:adaln" for k in range(3)]
    assert names("all:self.*", blocks=TOKENS) == names("block.*:self.*", blocks=TOKENS)


def test_groups_leave_out_the_ends_of_the_network_and_the_vae():
    assert names("all", blocks=TENSORS) == list(UNET)
    assert not {"net:in", "vae.down.0.res.0:in"} & set(names("all:in", blocks=TENSORS))
    assert names("vae.**", blocks=TENSORS) == ["vae.down.0.res.0", "vae.mid"]
    assert names("vae", "net:*", blocks=TENSORS) == ["net:in", "net:x0", "vae"]


def test_outputs_and_kinds_come_in_the_order_of_execution():
    asked = ("up.1", "mid.res.0:in", "net:in", "down.1.attn.0:self.q", "down.1.attn.0")
    assert names(*asked, blocks=TENSORS) == [
        "down.1.attn.0", "down.1.attn.0:self.q", "mid.res.0:in", "up.1", "net:in",
    ]  # fmt: skip


def test_an_output_is_read_at_its_path():
    assert BLOCKS[0].where == Tap("net.conv_in")
    assert BLOCKS[0].is_output
    kinds = {block.name: block.is_output for block in TENSORS}
    assert [name for name, output in kinds.items() if output] == list(UNET)


# --- names of papers ------------------------------------------------------------------------


@pytest.mark.parametrize("alias", ALIASES)
def test_every_alias_stands_for_its_tensor(alias):
    assert names(alias, blocks=TENSORS, aliases=ALIASES) == [ALIASES[alias]]


def test_wildcards_select_aliases():
    assert names("dift:*", blocks=TENSORS, aliases=ALIASES) == ["up.0", "up.1"]
    assert names("hyperfeatures:0.*", blocks=TENSORS, aliases=ALIASES) == [
        "up.0.res.0:increment",
        "up.0.res.1:increment",
    ]
    assert len(names("hyperfeatures:*", blocks=TENSORS, aliases=ALIASES)) == 3
    assert names("ddae:[0-9]", blocks=TENSORS, aliases=ALIASES) == ["up.0.res.0"]


def test_aliases_and_names_together_give_each_tensor_once():
    asked = ("dift:1", "up.1", "odise:vae.0", "up.1.res.0:increment", "hyperfeatures:1.0")
    assert names(*asked, blocks=TENSORS, aliases=ALIASES) == [
        "up.1.res.0:increment", "up.1", "vae.down.0.res.0:in",
    ]  # fmt: skip


def test_a_canonical_name_goes_before_an_alias():
    assert names("up.0", blocks=TENSORS, aliases={"up.0": "mid"}) == ["up.0"]


def test_without_aliases_a_papers_name_selects_nothing():
    with pytest.raises(SpecError, match="block 'dift:1' selects nothing"):
        names("dift:1", blocks=TENSORS)


# --- what selects nothing -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "hint"),
    [
        ("up.0.res.1:incremnt", "; up.0.res.1 has in, increment ("),
        ("up.0.res.1:self.q", "; up.0.res.1 has in, increment ("),
        (
            "down.1.attn.0:cross.v",
            "; down.1.attn.0 has block, self.q, self.k, self.map, cross.q, cross.map (",
        ),
        ("net:output", "; net has in, x0 ("),
        ("dift:7", "; of dift this model has dift:0, dift:1 ("),
        ("ddae:layer-9", "; of ddae this model has ddae:1, ddae:layer-0 ("),
        ("up.0.rez.1:increment", "did you mean 'up.0.res.1:increment'"),
        ("dfit:1", "did you mean 'dift:1'"),
        ("decoder:sideways", "; it has conv_in, down.0.res.0, "),
    ],
)
def test_what_selects_nothing_names_what_exists(pattern, hint):
    with pytest.raises(SpecError) as caught:
        names("mid", pattern, blocks=TENSORS, aliases=ALIASES)
    text = str(caught.value)
    assert text.startswith(f"block {pattern!r} selects nothing in this model")
    assert hint in text
    assert text.endswith("(`diffeat blocks MODEL --tensors` lists all)")


def test_what_exists_is_listed_without_kinds_and_ends():
    with pytest.raises(SpecError) as caught:
        names("qqqqqqqq", blocks=TENSORS, aliases=ALIASES)
    shown = str(caught.value).partition("it has ")[2].partition(" (")[0].split(", ")
    assert shown == [*list(UNET)[:11], "…"]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("up.0", ["up.0"]), ("up.0.*", []), ("up.*.res.*", ["up.0.res.0", "up.1.res.2"]),
        ("up.**", ["up.0", "up.0.res.0", "up.1.res.2"]), ("up.*.res.*:in", ["up.1.res.0:in"]),
        ("all", ["up.0", "up.0.res.0", "up.1.res.2", "up.1.res.0:in", "mid"]), ("decoder", []),
    ],
)  # fmt: skip
def test_names_of_a_file(pattern, found):
    names = ["up.0", "up.0.res.0", "up.1.res.2", "up.1.res.0:in", "mid"]
    assert select_names(pattern, names) == found
