"""How many messages a store costs (decision 30): what a writer knows is written without a question before it.

Counted at the store's way to its server, a real one. A message of the feed is none of these.
"""

from collections.abc import Callable
from typing import Any

import pytest

from coatcheck import Session, Sessions
from coatcheck.record import SessionRecord
from coatcheck.stores._postgres_link import Link
from coatcheck.stores._redis_server import Server
from coatcheck.stores.postgres import PostgresStore
from coatcheck.stores.redis import RedisStore
from coatcheck.values import decode_value
from tests.clients.postgres_server import PostgresServer
from tests.clients.redis_server import RedisServer

Asked = list[Any]


def counted(monkeypatch: pytest.MonkeyPatch, owner: type, *names: str) -> Asked:
    """Note what each of these methods is given, as long as the test runs."""
    asked: Asked = []

    def counting(plain: Callable[..., Any]) -> Callable[..., Any]:
        async def method(self: Any, what: Any, *others: Any, **options: Any) -> Any:
            asked.append(what)
            return await plain(self, what, *others, **options)

        return method

    for name in names:
        monkeypatch.setattr(owner, name, counting(getattr(owner, name)))
    return asked


async def logged_in(sessions: Sessions) -> Session:
    """Give a session of ann's as the next request finds it, from this node's copies."""
    session = await sessions.load(None)
    session["visits"] = 1
    await session.log_in("ann")
    assert session.cookie_change is not None
    assert session.cookie_change.token is not None
    again = sessions.load_cached(session.cookie_change.token.encode())
    assert again is not None
    return again


async def test_on_redis_a_change_is_one_message_and_a_login_three(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = counted(monkeypatch, Server, "ask")

    def since() -> int:
        # The feed's question for the time of its probe, GETRANGE, comes when it likes.
        mine = [commands for commands in asked if commands[0][0] != "GETRANGE"]
        asked.clear()
        return len(mine)

    async with Sessions(RedisStore(redis_server.url, prefix="messages")) as sessions:
        session = await logged_in(sessions)
        since()
        session["visits"] = 2
        assert await session.commit()
        assert since() == 1
        await session.log_in("ann")
        assert since() == 3, "the user's epoch; the login; whether the user has too many sessions"
    async with Sessions(RedisStore(redis_server.url, prefix="messages")) as elsewhere:
        assert session.cookie_change is not None
        assert session.cookie_change.token is not None
        found = await elsewhere.load(session.cookie_change.token.encode())
        assert found["visits"] == 2


async def test_on_postgres_a_change_reads_nothing_first(
    postgres: PostgresServer, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = PostgresStore(postgres.url(schema=schema))
    await store.migrate()
    async with Sessions(store) as sessions:
        session = await logged_in(sessions)
        asked = counted(monkeypatch, Link, "rows", "run")  # whatever else it has goes by these
        session["visits"] = 2
        assert await session.commit()
        change, *others = [statement for statement in asked if schema in statement]
        assert "UPDATE" in change
        assert others == [], "nothing is read before"
        found = await store.read(str(session.id))
        assert isinstance(found, SessionRecord)
        assert decode_value(found.values["visits"]) == 2
