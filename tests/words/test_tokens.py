"""Which tokens a word is, against the tokenizers themselves: CLIP's, the T5's, Llama's."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import tokenizers
import transformers
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

from diffeat.backbones.conditioning import TextReader
from diffeat.errors import SpecError
from diffeat.words.tokens import find_word, prompt_tokens, word_tokens
from tests import parts

LINES = [
    "a photo of a cat and a dog on a mat", "a fire hydrant beside a tree", "the cat sat on the mat",
    "an umbrella, a photo of an owl", "photo photo photo cat cat hydrant hydrant fire fire",
] * 8  # fmt: skip
PROMPT = "A photo of a Cat, a fire  hydrant and an umbrella; the cat's mat"
WORDS = {"cat": "cat", "fire hydrant": "firehydrant", "umbrella": "umbrella", "mat": "mat"}
LENGTH = 60


def clip_tokenizer(folder: Path, length: int = LENGTH) -> transformers.CLIPTokenizer:
    """Byte-pair encoding with word endings, learned from LINES."""
    model = tokenizers.Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    trainer = trainers.BpeTrainer(
        vocab_size=330, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        end_of_word_suffix="</w>", show_progress=False,
    )  # fmt: skip
    model.pre_tokenizer = pre_tokenizers.Whitespace()
    model.train_from_iterator(LINES, trainer)
    said = json.loads(model.to_str())["model"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = list(dict.fromkeys([*letters, *(f"{c}</w>" for c in letters), *said["vocab"]]))
    words += ["<|startoftext|>", "<|endoftext|>"]
    merges = [" ".join(one) if isinstance(one, list) else one for one in said["merges"]]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}), "utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), "utf-8")
    return transformers.CLIPTokenizer.from_pretrained(str(folder), model_max_length=length)


def t5_tokenizer(folder: Path) -> transformers.T5TokenizerFast:
    """A unigram model learned from LINES, after NFKC."""
    words = tokenizers.Tokenizer(models.Unigram())
    words.normalizer = normalizers.NFKC()
    words.pre_tokenizer = pre_tokenizers.Metaspace()
    words.train_from_iterator(LINES, trainers.UnigramTrainer(
        vocab_size=60, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>",
        show_progress=False,
    ))  # fmt: skip
    words.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    folder.mkdir(parents=True)
    words.save(str(folder / "tokenizer.json"))
    return transformers.T5TokenizerFast.from_pretrained(
        str(folder), model_max_length=LENGTH, extra_ids=0
    )


def llama_tokenizer(folder: Path) -> transformers.PreTrainedTokenizerFast:
    """Byte-pair encoding with a mark before each word and bytes for what it does not know."""
    words = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    words.pre_tokenizer = pre_tokenizers.Metaspace()  # while it learns: no merge across words
    bytes_ = [f"<0x{k:02X}>" for k in range(256)]
    words.train_from_iterator(LINES, trainers.BpeTrainer(
        vocab_size=420, special_tokens=["<unk>", "<s>", "</s>", *bytes_], show_progress=False,
        max_token_length=8,
    ))  # fmt: skip
    said = json.loads(words.to_str())
    said["pre_tokenizer"] = None
    words = tokenizers.Tokenizer.from_str(json.dumps(said))
    words.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, model_max_length=LENGTH, pad_token="</s>", unk_token="<unk>",
        bos_token="<s>", eos_token="</s>", padding_side="left",
    )  # fmt: skip


MAKERS = {"clip": clip_tokenizer, "t5": t5_tokenizer, "llama": llama_tokenizer}


@pytest.fixture(scope="module")
def tokenizer_of(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizers")
    made = {name: make(folder / name) for name, make in MAKERS.items()}
    return made.__getitem__


def model_of(*readers: TextReader) -> SimpleNamespace:
    """What `prompt_tokens` needs of a backbone."""
    return SimpleNamespace(name="model", embedding_shapes={"x": ()}, text_readers=readers)


def shown(tokenizer, prompt: str, keys, first: int = 0, length: int = LENGTH) -> str:
    """What the tokens at these keys spell, read from the padded ids."""
    ids = tokenizer(prompt, padding="max_length", max_length=length, truncation=True).input_ids
    assert len(ids) == length
    pieces = tokenizer.convert_ids_to_tokens([ids[key - first] for key in keys])
    return "".join(piece.removesuffix("</w>").replace("▁", "") for piece in pieces).casefold()


def test_words_are_their_tokens(tokenizer_of) -> None:
    for name in MAKERS:
        tokenizer, prompt = tokenizer_of(name), PROMPT
        if name != "clip":  # which alone brings its prompts to lower case
            prompt = prompt.lower()
        model = model_of(TextReader(tokenizer, LENGTH, 7))
        for word, text in WORDS.items():
            keys = word_tokens(model, prompt, word)
            count = 2 if word == "cat" else 1
            unknown = shown(tokenizer, prompt, keys, 7).replace("c", "", 0)
            assert unknown == text * count, (name, word, keys)
        one, other = (word_tokens(model, prompt, "cat", nth) for nth in (0, 1))
        assert word_tokens(model, prompt, "CAT") == one + other
        assert one < other
        assert shown(tokenizer, prompt, one, 7) == "cat"


def test_a_word_of_several_tokens(tokenizer_of) -> None:
    """A word that no merge made is all of its pieces."""
    for name in MAKERS:
        tokenizer = tokenizer_of(name)
        model = model_of(TextReader(tokenizer, LENGTH))
        keys = word_tokens(model, "a photo of a dfog and", "dfog")
        assert len(keys) > 1, name
        assert shown(tokenizer, "a photo of a dfog and", keys) == "dfog", name


def test_characters_beyond_ascii(tokenizer_of) -> None:
    """Bytes of a letter, and letters that are not known, belong to the word they stand in."""
    for name in MAKERS:
        tokenizer, prompt = tokenizer_of(name), "a photo of a café on a mat"
        model = model_of(TextReader(tokenizer, LENGTH))
        cafe, mat = (word_tokens(model, prompt, word) for word in ("café", "mat"))
        ids = tokenizer(prompt, padding="max_length", max_length=LENGTH).input_ids
        before = word_tokens(model, prompt, "photo")
        assert shown(tokenizer, prompt, mat) == "mat"
        assert max(before) < min(cafe)
        between = tokenizer.convert_ids_to_tokens([ids[k] for k in range(max(cafe) + 1, min(mat))])
        spelled = "".join(one.removesuffix("</w>").replace("▁", "") for one in between)
        assert spelled == "ona", (name, between)


def test_without_offsets_pieces_are_looked_for(tokenizer_of) -> None:
    """A tokenizer that tells no characters gives the same tokens."""

    class Slow:
        is_fast = False

        def __init__(self, inner):
            self.inner = inner

        def __call__(self, *args, **how):
            assert "return_offsets_mapping" not in how
            return self.inner(*args, **how)

        def __getattr__(self, name):
            return getattr(self.inner, name)

    for name in MAKERS:
        fast, prompt = tokenizer_of(name), PROMPT.lower()
        models_ = [model_of(TextReader(one, LENGTH)) for one in (fast, Slow(fast))]
        for word in WORDS:
            assert word_tokens(models_[0], prompt, word) == word_tokens(models_[1], prompt, word)


def test_what_is_cut_off(tokenizer_of) -> None:
    for name in MAKERS:
        tokenizer, length = tokenizer_of(name), 8
        prompt = "a cat on a mat, a photo of an umbrella and a tree"
        model = model_of(TextReader(tokenizer, length))
        with pytest.warns(UserWarning, match="cut off: .*tree"):
            keys = word_tokens(model, prompt, "cat")
        assert shown(tokenizer, prompt, keys, length=length) == "cat"
        with (
            pytest.warns(UserWarning, match="cut off"),
            pytest.raises(SpecError, match="'tree' lies in what model does not read"),
        ):
            word_tokens(model, prompt, "tree")


def test_two_tokenizers_one_of_which_reads_less(tokenizer_of) -> None:
    """As SD 3 has them: nothing is said to be cut that one of them reads."""
    clip, t5 = tokenizer_of("clip"), tokenizer_of("t5")
    model = model_of(TextReader(clip, 6), TextReader(t5, LENGTH, 6))
    prompt = "a cat on a mat beside a tree"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cat, tree = (word_tokens(model, prompt, word) for word in ("cat", "tree"))
    assert min(cat) < 6 <= max(cat)
    assert min(tree) >= 6
    assert shown(t5, prompt, tree, 6) == "tree"
    assert shown(clip, prompt, [k for k in cat if k < 6], length=6) == "cat"


def test_lower_case_models(tmp_path) -> None:
    """PixArt strips its prompts and brings them to lower case before its tokenizer sees them."""
    tokenizer = parts.t5_tokenizer(tmp_path / "t5")
    model = model_of(TextReader(tokenizer, 16, lower=True))
    keys = word_tokens(model, "  A CAT ", "cat")
    assert shown(tokenizer, "a cat", keys, length=16) == "cat"


def test_padding_on_the_left(tmp_path) -> None:
    """A Llama tokenizer whose characters are told wrong is corrected by its pieces."""
    tokenizer = parts.llama_tokenizer(tmp_path / "llama")
    model = model_of(TextReader(tokenizer, 16, 8))
    keys = word_tokens(model, "a Dog, a cat", "cat")
    assert shown(tokenizer, "a Dog, a cat", keys, 8, 16) == "cat"
    assert keys == (23,)


def test_places_in_whole_models(backbone_of) -> None:
    """Where each family's tokens stand among its keys, by its own tokenizers."""
    for name, tokenizers_ in {
        "sd1": [("tokenizer", 0)],
        "sdxl": [("tokenizer", 0)],
        "pixart-sigma": [("tokenizer", 0)],
        "sd3": [("tokenizer", 0), ("tokenizer_3", parts.TOKENS)],
        "sd35": [("tokenizer", 0)],
        "flux": [("tokenizer_2", 0)],
        "auraflow": [("tokenizer", 8)],  # behind its registers
    }.items():
        backbone, expected = backbone_of(name), []
        for part, first in tokenizers_:
            tokenizer = backbone.extras[part]
            length = tokenizer.model_max_length
            ids = tokenizer("a cat", padding="max_length", max_length=length).input_ids
            pieces = tokenizer.convert_ids_to_tokens(ids)
            expected += [first + k for k, one in enumerate(pieces) if "cat" in one]
        assert word_tokens(backbone, "a cat", "cat") == tuple(expected), name
        assert max(expected) < backbone.text_tokens()


def test_errors(backbone_of, tokenizer_of) -> None:
    model = model_of(TextReader(tokenizer_of("clip"), LENGTH))
    for word, match in {
        "horse": "no token of the prompt 'a cat on a mat' is of the word 'horse'; its words are a, "
        "cat, on, a, mat",
        "cta": "did you mean",
        "at": "no token",  # a part of other words
        " ": "an empty word",
    }.items():
        with pytest.raises(SpecError, match=match):
            word_tokens(model, "a cat on a mat", word)
    with pytest.raises(SpecError, match="'cat' stands 1 times"):
        word_tokens(model, "a cat on a mat", "cat", 1)
    with pytest.raises(SpecError, match="reads no text"):
        word_tokens(backbone_of("pixel"), "a cat", "cat")
    with pytest.raises(SpecError, match="without its tokenizer"):
        prompt_tokens(model_of(), "a cat")


def test_a_part_of_a_longer_word_is_none(tokenizer_of) -> None:
    """Of "fire" and "fire hydrant" each has its own places."""
    tokenizer, prompt = tokenizer_of("clip"), "a fire hydrant and a fire"
    tokens = prompt_tokens(model_of(TextReader(tokenizer, LENGTH)), prompt)
    longer = find_word(prompt, "fire hydrant")
    alone = tokens.of("fire", longer=longer)
    assert alone == tokens.of("fire", 1)
    assert shown(tokenizer, prompt, alone) == "fire"
    assert tokens.of("fire") == tokens.of("fire", 0) + alone
    assert tokens.of("fire hydrant", longer=longer) == tokens.of("fire hydrant")
    with pytest.raises(SpecError, match=r"'hydrant' stands in .* only as a part of longer words"):
        tokens.of("hydrant", longer=longer)


def test_whole_words_and_scripts_without_spaces() -> None:
    assert find_word("cats and a cat", "cat") == [(11, 14)]
    assert find_word("a Fire\n hydrant", "fire hydrant") == [(2, 15)]
    assert find_word("白い猫の写真", "猫") == [(2, 3)]
    assert find_word("cafe\u0301", "café") == [(0, 5)]
    assert find_word("scattered", "cat") == []
