"""Conversations as tokens, by the model's own chat template."""

from itertools import pairwise

import jinja2
from mlx_lm.tokenizer_utils import TokenizerWrapper

from mlx_mcp.errors import InvalidRequest, NotCapable
from mlx_mcp.types import Message


def tokenize(tokenizer: TokenizerWrapper, messages: tuple[Message, ...], *, answer: bool = True) -> list[int]:
    """
    The conversation, and with `answer` the beginning of the model's turn.

    Raises:
        NotCapable: The model has no chat template.
        InvalidRequest: The template refuses the messages.
    """
    if not tokenizer.has_chat_template:
        raise NotCapable("This model has no chat template: it is not made for conversations.", param="model")
    for place, message in enumerate(messages):
        if not message.content.isascii() and message.content.encode(errors="ignore").decode() != message.content:
            raise InvalidRequest(
                "The text is not valid Unicode: it has half of a surrogate pair.", param=f"messages[{place}].content"
            )
    turns = [
        {"role": m.role, "content": m.content} | ({"name": m.name} if m.name is not None else {}) for m in messages
    ]
    try:
        prompt = list(tokenizer.apply_chat_template(turns, add_generation_prompt=answer))
    except jinja2.TemplateError as exc:
        raise InvalidRequest(f"The model's chat template refuses the messages: {exc}", param="messages") from exc
    if not prompt:
        raise InvalidRequest("The model's chat template makes nothing of the messages.", param="messages")
    return prompt


def boundaries(tokenizer: TokenizerWrapper, messages: tuple[Message, ...], prompt: list[int]) -> list[int]:
    """
    Where in `prompt` the system message ends, and where the last message begins: what later conversations share.

    Templates need not build a conversation from its beginnings; where one does not, there is no boundary.
    """
    places: list[int] = []
    for count in sorted({1 if messages[0].role == "system" else 0, len(messages) - 1} - {0, len(messages)}):
        try:
            beginning = tokenize(tokenizer, messages[:count], answer=False)
        except InvalidRequest:  # some templates want a user's turn
            continue
        if 0 < len(beginning) < len(prompt) and prompt[: len(beginning)] == beginning:
            places.append(len(beginning))
    return places


def split(prompt: list[int], cached: int, places: list[int]) -> list[list[int]]:
    """What is left of the prompt behind its first `cached` tokens, cut at those of the places that lie in it."""
    cuts = [cached, *(place for place in places if cached < place < len(prompt)), len(prompt)]
    return [prompt[begin:end] for begin, end in pairwise(cuts)]
