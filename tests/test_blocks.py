import pytest

from diffeat.blocks import BlockInfo, resolve_blocks
from diffeat.errors import SpecError

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


def names(*patterns, blocks=BLOCKS):
    return [block.name for block in resolve_blocks(patterns, blocks)]


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
