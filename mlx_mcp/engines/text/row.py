"""One request inside the text engine: its tokens in, its text out."""

from dataclasses import dataclass

from mlx_lm.tokenizer_utils import StreamingDetokenizer

from mlx_mcp.engines.base import Key
from mlx_mcp.engines.text.stops import StopText
from mlx_mcp.types import Done, Event, Text, Usage


@dataclass(slots=True)
class Row:
    key: Key
    prompt: list[int]
    places: list[int]
    """Where its cache is kept while the prompt is read."""
    tokens: int
    """That it may come to hold, its answer included."""
    cached: int
    """Tokens of the prompt that came from the prompt cache."""
    detokenizer: StreamingDetokenizer
    stop: StopText
    read: int = 0
    """Tokens of the prompt whose keys and values are there by now."""
    produced: int = 0

    def feed(self, token: int, finish: str | None) -> tuple[list[Event], str | None]:
        """The events of one token, and the reason to stop; a stop string may find one that the batch did not."""
        self.produced += 1
        if finish != "stop":  # a stop token has no text
            self.detokenizer.add_token(token)
        if finish:
            self.detokenizer.finalize()
        text, stopped = self.stop.feed(self.detokenizer.last_segment)
        if finish and not stopped:
            text += self.stop.flush()
        finish = "stop" if stopped else finish
        events: list[Event] = [Text(text)] if text else []
        if finish:
            events.append(Done(finish, Usage(len(self.prompt), self.produced, self.cached)))
        return events, finish
