"""Server-sent events, whatever pieces they come in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coatcheck.tokens.sse import EventParser, ServerSentEvent

FIELDS = ["data: x", "data:y", "data", "data:  z", "event: ended", "event", "id: 7", "id", "id: a\0b", "retry: 5"]
ODD = [": a comment", ":", "odd: 1", "", "data: ä€𝄞", "datax: 1", " data: 1"]
LINES = st.sampled_from([*FIELDS, *ODD])


@given(
    st.lists(st.tuples(LINES, st.sampled_from(["\n", "\r\n", "\r"])), max_size=30),
    st.booleans(),
    st.lists(st.integers(0, 400), max_size=20),
)
def test_where_the_pieces_are_cut_makes_no_difference(
    lines: list[tuple[str, str]], mark: bool, cuts: list[int]
) -> None:
    # A CR before an LF is one line break, wherever the two came from: the reference reads the whole text.
    stream = (b"\xef\xbb\xbf" if mark else b"") + "".join(line + end for line, end in lines).encode()
    pieces, before = [], 0
    for cut in sorted(min(cut, len(stream)) for cut in cuts):
        pieces.append(stream[before:cut])
        before = cut
    parser = EventParser()
    found = [event for piece in [*pieces, stream[before:]] for event in parser.feed(piece)]
    assert found == _reference(stream)


def _reference(stream: bytes) -> list[ServerSentEvent]:
    """The standard's algorithm, word by word, on the whole text."""
    text = stream.decode().removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    *lines, _ = text.split("\n")
    found: list[ServerSentEvent] = []
    data, event, last = "", "", ""
    for line in lines:
        if line == "":
            if data:
                found.append(ServerSentEvent(event or "message", data.removesuffix("\n"), last))
            data, event = "", ""
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            data += value + "\n"
        elif field == "event":
            event = value
        elif field == "id" and "\0" not in value:
            last = value
    return found


@given(st.lists(st.binary(max_size=50), max_size=20))
def test_any_bytes_are_read_without_an_error(pieces: list[bytes]) -> None:
    parser = EventParser()
    for piece in pieces:
        parser.feed(piece)


@pytest.mark.parametrize(
    "stream", [b"data: " + b"x" * 70_000, b"data: " + b"x" * 70_000 + b"\n", b"data: xxxx\n" * 20_000]
)
def test_what_never_ends_is_not_collected(stream: bytes) -> None:
    parser = EventParser()

    def feed_all() -> None:
        for start in range(0, len(stream), 1000):
            parser.feed(stream[start : start + 1000])

    with pytest.raises(ValueError, match="too long"):
        feed_all()
