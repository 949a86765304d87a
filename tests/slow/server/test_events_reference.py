"""`docs/reference/events.md` says what is so: every kind, every command, every message, every close code of ours."""

import json
import re
from pathlib import Path

from coatcheck.accounts.activity import KINDS
from coatcheck.asgi.websocket import (
    CLOSE_RESTART,
    CLOSE_SESSION_ENDED,
    CLOSE_TOO_LONG,
    CLOSE_TOO_SLOW,
    CLOSE_TRY_AGAIN,
)
from coatcheck.server.activity import Begin, Happening, Heartbeat, Reset
from coatcheck.server.commands import Command, Refused, SessionsEnded, decode_command
from coatcheck.server.events import socket
from coatcheck.server.events.messages import as_event, as_message, as_reply

TEXT = (Path(__file__).parents[3] / "docs" / "reference" / "events.md").read_text()
BLOCKS = re.findall(r"```\w*\n(.*?)```", TEXT, re.DOTALL)
PLACE, SESSION = "wpXuafzv7Cuf-owgAMi1fw", "8sVP1ytROGUXaq64UtNGqw"
AT = 1795644805.0


def table(heading: str) -> str:
    return TEXT.partition(f"| {heading} |")[2].partition("\n\n")[0]


def test_every_kind_is_there_and_no_other() -> None:
    named = re.findall(r"^\| (`.*?) \|", table("kind | when | `detail`"), re.MULTILINE)
    assert {kind for cell in named for kind in re.findall(r"`(\w+)`", cell)} == KINDS


def test_the_commands_that_are_shown_are_all_that_there_are() -> None:
    shown = [decode_command(line) for line in BLOCKS[1].splitlines()]
    assert [command.id for command in shown] == [1, 2, 3, 4, 5]
    assert {type(command) for command in shown} == set(Command.__args__)  # type: ignore[attr-defined]


def test_the_messages_that_are_shown_are_what_is_sent() -> None:
    ended = Happening(id=PLACE, kind="ended", at=AT, session_id=SESSION, detail={"reason": "logout"})
    sent = [
        as_reply(4, SessionsEnded(1)),
        as_reply(4, Refused(404, "You have no session with this id.")),
        as_message(Begin(id=PLACE)),
        as_message(Reset(id=PLACE)),
        as_message(Heartbeat(id=PLACE)),
        as_message(ended),
    ]
    assert [json.loads(line) for line in BLOCKS[2].splitlines()] == [json.loads(message) for message in sent]


def test_the_server_sent_event_that_is_shown_is_what_is_sent() -> None:
    detail = {"address": "192.0.2.7", "method": "password", "kind": "cookie"}
    created = Happening(id=PLACE, kind="created", at=AT, session_id=SESSION, detail=detail)
    assert as_event(created) == BLOCKS[0] + "\n"


def test_the_close_codes_are_those_of_the_code() -> None:
    ours = {CLOSE_SESSION_ENDED, CLOSE_TOO_SLOW, CLOSE_TOO_LONG, CLOSE_RESTART, CLOSE_TRY_AGAIN, 1008, 1011}
    assert {int(code) for code in re.findall(r"^\| (\d{4}) ", TEXT, re.MULTILINE)} == ours
    assert socket.MOST_MALFORMED == 20
