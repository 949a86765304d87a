"""Flask's SessionInterface: a request's session before it is dispatched, and its changes stored before the response leaves.

As SessionMiddleware does it, in a thread: what a request carries is judged by `credentials`, the response's headers by
`asgi.headers`. Where this node has a copy of the session, nothing waits; all else runs on the sessions' thread.
"""

import functools
import logging
import threading
from collections.abc import Callable, Iterable
from typing import Any, cast

from flask import Flask, Request, Response, current_app, got_request_exception, request
from flask.sessions import SessionInterface, SessionMixin

from coatcheck.asgi.headers import clients_drop, session_headers
from coatcheck.asgi.refusals import problem, refusal_of
from coatcheck.asgi.responses import drop_dead_cookie
from coatcheck.cookies import CookiePolicy
from coatcheck.credentials import Authenticator, Credentials, Refusal, Verifier, unavailable
from coatcheck.errors import SessionRefused, StoreUnavailable
from coatcheck.integrations._flask_session import FlaskSession
from coatcheck.integrations._sessions_thread import SessionsThread, thread_of
from coatcheck.manager import Sessions
from coatcheck.session import Session, enter, leave

__all__ = ["CoatcheckInterface"]

_log = logging.getLogger("coatcheck.flask")

_OPENED = "coatcheck"

_LOOKED_AT = (
    ("HTTP_COOKIE", b"cookie"),
    ("HTTP_AUTHORIZATION", b"authorization"),
    ("HTTP_ORIGIN", b"origin"),
    ("HTTP_SEC_FETCH_SITE", b"sec-fetch-site"),
)


class _Opened:
    """What was opened for one Request, and kept with it: not in the environ, which goes from request to request."""

    __slots__ = ("entered", "refusal", "session", "thread")

    def __init__(self, session: FlaskSession, refusal: Refusal | None) -> None:
        self.session = session
        self.refusal = refusal
        self.entered: Any = None
        self.thread = 0


class CoatcheckInterface(SessionInterface):
    """What stands between one Flask application and its `Sessions`."""

    def __init__(
        self,
        sessions: Sessions | str,
        *,
        cookie: CookiePolicy,
        public_origins: Iterable[str],
        tokens: Verifier | None,
    ) -> None:
        self._url = sessions if isinstance(sessions, str) else None
        self._tokens = tokens
        self.cookie: CookiePolicy = cookie
        self._credentials = Credentials(cookie, public_origins, bearer=tokens is not None)
        self._vary = b"Cookie" if tokens is None else b"Cookie, Authorization"
        self._warned = False
        self._remaking = threading.Lock()
        self._use(Sessions(sessions) if isinstance(sessions, str) else sessions)

    def _use(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._authenticator = Authenticator(sessions, self._tokens)
        self._any_loop = sessions.store.any_loop
        self._thread = thread_of(sessions)

    @property
    def thread(self) -> SessionsThread:
        """The thread that the store is used on. A forked child gets its own, where there is an URL to make it from."""
        if self._thread.inherited and self._url is not None:
            with self._remaking:
                if self._thread.inherited:
                    self._use(Sessions(self._url))
        return self._thread

    def install(self, app: Flask) -> None:
        """Have an application use this. What it has registered itself for our errors stays."""
        app.session_interface = self
        app.before_request_funcs.setdefault(None, []).insert(0, self._refuse)
        app.teardown_request(self._left)
        handlers = app.error_handler_spec[None][None]
        handlers.setdefault(StoreUnavailable, self._answer_error)
        handlers.setdefault(SessionRefused, self._answer_error)
        got_request_exception.connect(self._discard, app)

    # ---- in

    def open_session(self, app: Flask, request: Request) -> SessionMixin:
        """Give the session of a request. For one that is refused it keeps nothing, and `_refuse` answers."""
        thread = self.thread
        carried = self._credentials.examine(_scope_of(request.environ))
        found: Session | Refusal | None
        if carried is None:
            found = Session(thread.sessions)
        elif isinstance(carried, Refusal):
            found = carried
        else:
            found = self._authenticator.cached(carried) if self._any_loop else None
            if found is None:
                try:
                    found = thread.run(self._authenticator.load(carried))
                except StoreUnavailable as error:
                    found = unavailable(error)
        refusal = None
        if isinstance(found, Refusal):
            refusal = found
            found = Session(thread.sessions, silent=True)
        session = FlaskSession.of(found)
        # The test client's session_transaction opens a second one within the request's context: it is never entered.
        if _OPENED not in request.__dict__:
            opened = request.__dict__[_OPENED] = _Opened(session, refusal)
            opened.thread = threading.get_ident()
            opened.entered = enter(session)
        return cast("SessionMixin", session)

    def _refuse(self) -> Response | None:
        """Run before every other function that runs before a request."""
        refusal = _opened().refusal
        return None if refusal is None else _become(current_app.response_class(), refusal)

    # ---- out

    def save_session(self, app: Flask, session: SessionMixin, response: Response) -> None:
        """Store what was changed, and tell the client. Where it cannot be stored, the response becomes the refusal."""
        ours = cast("FlaskSession", session)
        if ours.used:
            if self._must_ask(ours):
                refusal = self._store(ours)
                if refusal is not None:
                    _become(response, refusal)
            self._add_headers(ours, response)
        late = functools.partial(self._late, ours)
        if response.is_streamed and not response.direct_passthrough:
            response.response = _Stream(cast("Iterable[Any]", response.response), ours, late)
        else:
            response.call_on_close(late)

    def _must_ask(self, session: FlaskSession) -> bool:
        """Whether there is something to store, or to find out about a new cookie, that this thread cannot do itself."""
        if _has_changes(session):
            return True
        change = session.cookie_change
        if change is None or change.token is None:
            return False
        return not self._any_loop or self._sessions.load_cached(change.token.encode("ascii")) is None

    def _store(self, session: FlaskSession) -> Refusal | None:
        try:
            return self.thread.run(self._commit(session))
        except StoreUnavailable as error:
            session.discard()
            return unavailable(error)

    async def _commit(self, session: FlaskSession) -> Refusal | None:
        refusal = None
        try:
            await session.commit(cookie=not session.by_bearer)
        except (StoreUnavailable, SessionRefused) as error:
            session.discard()
            refusal = refusal_of(error, by_bearer=session.by_bearer)
        await drop_dead_cookie(self._sessions, session)
        return refusal

    def _add_headers(self, session: FlaskSession, response: Response) -> None:
        if session.cookie_change is not None and not self._warned:
            self._warn_if_dropped(request.environ)
        headers = response.headers
        found = [
            (name.encode("latin-1"), value.encode("latin-1"))
            for name, value in headers
            if name.lower() in ("vary", "cache-control")
        ]
        completed = session_headers(session, found, cookie=self.cookie, vary=self._vary)
        for before, (name, value) in zip(found, completed, strict=False):
            if value != before[1]:
                headers[_shown(name)] = value.decode("latin-1")
        for name, value in completed[len(found) :]:
            headers.add(_shown(name), value.decode("latin-1"))

    def _warn_if_dropped(self, environ: dict[str, Any]) -> None:
        host = environ.get("HTTP_HOST", "").encode("latin-1", "replace")
        if clients_drop(self.cookie, scheme=environ.get("wsgi.url_scheme", "http"), host=host):
            self._warned = True
            _log.warning(
                "the cookie %s is Secure and this request came over plain http, so most clients will drop it. Behind a "
                "proxy that ends TLS add werkzeug.middleware.proxy_fix.ProxyFix, so that its X-Forwarded-Proto is believed.",
                self.cookie.name,
            )

    def _late(self, session: FlaskSession) -> None:
        """Store what was changed after the response had started."""
        if session.used and _has_changes(session):
            try:
                stored = self.thread.run(session.commit(cookie=False))
            except StoreUnavailable as error:
                _log.error("what was changed after the response had started is lost: %s", error)
                return
            if not stored and session.is_new:
                _log.warning(
                    "a session was begun after the response had started, so its cookie could not be set and it was "
                    "dropped: store something before the first piece, or call session.sync.save()"
                )

    # ---- when it fails, and when it is over

    def _answer_error(self, error: StoreUnavailable | SessionRefused) -> Response:
        """Answer an error of ours that a view let out. Verbs that were called stand, and so does the cookie that they made."""
        session = _opened().session
        session.discard()
        return _become(current_app.response_class(), refusal_of(error, by_bearer=session.by_bearer))

    def _discard(self, app: Flask, **about: object) -> None:
        """An exception that the application lets out discards what is pending."""
        opened: _Opened | None = request.__dict__.get(_OPENED)
        if opened is not None:
            opened.session.discard()

    def _left(self, error: BaseException | None) -> None:
        opened: _Opened | None = request.__dict__.get(_OPENED)
        # A copy of the request's context may be torn down in another thread, before this one; a stream's own, after it.
        if opened is not None and opened.entered is not None and opened.thread == threading.get_ident():
            entered, opened.entered = opened.entered, None
            leave(entered)


class _Stream:
    """A response's pieces as they are made, with their session as the current one; what they changed is stored at their end."""

    def __init__(self, pieces: Iterable[Any], session: FlaskSession, late: Callable[[], None]) -> None:
        self._pieces = pieces
        self._iterator = iter(pieces)
        self._session = session
        self._late = late
        self._over = False

    def __iter__(self) -> "_Stream":
        return self

    def __next__(self) -> Any:
        current = enter(self._session)
        try:
            return next(self._iterator)
        except StopIteration:
            self._finish()
            raise
        except BaseException:
            self._session.discard()
            raise
        finally:
            leave(current)

    def close(self) -> None:
        """End it, whether or not all of it was made."""
        try:
            close = getattr(self._pieces, "close", None)
            if close is not None:
                close()
        finally:
            self._finish()

    def _finish(self) -> None:
        if not self._over:
            self._over = True
            self._late()


def _has_changes(session: Session) -> bool:
    # For a visitor who stored nothing nothing is made, whatever `permanent` says.
    return session.needs_commit() and (session.record is not None or session.touched())


def _opened() -> _Opened:
    return cast("_Opened", request.__dict__[_OPENED])


def _scope_of(environ: dict[str, Any]) -> dict[str, Any]:
    """Give as much of an ASGI scope as `Credentials` looks at."""
    method = environ["REQUEST_METHOD"]
    # WebSockets come by WSGI as well (flask-sock), and are judged by their Origin.
    socket = method == "GET" and "websocket" in environ.get("HTTP_UPGRADE", "").lower()
    return {
        "type": "websocket" if socket else "http",
        "method": method,
        "headers": [(name, environ[key].encode("latin-1", "replace")) for key, name in _LOOKED_AT if key in environ],
    }


def _shown(name: bytes) -> str:
    """Give a header's name as people write it."""
    return name.decode("ascii").title()


def _become(response: Response, refusal: Refusal) -> Response:
    """Make a response, whatever it was, a refusal's problem document."""
    close = getattr(response.response, "close", None)
    if close is not None:
        close()
    status, headers, body = problem(refusal)
    response.status_code = status
    response.headers.clear()
    for name, value in headers:
        response.headers[_shown(name)] = value.decode("latin-1")
    response.direct_passthrough = False
    response.set_data(body)
    return response
