from hypothesis import example, given
from hypothesis import strategies as st

from mlx_mcp.engines.text.stops import StopText

letters = st.text(alphabet="abc", max_size=12)
stops = st.lists(st.text(alphabet="abc", min_size=1, max_size=4), max_size=3).map(tuple)


def shown(stops: tuple[str, ...], pieces: list[str]) -> tuple[str, bool]:
    """What a reader gets to see, and whether a stop string ended it."""
    stop = StopText(stops)
    text = ""
    for piece in pieces:
        more, stopped = stop.feed(piece)
        text += more
        if stopped:
            return text, True
    return text + stop.flush(), False


def searched(stops: tuple[str, ...], text: str) -> tuple[str, bool]:
    """The same, letter by letter over the whole text: the stop string that is complete first ends it."""
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            return text[: end - len(max(ending, key=len))], True
    return text, False


@given(stops=stops, pieces=st.lists(letters, max_size=8))
@example(stops=("ab", "caba"), pieces=["caba"])
@example(stops=("aab",), pieces=["aa", "ab"])
def test_it_does_not_matter_how_the_text_is_cut_into_pieces(stops: tuple[str, ...], pieces: list[str]) -> None:
    assert shown(stops, pieces) == searched(stops, "".join(pieces))


@given(stops=stops, pieces=st.lists(letters, max_size=8))
def test_nothing_is_held_back_that_no_stop_string_can_need(stops: tuple[str, ...], pieces: list[str]) -> None:
    stop = StopText(stops)
    text = fed = ""
    for piece in pieces:
        fed += piece
        more, stopped = stop.feed(piece)
        text += more
        if stopped:
            return
        held = fed[len(text) :]
        assert not held or any(each.startswith(held) for each in stops)


def test_without_stop_strings_all_passes_at_once() -> None:
    assert StopText(()).feed("anything") == ("anything", False)


def test_an_empty_stop_string_stops_nothing() -> None:
    assert shown(("", "b"), ["a", "a", "b"]) == ("aa", True)
    assert shown(("",), ["a"]) == ("a", False)
