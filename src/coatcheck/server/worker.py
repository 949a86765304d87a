"""One worker process: uvicorn and grpc.aio behind the edge's Unix sockets, or uvicorn alone on inherited sockets. Started by `supervisor`.

Promises to leave without failing a request: on SIGTERM it first says so on `/healthz`, waits until the edge has
noticed, tells live connections to go elsewhere, then ends what is under way. SIGINT is for when the edge is gone.
Leaves what is served to `app`.
"""

import argparse
import asyncio
import contextlib
import gc
import importlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from coatcheck.errors import CoatcheckError
from coatcheck.server.connection_table import ConnectionTable
from coatcheck.server.context import APPLICATION, WorkerContext
from coatcheck.server.figures import FigureTable
from coatcheck.server.lifeline import NOTICE, READY, TELL_LIVE
from coatcheck.server.metrics import COLUMNS
from coatcheck.server.plain_guard import PlainGuard
from coatcheck.server.plain_protocol import Protocol, plain_protocol
from coatcheck.server.settings import Settings, restore_settings

__all__ = ["main"]

_GOODBYE = 0.1
"""Seconds in which live connections that know how are closed as their protocol has it; the others are closed then."""
_LAST_WORDS = 1
"""Seconds that a request has to end whose answer nobody waits for."""


class _Server(uvicorn.Server):
    """uvicorn, with signals left to us, and a word to the supervisor once it and gRPC serve."""

    def __init__(self, config: uvicorn.Config, rpc: "_Rpc", on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._rpc = rpc
        self._on_ready = on_ready

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            await self._rpc.start()
            self._on_ready()


class _Rpc:
    """The worker's gRPC, if it has one. It stops beside uvicorn, and before the application does, which both work with."""

    def __init__(self, context: WorkerContext, socket: Path | None) -> None:
        self._serving = context.rpc if socket is not None else None
        self._socket = socket
        self._stopping: asyncio.Future[None] | None = None

    async def start(self) -> None:
        if self._serving is not None:
            await self._serving.start(f"unix:{self._socket}")

    def leave(self) -> None:
        if self._serving is not None:
            self._serving.leave()

    def stop(self, grace: float) -> None:
        if self._serving is not None and self._stopping is None:
            self._stopping = asyncio.ensure_future(self._serving.stop(grace))

    def outlived_by(self, application: Any) -> Any:
        """Give the application as one that hears of its shutdown only when no call is under way any more."""

        def wrapped(scope: Any, receive: Any, send: Any) -> Awaitable[None]:
            # A plain function: no coroutine more on every request.
            if scope["type"] != "lifespan":
                return application(scope, receive, send)

            async def receive_last() -> Any:
                message = await receive()
                if message["type"] == "lifespan.shutdown" and self._serving is not None:
                    self.stop(0.0)
                    assert self._stopping is not None
                    await self._stopping
                return message

            return application(scope, receive_last, send)

        return wrapped


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until told to stop; the exit status."""
    options = _parse(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    # Ctrl-C before the loop stands would be a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # The store's writing thread needs the interpreter for microseconds between two waits for the disk, and a busy event
    # loop would let it have it every 5 ms: p99 of a write under full load 30 to 380 ms before, 7 to 65 after.
    sys.setswitchinterval(0.0005)
    # A connection's objects refer to nothing in circles, and each pass over those of 10,000 stops the worker for 0.8 s:
    # as Python has it, ten passes while they are opened, and one or two when they close.
    gc.set_threshold(10_000, 20, 25)
    try:
        settings = restore_settings((options.runtime_dir / "settings.json").read_text())
        context = WorkerContext(
            runtime_dir=options.runtime_dir,
            worker_id=options.worker_id,
            boot_id=options.boot_id,
            workers=settings.workers,
            edge=settings.edge,
            trusted_proxies=settings.trusted_proxies,
            connections=ConnectionTable.open(options.runtime_dir / "connections", options.worker_id),
            figures=FigureTable.open(options.runtime_dir / "figures", COLUMNS, options.worker_id),
        )
        application = _load(options.app)(settings, context)
        if not settings.edge:
            application = PlainGuard(application, settings)
    except CoatcheckError as error:
        print(f"coatcheck: {error}", file=sys.stderr)
        return 1
    for path in (options.socket, options.grpc_socket):
        if path is not None:
            path.unlink(missing_ok=True)
    rpc = _Rpc(context, options.grpc_socket)
    config = _config(settings, rpc.outlived_by(application), options.socket)
    inherited = [socket.socket(fileno=fd) for fd in options.listen_fd]
    lifeline = socket.socket(fileno=options.lifeline_fd)
    factory = config.get_loop_factory()
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(_serve(config, context, rpc, lifeline, inherited or None))
    return 0


async def _serve(
    config: uvicorn.Config,
    context: WorkerContext,
    rpc: _Rpc,
    lifeline: socket.socket,
    sockets: list[socket.socket] | None,
) -> None:
    loop = asyncio.get_running_loop()
    lifeline.setblocking(False)
    server = _Server(config, rpc, on_ready=lambda: _say_ready(lifeline))

    def tell_live_connections() -> None:
        context.leave()
        loop.call_later(_GOODBYE, close_others)

    def close_others() -> None:
        rpc.leave()
        for connection in list(server.server_state.connections):
            if isinstance(connection, WebSocketsSansIOProtocol) and connection.handshake_complete:
                connection.shutdown()  # with 1012

    def leave() -> None:
        # Before requests are waited for, so that clients are elsewhere by then.
        tell_live_connections()
        loop.call_later(2 * _GOODBYE, end)

    def end() -> None:
        server.should_exit = True
        rpc.stop(config.timeout_graceful_shutdown or 0.0)

    def drain() -> None:
        if not context.draining:
            context.draining = True
            loop.call_later(NOTICE if context.edge else 0.0, leave)

    def leave_at_once() -> None:
        if context.edge:
            config.timeout_graceful_shutdown = _LAST_WORDS  # the edge is gone, and with it whoever asked
        leave()

    def supervisor_gone() -> None:
        if not lifeline.recv(64):
            loop.remove_reader(lifeline)
            context.draining = True
            leave_at_once()

    loop.add_signal_handler(signal.SIGTERM, drain)
    loop.add_signal_handler(signal.SIGINT, leave_at_once)
    loop.add_signal_handler(TELL_LIVE, tell_live_connections)
    loop.add_reader(lifeline, supervisor_gone)
    await server.serve(sockets)


def _say_ready(lifeline: socket.socket) -> None:
    with contextlib.suppress(OSError):
        lifeline.send(READY)


def _config(settings: Settings, application: Any, path: Path | None) -> uvicorn.Config:
    return uvicorn.Config(
        application,
        uds=str(path) if path is not None else None,
        interface="asgi3",
        http=Protocol if settings.edge else plain_protocol(settings.limits, settings.workers),
        ws="websockets-sansio",
        loop="uvloop",
        ws_per_message_deflate=False,
        ws_max_size=settings.limits.websocket_message_kb * 1024,
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=not settings.edge,
        # The edge closes idle connections first; otherwise it could send a request into one just being closed.
        timeout_keep_alive=3600 if settings.edge else int(settings.limits.keepalive_timeout),
        timeout_graceful_shutdown=int(settings.limits.drain_timeout),
        backlog=1024,
    )


def _load(name: str) -> Callable[[Settings, WorkerContext], Any]:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


class _Options(argparse.Namespace):
    runtime_dir: Path
    worker_id: int
    boot_id: str
    app: str
    socket: Path | None
    grpc_socket: Path | None
    listen_fd: list[int]
    lifeline_fd: int


def _parse(arguments: Sequence[str] | None) -> _Options:
    parser = argparse.ArgumentParser(prog="coatcheck.server.worker", description="Started by `coatcheck serve`.")
    parser.add_argument("--runtime-dir", type=Path, required=True)
    parser.add_argument("--worker-id", type=int, required=True)
    parser.add_argument("--boot-id", required=True)
    parser.add_argument("--app", default=APPLICATION)
    parser.add_argument("--socket", type=Path)
    parser.add_argument("--grpc-socket", type=Path)
    parser.add_argument("--listen-fd", type=int, action="append", default=[])
    parser.add_argument("--lifeline-fd", type=int, required=True)
    return parser.parse_args(arguments, namespace=_Options())


def _run() -> None:
    status = main()
    sys.stdout.flush()
    os._exit(status) if status else sys.exit(0)


if __name__ == "__main__":
    _run()
