"""Which tokens of a prompt a word is, as keys of a denoiser's attention to its text.

A word is looked for in the prompt as a whole word, whatever its capitals; it may be a phrase. Its
tokens are those whose characters lie in it, of every tokenizer that the denoiser sees tokens of
(SD 3 sees CLIP's and, behind them, the T5's).
"""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from diffeat.backbones import Backbone
from diffeat.backbones.conditioning import TextReader
from diffeat.errors import SpecError, nearest

MARKS = "[▁Ġ]"
"""What tokenizers write for the space before a word."""
END = "</w>"
"""What CLIP's writes behind a word."""
BYTE = "<0x([0-9A-F]{2})>"
"""What Llama's writes for a byte of a character that it does not know."""
BROKEN = "\N{REPLACEMENT CHARACTER}"
"""What a piece is shown as that holds a part of a character's bytes."""
Span = tuple[int, int]
"""Characters of a prompt, from … to."""


@dataclass(frozen=True)
class Token:
    """A token of a prompt that stands for some of its characters.

    Attributes:
        key: which of the denoiser's text tokens it is; None where it is cut off.
        span: characters of the prompt.
    """

    key: int | None
    span: Span


@dataclass(frozen=True)
class PromptTokens:
    """A prompt as a denoiser's tokenizers see it.

    Attributes:
        prompt: the text.
        readers: the tokens of each tokenizer, in the order of the text; without those that begin
            and end a prompt or fill it up.
        model: its name, for messages.
    """

    prompt: str
    readers: tuple[tuple[Token, ...], ...]
    model: str

    @property
    def content(self) -> tuple[int, ...]:
        """Keys of all tokens that stand for some text, ascending."""
        return tuple(sorted(t.key for one in self.readers for t in one if t.key is not None))

    @property
    def cut(self) -> str:
        """The end of the prompt that no tokenizer has room for; "" where all is read."""
        starts = [min((t.span[0] for t in one if t.key is None), default=len(self.prompt))
                  for one in self.readers]  # fmt: skip
        return self.prompt[max(starts, default=len(self.prompt)) :]

    def of(self, word: str, nth: int | None = None, longer: Iterable[Span] = ()) -> tuple[int, ...]:
        """Keys of a word's tokens, ascending.

        Args:
            word: a word or phrase of the prompt.
            nth: which of its occurrences, from 0; None: all of them.
            longer: places of other words; what lies within a longer one is no occurrence, as
                "dog" in "hot dog".

        Raises:
            SpecError: the prompt does not have it, or not so often; it lies in what is cut off;
                no token has it.
        """
        every = find_word(self.prompt, word)
        spans = outside(every, longer)
        if every and not spans:
            raise SpecError(f"{word!r} stands in {self.prompt!r} only as a part of longer words; "
                            "give it a place of its own, or leave it out")  # fmt: skip
        if not spans:
            words = re.findall(r"\w+", self.prompt)
            raise SpecError(
                f"no token of the prompt {self.prompt!r} is of the word {word!r}"
                f"{nearest(word, words)}; its words are {', '.join(words) or 'none'}"
            )
        if nth is not None and not 0 <= nth < len(spans):
            raise SpecError(f"{word!r} stands {len(spans)} times in {self.prompt!r}; expected nth "
                            f"of 0 … {len(spans) - 1}, not {nth}")  # fmt: skip
        spans = spans if nth is None else spans[nth : nth + 1]
        keys = {key for span in spans for one in self.readers for key in _keys(one, span)}
        if keys:
            return tuple(sorted(keys))
        if any(t.key is None and _meet(t.span, span) for one in self.readers for t in one
               for span in spans):  # fmt: skip
            raise SpecError(
                f"{word!r} lies in what {self.model} does not read of the prompt, {self.cut!r}; "
                "shorten the prompt, or put the word earlier"
            )
        raise SpecError(f"no token of {self.model} has any of the word {word!r}; its tokenizer "
                        "knows no such characters")  # fmt: skip


def word_tokens(
    backbone: Backbone, prompt: str, word: str, nth: int | None = None
) -> tuple[int, ...]:
    """Which keys of a backbone's `cross.map` a word of a prompt is.

    Args:
        backbone: a model that reads text.
        prompt: the text that it is given.
        word: a word or phrase of it, whatever its capitals.
        nth: which of its occurrences, from 0; None: all of them.

    Returns:
        Ascending indices among the model's text tokens, such as `tokens` of a spec takes. Of a
        prompt that is too long it is said what is cut off.

    Raises:
        SpecError: see `prompt_tokens` and `PromptTokens.of`.
    """
    tokens = prompt_tokens(backbone, prompt)
    if tokens.cut:
        warnings.warn(f"{backbone.name} does not read all of the prompt; cut off: {tokens.cut!r}",
                      stacklevel=2)  # fmt: skip
    return tokens.of(word, nth)


def prompt_tokens(backbone: Backbone, prompt: str) -> PromptTokens:
    """The tokens of a prompt, and where they stand among a backbone's keys.

    Raises:
        SpecError: a model that reads no text, or that is here without its tokenizer.
    """
    if not backbone.embedding_shapes:
        raise SpecError(
            f"{backbone.name} reads no text, so no word has a place in its attention; expected a "
            "text-to-image model, such as Stable Diffusion. Parts without words: diffeat segment "
            "--parts"
        )
    readers = backbone.text_readers
    if not readers:
        raise SpecError(
            f"{backbone.name} is here without its tokenizer, so nobody knows which tokens a word "
            "is; expected a folder or hub id of the whole pipeline"
        )
    return PromptTokens(prompt, tuple(tuple(_tokens(r, prompt)) for r in readers), backbone.name)


def find_word(text: str, word: str) -> list[Span]:
    """Where a word or phrase stands in a text, as a whole word, whatever its capitals.

    Where no such place is found and it begins or ends with a letter of a script without capitals
    (many of which write no spaces), it may be a part of a longer run of letters.
    """
    parts = word.split()
    if not parts:
        raise SpecError("an empty word; expected one of the prompt")
    forms = dict.fromkeys(unicodedata.normalize(form, word) for form in ("NFC", "NFD"))
    for form in forms:
        core = r"\s+".join(map(re.escape, form.split()))
        ends = r"(?<!\w)", r"(?!\w)"
        found = _matches(ends[0] + core + ends[1], text)
        if not found and not all(_cased(one) for one in (form.strip()[0], form.strip()[-1])):
            found = _matches(core, text)
        if found:
            return found
    return []


def outside(spans: Sequence[Span], longer: Iterable[Span]) -> list[Span]:
    """Those places that do not lie within a longer one."""
    longer = list(longer)
    return [
        one for one in spans
        if not any(a <= one[0] and one[1] <= b and (a, b) != one for a, b in longer)
    ]  # fmt: skip


def _matches(pattern: str, text: str) -> list[Span]:
    return [one.span() for one in re.finditer(pattern, text, re.IGNORECASE)]


def _cased(letter: str) -> bool:
    return letter.lower() != letter.upper() or letter.isdigit()


def _meet(one: Span, other: Span) -> bool:
    return max(one[0], other[0]) < min(one[1], other[1])


def _keys(tokens: tuple[Token, ...], span: Span) -> list[int]:
    """Keys of the tokens in a span; none where some of them are cut off."""
    keys = [token.key for token in tokens if _meet(token.span, span)]
    return [] if None in keys else keys


def _tokens(reader: TextReader, prompt: str) -> Iterator[Token]:
    """Tokens of a prompt that stand for text, as one tokenizer gives them."""
    text, shift = prompt, 0
    if reader.lower:
        shift = len(prompt) - len(prompt.lstrip())
        text = "".join(c.lower() if len(c.lower()) == 1 else c for c in prompt).strip()
    tokenizer = reader.tokenizer
    whole = tokenizer(text, verbose=False).input_ids
    padded = tokenizer(
        text, padding="max_length", max_length=reader.length, truncation=True, verbose=False
    ).input_ids
    # what is cut loses its last tokens, and may be ended again; what is short is filled up, left
    # or right
    begins = len(padded) - len(whole) if tokenizer.padding_side == "left" else 0
    for place, span in _spans(tokenizer, text, whole):
        key = place + max(0, begins)
        kept = key < len(padded) and padded[key] == whole[place]
        yield Token(reader.first + key if kept else None, (span[0] + shift, span[1] + shift))


def _spans(tokenizer: Any, text: str, ids: list[int]) -> list[tuple[int, Span]]:
    """(place, characters) of the tokens that stand for some, without spaces around them."""
    pieces = [_piece(tokenizer, number) for number in ids]
    if getattr(tokenizer, "is_fast", False):
        found = tokenizer(text, return_offsets_mapping=True, verbose=False).offset_mapping
        spans = [_trimmed(text, span) for span in found]
        if all(
            _agree(text[slice(*span)], piece) for span, piece in zip(spans, pieces, strict=True)
        ):
            return [(k, span) for k, span in enumerate(spans)
                    if span[0] < span[1] and pieces[k] != ""]  # fmt: skip
    return _by_pieces(tokenizer, text, ids, pieces)


def _piece(tokenizer: Any, number: int) -> str | None:
    """The text of one token, folded; None of those that stand for no text of their own."""
    (token,) = tokenizer.convert_ids_to_tokens([number])
    if number in tokenizer.all_special_ids:
        return None
    if byte := re.fullmatch(BYTE, token):
        return _folded(bytes.fromhex(byte[1]).decode("utf-8", "replace"))
    return _folded(tokenizer.convert_tokens_to_string([token.removesuffix(END)]))


def _folded(text: str) -> str:
    """A text without capitals, with single spaces between its words and none around them."""
    return " ".join(unicodedata.normalize("NFKC", re.sub(MARKS, " ", text)).casefold().split())


def _trimmed(text: str, span: Span) -> Span:
    """A span without the spaces at its ends."""
    start, stop = span
    while start < stop and text[start].isspace():
        start += 1
    while start < stop and text[stop - 1].isspace():
        stop -= 1
    return start, stop


def _agree(shown: str, piece: str | None) -> bool:
    """Whether a token's characters are its piece, as far as can be seen."""
    if not piece or BROKEN in piece:
        return True
    return _folded(shown) == piece


def _by_pieces(
    tokenizer: Any, text: str, ids: list[int], pieces: list[str | None]
) -> list[tuple[int, Span]]:
    """The same where a tokenizer tells no characters, or tells them wrong: each piece is looked
    for behind the one before."""
    folded = "".join(c.casefold() if len(c.casefold()) == 1 else c for c in text)
    unknown = tokenizer.unk_token_id
    ends = {getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    found: list[tuple[int, Span]] = []
    at = 0
    for place, (number, piece) in enumerate(zip(ids, pieces, strict=True)):
        while at < len(text) and text[at].isspace():
            at += 1
        if piece is None:
            if number == unknown and number not in ends and at < len(text):
                found.append((place, (at, at + 1)))
            continue
        if not piece or (BROKEN not in piece and (start := folded.find(piece, at)) < 0):
            continue
        if BROKEN in piece:  # a part of the character that stands here
            found.append((place, (at, min(at + 1, len(text)))))
            continue
        at = start + len(piece)
        found.append((place, (start, at)))
    return found
