"""From words to prompts: under which text the network is run, and where its words stand in it.

{words}    all words, each with its article: "a photo of {words}" → "a photo of a cat and a dog"
{word}     one word at a time, and one run for each: "a photo of a {word}"
neither    the prompt as it is; it has the words
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from diffeat.backbones import Backbone
from diffeat.errors import SpecError
from diffeat.words.tokens import find_word, outside, prompt_tokens
from diffeat.words.vocabulary import ClassWords

ALL_WORDS, ONE_WORD = "{words}", "{word}"
DEFAULT_PROMPT = f"a photo of {ALL_WORDS}"
"""What the network is told where nobody says otherwise."""


@dataclass(frozen=True)
class WordRun:
    """One prompt, and the tokens of K classes in it.

    Attributes:
        prompt: the text.
        keys: for each class, the keys of its words' tokens; () of those that it does not have.
        content: keys of all tokens that stand for text.
    """

    prompt: str
    keys: tuple[tuple[int, ...], ...]
    content: tuple[int, ...]


def listed(words: Sequence[str]) -> str:
    """ "a cat", "a cat and a dog", "a cat, a dog and an owl"."""
    each = [f"{'an' if word[:1].lower() in 'aeiou' else 'a'} {word}" for word in words]
    return each[0] if len(each) == 1 else f"{', '.join(each[:-1])} and {each[-1]}"


def prompts_for(prompt: str, classes: Sequence[ClassWords]) -> list[tuple[str, tuple[int, ...]]]:
    """The prompts of a template, each with the classes that it is run for."""
    if ALL_WORDS in prompt and ONE_WORD in prompt:
        raise SpecError(f"{prompt!r} has {ALL_WORDS} and {ONE_WORD}; expected one of them")
    every = tuple(range(len(classes)))
    if ONE_WORD in prompt:
        return [(prompt.replace(ONE_WORD, classes[k].name), (k,)) for k in every]
    return [(prompt.replace(ALL_WORDS, listed([one.name for one in classes])), every)]


def runs_of(
    backbone: Backbone, classes: Sequence[ClassWords], prompt: str, missing: str = "refuse"
) -> tuple[WordRun, ...]:
    """What a template means for a model: its prompts, and the classes' tokens in each.

    A class is there with any of its words: name or synonyms. The longer word of another class is
    that class's alone: the "dog" of "hot dog" is no dog where both are asked for.

    Args:
        backbone: a model that reads text.
        classes: K of them, by their words.
        prompt: a text, or a template with {words} or {word}.
        missing: "refuse" a class none of whose words is in the prompt, or "leave-out".

    Returns:
        One run, or K of a template with {word}.

    Raises:
        SpecError: see `diffeat.words.tokens`.
    """
    found = []
    for text, those in prompts_for(prompt, classes):
        tokens = prompt_tokens(backbone, text)
        if tokens.cut:
            raise SpecError(
                f"{backbone.name} does not read all of the prompt {text!r}: {tokens.cut!r} would "
                f"be cut off; shorten it, or take one word at a time: a photo of a {ONE_WORD}"
            )
        keys: list[tuple[int, ...]] = [()] * len(classes)
        places = [[(word, find_word(text, word)) for word in one.words] for one in classes]
        for k in those:
            others = [span for j, words in enumerate(places) if j != k
                      for _, spans in words for span in spans]  # fmt: skip
            there = [word for word, spans in places[k] if outside(spans, others)]
            if not there and missing == "refuse":
                tokens.of(classes[k].name, longer=others)  # which says what is wrong
            found_of = {key for word in there for key in tokens.of(word, longer=others)}
            keys[k] = tuple(sorted(found_of))
        found.append(WordRun(text, tuple(keys), tokens.content))
    return tuple(found)
