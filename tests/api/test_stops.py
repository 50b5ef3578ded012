"""Stop strings: the text is cut at the same place however it is split, and nothing is held back in vain."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import example, given
from hypothesis import strategies as st

from gateway.api.stops import StopStrings


def cut(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """The rule, one character at a time: the text before the first stop string that is complete."""
    for end in range(len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: end - max(map(len, found))], True
    return text, False


def fed(pieces: Sequence[str], stops: Sequence[str]) -> tuple[str, bool]:
    reading = StopStrings(stops)
    shown = "".join(reading.feed(piece) for piece in pieces)
    return shown + reading.flush(), reading.found


letters = st.text("ab<", max_size=5)


@given(st.lists(letters, max_size=12), st.lists(st.text("ab<", min_size=1, max_size=4), max_size=4))
@example(["a", "a", "b"], ["aab", "ab"])
@example(["ab", "abc"], ["abab", "ba"])
@example(["aa", "b"], ["ab", "aab"])
def test_any_split_of_a_text_ends_at_the_same_place(pieces: list[str], stops: list[str]) -> None:
    assert fed(pieces, stops) == cut("".join(pieces), stops)


@given(st.lists(letters, max_size=12), st.lists(st.text("ab<", min_size=1, max_size=4), max_size=4))
def test_no_more_is_held_back_than_could_become_a_stop_string(pieces: list[str], stops: list[str]) -> None:
    reading = StopStrings(stops)
    shown = ""
    for end, piece in enumerate(pieces, 1):
        shown += reading.feed(piece)
        text = "".join(pieces[:end])
        held = text[len(shown) :]
        assert reading.found or not held or any(stop.startswith(held) for stop in stops)
