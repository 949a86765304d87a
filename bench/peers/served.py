"""`python -m bench.peers.served NAME PORT DIRECTORY REDIS`: one contender behind uvicorn, as its documentation deploys it.

One process, uvloop and httptools, no access log, on 127.0.0.1. Says "ready" when it answers; SIGTERM stops it. Leaves the
load to `bench.servers`.
"""

import asyncio
import logging
import sys
from pathlib import Path

import uvicorn

from bench.peers.contenders import contender


class _Server(uvicorn.Server):
    async def startup(self, sockets: object = None) -> None:
        await super().startup()
        print("ready", flush=True)


async def serve(name: str, port: int, directory: Path, redis: str) -> None:
    async with contender(name, directory, redis) as found:
        config = uvicorn.Config(
            found.app,
            host="127.0.0.1",
            port=port,
            http="httptools",
            lifespan="off",
            interface="asgi3",
            access_log=False,
            log_level="warning",
        )
        await _Server(config).serve()


if __name__ == "__main__":
    logging.disable(logging.INFO)
    name, port, directory, redis = sys.argv[1:]
    with asyncio.Runner(loop_factory=uvicorn.Config("x", loop="uvloop").get_loop_factory()) as runner:
        runner.run(serve(name, int(port), Path(directory), redis))
