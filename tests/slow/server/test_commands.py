"""Commands: what is one, who may give it, and that it is obeyed only while its session lives."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from coatcheck import Session
from coatcheck.server.commands import (
    Commands,
    EndOthers,
    EndSession,
    ListSessions,
    Malformed,
    Refused,
    RenameSession,
    Result,
    SessionRenamed,
    SessionsEnded,
    SessionsListed,
    Subscribe,
    Subscribed,
    decode_command,
)
from coatcheck.testing import ManualClock
from tests.core.server.house import House, session_id, token_of

CANARY = "hunter2-canary"


async def session_of_client(house: House, client: Any) -> Session:
    session = await house.sessions.load(token_of(client).encode())
    assert session.is_authenticated
    return session


def test_commands_are_read_as_they_are_written() -> None:
    for text, command in (
        ('{"type": "list"}', ListSessions()),
        ('{"id": 7, "type": "list"}', ListSessions(id=7)),
        ('{"type": "end", "id": "x", "session": "s"}', EndSession(id="x", session="s")),
        ('{"type": "end_others"}', EndOthers()),
        ('{"type": "rename", "session": "s", "name": "Laptop"}', RenameSession(session="s", name="Laptop")),
        ('{"type": "subscribe"}', Subscribe(topics=("sessions", "connections"))),
        ('{"type": "subscribe", "topics": [], "after": "p"}', Subscribe(topics=(), after="p")),
        ('{"type": "subscribe", "topics": ["connections"], "id": null}', Subscribe(topics=("connections",))),
    ):
        assert decode_command(text) == decode_command(text.encode()) == command


@pytest.mark.parametrize(
    ("text", "id", "said"),
    [
        ("", None, "not JSON"),
        ("{", None, "not JSON"),
        (b"\xff\xfe", None, "not JSON"),
        ('"\\ud800"', None, "not JSON"),
        ("[" * 100_000, None, "JSON"),
        ('{"a":' * 5000 + "1" + "}" * 5000, None, "not JSON|one of these types"),
        ("null", None, "command is a JSON object"),
        ("[]", None, "command is a JSON object"),
        ("7", None, "command is a JSON object"),
        ("{}", None, "one of these types: end, end_others, list, rename, subscribe"),
        ('{"id": "a", "type": "hunter2-canary"}', "a", "one of these types"),
        ('{"id": "a", "type": ["list"]}', "a", "one of these types"),
        ('{"id": "a", "type": {}}', "a", "one of these types"),
        ('{"id": {"hunter2-canary": 1}, "type": "list"}', None, "whose id, if it has one"),
        (f'{{"id": "{"x" * 65}", "type": "list"}}', None, "whose id, if it has one"),
        ('{"id": 1e300, "type": "list"}', None, "whose id, if it has one"),
        ('{"id": 99999999999999999999, "type": "list"}', None, "whose id, if it has one"),
        ('{"id": 3, "type": "end"}', 3, "does not have the form"),
        ('{"id": 3, "type": "end", "session": 1}', 3, "look at session"),
        ('{"id": 3, "type": "end", "session": "s", "hunter2-canary": 1}', 3, "does not have the form"),
        ('{"id": 3, "type": "rename", "session": "s", "name": null}', 3, "look at name"),
        (f'{{"id": 3, "type": "rename", "session": "s", "name": "{"x" * 1001}"}}', 3, "look at name"),
        ('{"id": 3, "type": "subscribe", "topics": ["hunter2-canary"]}', 3, "look at topics"),
        ('{"id": 3, "type": "subscribe", "topics": "sessions"}', 3, "look at topics"),
        (f'{{"id": 3, "type": "subscribe", "topics": [{", ".join(["1"] * 9)}]}}', 3, "look at topics"),
        ('{"id": 3, "type": "subscribe", "after": 5}', 3, "look at after"),
    ],
)
def test_what_is_no_command_is_said_to_be_none_without_repeating_it(
    text: str | bytes, id: str | int | None, said: str
) -> None:
    with pytest.raises(Malformed, match=said) as refusal:
        decode_command(text)
    assert refusal.value.id == id
    assert str(refusal.value).endswith(".")
    assert CANARY not in str(refusal.value)


async def test_ones_own_sessions_are_listed_named_and_ended(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        commands = Commands(house.services)
        here = await house.log_in("ada")
        house.clock.advance(1)
        there = await house.log_in("ada")
        await house.log_in("bob")
        session = await session_of_client(house, here)
        here_id, there_id = await session_id(here), await session_id(there)

        listed = await commands.run(session, ListSessions())
        assert isinstance(listed, SessionsListed)
        assert (listed.current, [info.id for info in listed.sessions]) == (here_id, [here_id, there_id])

        renamed = await commands.run(session, RenameSession(session=there_id, name=" Ada's phone "))
        assert isinstance(renamed, SessionRenamed)
        assert (renamed.session.id, renamed.session.about["name"]) == (there_id, "Ada's phone")
        listed = await commands.run(session, ListSessions())
        assert isinstance(listed, SessionsListed)
        assert [info.about.get("name") for info in listed.sessions] == [None, "Ada's phone"]
        unnamed = await commands.run(session, RenameSession(session=there_id, name=""))
        assert isinstance(unnamed, SessionRenamed)
        assert "name" not in unnamed.session.about

        assert await commands.run(session, EndSession(session=there_id)) == SessionsEnded(1)
        assert (await there.get("/v1/me")).status_code == 401
        assert await commands.run(session, EndSession(session=there_id)) == NOT_YOURS
        others = [await house.log_in("ada") for _ in range(3)]
        assert await commands.run(session, EndOthers()) == SessionsEnded(3)
        assert [(await client.get("/v1/me")).status_code for client in (*others, here)] == [401, 401, 401, 200]
        assert await commands.run(session, EndSession(session=here_id)) == SessionsEnded(1)
        assert (await here.get("/v1/me")).status_code == 401


NOT_YOURS = Refused(404, "You have no session with this id.")


async def test_a_name_is_told_to_the_other_devices_once(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        commands = Commands(house.services)
        client = await house.log_in("ada")
        session = await session_of_client(house, client)
        for name in ("phone", "phone", "", ""):
            await commands.run(session, RenameSession(session=await session_id(client), name=name))
        await house.activity.flush()
        entries = (await house.activity._log.read(0, limit=9)).entries
        assert [(each.kind, each.detail) for each in entries[1:]] == [("renamed", {"name": "phone"}), ("renamed", {})]


async def test_other_peoples_sessions_and_none_at_all_are_answered_alike(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        commands = Commands(house.services)
        session = await session_of_client(house, await house.log_in("ada"))
        bob = await house.log_in("bob")
        for other in (await session_id(bob), "A" * 22, "", "\0", "x" * 64):
            assert await commands.run(session, EndSession(session=other)) == NOT_YOURS
            assert await commands.run(session, RenameSession(session=other, name="mine now")) == NOT_YOURS
        (his,) = (await bob.get("/v1/sessions")).json()["sessions"]
        assert his["name"] is None


@pytest.mark.parametrize("name", ["x" * 101, "two\nlines", "\x1b[2J", "\u202eevil"])
async def test_a_name_that_could_not_be_shown_is_refused(tmp_path: Path, name: str) -> None:
    async with House(tmp_path) as house:
        client = await house.log_in("ada")
        session = await session_of_client(house, client)
        result = await Commands(house.services).run(session, RenameSession(session=await session_id(client), name=name))
        assert isinstance(result, Refused)
        assert result.status == 422
        assert result.detail.startswith("A name has")


COMMANDS = (
    ListSessions(),
    EndOthers(),
    Subscribe(),
    EndSession(session="{theirs}"),
    RenameSession(session="{theirs}", name="x"),
)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("over", ["logout", "ended on another node", "new secret", "expired"])
async def test_a_session_that_is_over_gives_no_command_any_more_however_long_its_connection_was_open(
    tmp_path: Path, command: Any, over: str
) -> None:
    async with House(tmp_path) as house, House(tmp_path) as elsewhere:
        client, other = await house.log_in("ada"), await house.log_in("ada")
        session = await session_of_client(house, client)
        if over == "logout":
            await client.post("/v1/logout")
        elif over == "ended on another node":
            assert await elsewhere.sessions.end(await session_id(client))
        elif over == "new secret":
            await client.post("/v1/reauthenticate", json={"password": "correct horse"})
        else:
            for clock in (house.clock, elsewhere.clock):
                clock.advance(40 * 86_400)
            other = await elsewhere.log_in("ada")
        if isinstance(command, EndSession | RenameSession):
            command = msgspec.structs.replace(command, session=await session_id(other))
        result = await Commands(house.services).run(session, command)
        assert result == Refused(401, "Your session has ended.")
        assert (await other.get("/v1/me")).status_code == 200
        assert (await other.get("/v1/sessions")).json()["sessions"][-1]["name"] is None


async def test_without_a_login_there_is_nothing_to_command(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        nobody = await house.sessions.load(None)
        assert await Commands(house.services).run(nobody, ListSessions()) == Refused(401, "Your session has ended.")


async def test_a_store_that_is_away_is_said_to_be_and_nothing_was_done(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = await house.log_in("ada")
        session = await session_of_client(house, client)
        house.store.down = True
        results: list[Result] = [await Commands(house.services).run(session, command) for command in COMMANDS]
        assert [result.status for result in results if isinstance(result, Refused)] == [503, 503, 503, 503]
        # What needs no store but the copy that the lease still covers.
        assert [result for result in results if not isinstance(result, Refused)] == [
            Subscribed(("sessions", "connections"))
        ]


async def test_a_command_counts_as_activity(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = await house.log_in("ada")
        session = await session_of_client(house, client)
        assert isinstance(house.clock, ManualClock)
        for _ in range(4):
            house.clock.advance(house.sessions.idle_timeout * 0.9)
            assert isinstance(await Commands(house.services).run(session, ListSessions()), SessionsListed)
