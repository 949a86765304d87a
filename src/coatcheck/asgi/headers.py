"""What a session has to say in a response's headers: Vary, Cache-Control, Set-Cookie. Pure; for ASGI and WSGI alike."""

from collections.abc import Iterable

from coatcheck.cookies import CookiePolicy
from coatcheck.session import Session

__all__ = ["clients_drop", "session_headers"]


def session_headers(
    session: Session, headers: Iterable[tuple[bytes, bytes]], cookie: CookiePolicy, vary: bytes
) -> list[tuple[bytes, bytes]]:
    """Give a response's headers completed for a session that the request has used.

    `vary` names the request's headers that the session was found by (RFC 9110, section 12.5.5). A response that sets the
    cookie is stored by no cache; one that depends on it by none that is shared (RFC 9111, section 5.2.2).
    """
    result = list(headers)
    change = None if session.by_bearer else session.cookie_change
    varies = caching = None
    for header in result:
        length = len(header[0])  # most names have another, and need not be made small to be told apart
        if length == 4 and header[0].lower() == b"vary":
            varies = header[1] if varies is None else varies + b"," + header[1]
        elif length == 13 and header[0].lower() == b"cache-control":
            caching = result.index(header)
    if varies is None or not {b"cookie", b"*"} & {part.strip().lower() for part in varies.split(b",")}:
        result.append((b"vary", vary))
    if caching is None:
        if change is not None:
            result.append((b"cache-control", b"no-store"))
        elif session.record is not None:
            result.append((b"cache-control", b"private"))
    elif change is not None:
        directives = result[caching][1].lower()
        if b"no-store" not in directives and b"private" not in directives:
            result[caching] = (b"cache-control", b"no-store")
    if change is not None:
        if change.token is None:
            line = cookie.delete_cookie()
        else:
            line = cookie.set_cookie(change.token, max_age=change.max_age)
        result.append((b"set-cookie", line))
    return result


def clients_drop(cookie: CookiePolicy, *, scheme: str, host: bytes) -> bool:
    """Tell whether most clients drop a cookie that a response sets over this scheme and for this Host header.

    They do if it is Secure, over plain http, but for localhost (RFC 6265bis, section 5.7; Secure Contexts, section 3.1).
    """
    return cookie.secure and scheme in ("http", "ws") and host.partition(b":")[0] not in (b"localhost", b"127.0.0.1")
