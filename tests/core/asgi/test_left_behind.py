"""What a closed connection leaves behind: nothing that only the garbage collector could free.

The collector stops the node while it looks; with 10,000 WebSockets of which each left a hundred objects in circles, that was
0.8 s at a time, in which nobody was served and no session ended.
"""

import asyncio
import gc
from typing import Any

import pytest

from coatcheck import session_of
from tests.core.asgi.live_site import LiveSite, streaming
from tests.core.test_websocket import Socket


async def listening(scope: Any, receive: Any, send: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def application(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http" and scope.get("path") == "/":
        await streaming(b"data: 1\n\n", then=listening)(scope, receive, send)
        return
    session = session_of(scope)
    session["seen"] = session.get("seen", 0) + 1
    await receive()
    await send({"type": "websocket.accept"})
    while (await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": "heard"})


async def websocket(site: LiveSite, *, by_client: bool) -> None:
    session_id, cookie = await site.log_in()
    socket = Socket(site.app, headers=[(b"cookie", cookie), (b"origin", b"https://app.example")])
    assert (await socket.next())["type"] == "websocket.accept"
    socket.text("hello")
    assert (await socket.next())["text"] == "heard"
    if by_client:
        socket.incoming.put_nowait({"type": "websocket.disconnect", "code": 1000})
    else:
        await site.sessions.end(session_id, "logged out")
        assert (await socket.next())["code"] == 4401
    await asyncio.wait_for(socket.task, 5)


async def stream(site: LiveSite, *, by_client: bool) -> None:
    session_id, cookie = await site.log_in()
    exchange = site.get(cookie)
    await exchange.started()
    await exchange.piece()
    if by_client:
        exchange.task.cancel()
        await asyncio.wait([exchange.task])
    else:
        await site.sessions.end(session_id, "logged out")
        await exchange.last()
        await exchange.over()


@pytest.mark.parametrize("by_client", [True, False], ids=["the client leaves", "the session ends"])
@pytest.mark.parametrize("kind", [websocket, stream])
async def test_a_closed_connection_leaves_the_garbage_collector_nothing(kind: Any, by_client: bool) -> None:
    async with LiveSite(application) as site:
        await kind(site, by_client=by_client)  # what is made once, at the first, is not looked at
        gc.collect()
        gc.disable()
        try:
            for _ in range(3):
                await kind(site, by_client=by_client)
            await asyncio.sleep(0)
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
            left = [type(one).__qualname__ for one in gc.garbage if type(one).__module__.startswith("coatcheck.")]
            assert left == []
            assert len(site.sessions.connections) == 0
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
