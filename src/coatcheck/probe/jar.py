"""The cookies of one probe: those that the user brought and those that the server sets. Leaves judging them to `set_cookie`.

Of a browser's rules it keeps what a probe of one URL needs: the last word counts, and what has run out is gone. It sends
what browsers would refuse, too, since that is for the report to say.
"""

from datetime import UTC, datetime

from coatcheck.probe.exchange import Headers, Response
from coatcheck.probe.set_cookie import SetCookie, is_session_like, parse_set_cookie

__all__ = ["CookieJar"]


class CookieJar:
    """Cookies by name. `brought` are the user's, which are taken to carry the session."""

    def __init__(self, brought: Headers) -> None:
        self._values = dict(brought)
        self._brought = tuple(dict(brought))
        self._session: dict[str, None] = dict.fromkeys(self._brought)
        self.seen: dict[str, SetCookie] = {}
        """What the server set last, by name."""
        self.seen_over: dict[str, list[str]] = {}
        """Over which versions."""

    @property
    def session_names(self) -> tuple[str, ...]:
        """The names of those that seem to carry the session: the user's if there are any."""
        return self._brought or tuple(self._session)

    def take(self, response: Response, version: str, *, keep: bool = True) -> tuple[tuple[str, str], ...]:
        """Note what a response sets, and keep it for the next request; the names and values of the session's cookies."""
        given: list[tuple[str, str]] = []
        for header in response.values("set-cookie"):
            cookie = parse_set_cookie(header)
            if cookie is None:
                continue
            deletes = cookie.deletes(datetime.now(UTC)) or not cookie.value
            if not deletes or cookie.name not in self.seen:
                self.seen[cookie.name] = cookie
            over = self.seen_over.setdefault(cookie.name, [])
            if version not in over:
                over.append(version)
            if not self._brought and not deletes and is_session_like(cookie.name, cookie.value, cookie.http_only):
                self._session[cookie.name] = None
            if cookie.name in self.session_names:
                given.append((cookie.name, cookie.value))
            if keep and deletes:
                self._values.pop(cookie.name, None)
            elif keep:
                self._values[cookie.name] = cookie.value
        return tuple(given)

    def session_values(self) -> tuple[tuple[str, str], ...]:
        """Names and values of the session's cookies, as they would be sent now."""
        return tuple((name, self._values[name]) for name in self.session_names if name in self._values)

    def header(self, instead: tuple[tuple[str, str], ...] = ()) -> Headers:
        """The Cookie header, with some values in place of ours; nothing if there are no cookies."""
        values = {**self._values, **dict(instead)}
        text = "; ".join(f"{name}={value}" if name else value for name, value in values.items())
        return (("cookie", text),) if text else ()
