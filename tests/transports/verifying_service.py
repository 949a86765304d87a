"""A service in a process of its own that has an issuer's URL and a credential, and neither store nor database.

Reads lines of JSON: `{"until": "good" | "refused", "token": …}`, and answers each once that is so, with when (monotonic
seconds, the same for all processes of a machine). It never asks about a token: all it has are the keys and the feed.
"""

import asyncio
import json
import ssl
import sys
import time

from coatcheck.errors import TokenRefused
from coatcheck.tokens import IssuerUnavailable, TokenVerifier


async def main(issuer: str, ca: str, audience: str, service_id: str, secret: str) -> None:
    verifier = TokenVerifier(
        issuer,
        audience=audience,
        service=(service_id, secret),
        on_feed_loss="refuse",
        tls=ssl.create_default_context(cafile=ca),
    )
    async with verifier:
        while line := await asyncio.to_thread(sys.stdin.readline):
            wanted = json.loads(line)
            until = time.monotonic() + 10
            state = ""
            while state != wanted["until"] and time.monotonic() < until:
                try:
                    found = await verifier.verify(wanted["token"])
                    state = "good" if found.feed_live else "unsure"
                except TokenRefused as error:
                    state = "refused" if "ended" in str(error) else str(error)
                except IssuerUnavailable as error:
                    state = str(error)
                if "a new one will do" in state:
                    break  # this token is refused for good
                await asyncio.sleep(0.001)
            print(json.dumps({"state": state, "at": time.monotonic()}), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
