"""Options are refused with what to change, and never carry what would break the measurement or the request."""

from typing import Any

import pytest

from coatcheck.probe.errors import ProbeUsageError
from coatcheck.probe.options import Options


@pytest.mark.parametrize(
    "given",
    [
        {"requests": 0},
        {"requests": 1001},
        {"concurrency": 0},
        {"concurrency": 101},
        {"only": ()},
        {"only": ("h9",)},
        {"idle": 0.0},
        {"idle": float("nan")},
        {"idle": -1.0},
        {"timeout": 0.0},
        {"timeout": float("inf")},
        {"insecure": True, "ca": "ca.pem"},
        {"headers": (("bad name", "x"),)},
        {"headers": (("x", "a\r\nevil: yes"),)},
        {"headers": (("Connection", "close"),)},
        {"headers": (("cookie", "a=b"),)},
        {"headers": (("Host", "other.example"),)},
        {"cookies": (("a b", "c"),)},
        {"cookies": (("a", "b; c=d"),)},
        {"websocket_path": "chat"},
        {"websocket_path": "/a b"},
    ],
)
def test_nonsense_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ProbeUsageError):
        Options(**given)


def test_what_people_ask_for_is_taken() -> None:
    options = Options(
        requests=1,
        concurrency=1,
        only=("h1.1", "ws"),
        idle=0.5,
        headers=(("Authorization", "Bearer x"), ("X-Empty", "")),
        cookies=(("__Host-session", "abc.def"),),
        websocket_path="/chat?room=1",
    )
    assert options.wants("ws") and not options.wants("h2")
