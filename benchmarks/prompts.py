"""Conversations of a wanted length, the same for the same seed and series."""

import bisect
import random
import re
from collections.abc import Callable
from pathlib import Path

from tokenizers import Tokenizer

Conversation = tuple[dict[str, str], ...]
"""Messages, as a chat completion's body has them."""

WORDS: list[str] = re.findall(
    r"\w+",
    """
    time year people way day man thing woman life child world school state family student group country problem
    hand part place case week company system program question work night point home water room mother area money
    story fact month lot right study book eye job word business issue side kind head house service friend father
    power hour game line end member law car city community name president team minute idea body back parent face
    others level office door health person art war history party result change morning reason research girl guy
    moment air teacher force education foot boy age policy music market sense nation plan college interest death
    experience
    """,
)
"""Each is one token, blank included, in most vocabularies."""


class Prompts:
    """Nothing but what is asked to be shared is shared: each system message begins with a tag of its own."""

    def __init__(self, count: Callable[[str], int], seed: int) -> None:
        """
        Args:
            count: How many tokens a text has.
            seed: Another seed, other texts of the same lengths.
        """
        self._count = count
        self._seed = seed

    def make(self, series: str, requests: int, tokens: int, shared: int = 0) -> tuple[Conversation, ...]:
        """
        Args:
            series: Conversations of different series have no text in common.
            tokens: The length of a conversation's text; the chat template's own tokens come on top.
            shared: With so many of them all conversations of the series begin.
        """
        prefix = self._text(self._random(series), shared) if shared else ""
        return tuple(self._conversation(f"{series}-{n}", tokens, prefix) for n in range(requests))

    def _conversation(self, name: str, tokens: int, prefix: str) -> Conversation:
        rng = self._random(name)
        system = prefix or f"{rng.randrange(10**6):06} {name}."
        # Small models answer this for as long as they are let, so that answers have the wanted length.
        question = f"Write a very long story about item {rng.randrange(2, 1000)}, with a great many details."
        filler = self._text(rng, tokens - self._count(system) - self._count(question))
        return (
            {"role": "system", "content": system},
            {"role": "user", "content": f"{filler}\n\n{question}".strip()},
        )

    def _text(self, rng: random.Random, tokens: int) -> str:
        """The most words that have no more than so many tokens."""
        words = rng.choices(WORDS, k=max(0, tokens))

        def count(n: int) -> int:
            return self._count(" ".join(words[:n]))

        return " ".join(words[: bisect.bisect_right(range(len(words) + 1), max(0, tokens), key=count) - 1])

    def _random(self, name: str) -> random.Random:
        return random.Random(f"{self._seed} {name}")  # noqa: S311 - wanted: the same each time


def counter(model: Path) -> Callable[[str], int]:
    """How many tokens a text has for the model in that directory; words, if its tokenizer is of another kind."""
    file = model / "tokenizer.json"
    if not file.is_file():
        return lambda text: len(text.split())
    tokenizer = Tokenizer.from_file(str(file))
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)
