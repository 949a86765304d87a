"""Log in, be known, log out, with gRPC: `python grpc_login.py`. Messages are plain bytes here, so that there is nothing to generate."""

import asyncio
import itertools
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio

from coatcheck import Sessions, current_session
from coatcheck.integrations.grpc import SessionInterceptor, require_login


async def log_in(request: bytes, context: Any) -> bytes:
    await current_session().log_in("user123")  # yours checks a password first
    return b"Logged in"


async def log_out(request: bytes, context: Any) -> bytes:
    await current_session().log_out()
    return b"Logged out"


@require_login()
async def profile(request: bytes, context: Any) -> bytes:
    return f"Hello, {current_session().user_id}".encode()


@require_login()
async def count(request: bytes, context: Any) -> AsyncIterator[bytes]:
    # Without an end of its own. It ends with the session, and does nothing for it.
    for number in itertools.count():
        yield str(number).encode()
        await asyncio.sleep(1)


METHODS = {
    "LogIn": grpc.unary_unary_rpc_method_handler(log_in),
    "LogOut": grpc.unary_unary_rpc_method_handler(log_out),
    "Profile": grpc.unary_unary_rpc_method_handler(profile),
    "Count": grpc.unary_stream_rpc_method_handler(count),
}


async def main(address: str = "localhost:50051") -> None:
    async with Sessions("sqlite:///sessions.sqlite3") as sessions:
        interceptor = SessionInterceptor(sessions)
        server = grpc.aio.server(interceptors=[interceptor])
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("example.Login", METHODS)])
        port = server.add_insecure_port(address)
        await server.start()
        print(f"serving on port {port}", flush=True)
        try:
            await server.wait_for_termination()
        finally:
            interceptor.leave()  # streams are told to come back; `stop` would wait for them
            await server.stop(5)


if __name__ == "__main__":
    try:
        asyncio.run(main(*sys.argv[1:]))
    except KeyboardInterrupt:
        pass
