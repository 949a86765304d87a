"""Sessions for Flask: `flask.session` in the store, verbs by `session.sync`, the demand for a (recent) login.

    app = Flask(__name__)
    Coatcheck(app, "sqlite:///sessions.sqlite3")

    @app.post("/login")
    def log_in():
        session.sync.log_in("user123")  # yours checks a password first
        return "Logged in"

    @app.get("/profile")
    @login_required
    def profile():
        return f"Hello, {current_user_id()}"

For servers that run requests in threads or processes (gunicorn's sync and gthread workers, waitress, Werkzeug's own). Not
for gevent and eventlet: what they make of threads is none of ours. A response that is streamed does not end with its
session, since nothing can stop a thread; it stores what it changes at its end.
"""

import functools
import logging
import weakref
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, ParamSpec, TypeVar, cast, overload

from coatcheck.cookies import CookiePolicy
from coatcheck.credentials import Refusal, Verifier
from coatcheck.errors import MissingDependency, UsageError
from coatcheck.integrations._login_demand import LoginDemand
from coatcheck.manager import Sessions

try:
    import flask
    from flask import Flask
    from werkzeug.exceptions import Unauthorized

    from coatcheck.integrations._flask_interface import CoatcheckInterface
    from coatcheck.integrations._flask_session import FlaskSession
except ImportError as _error:
    raise MissingDependency("flask", "flask", "coatcheck.integrations.flask") from _error

__all__ = ["Coatcheck", "FlaskSession", "LoginRequired", "current_user_id", "login_required", "session"]

_log = logging.getLogger("coatcheck.flask")

T = TypeVar("T")
P = ParamSpec("P")

session: FlaskSession = cast("FlaskSession", flask.session)
"""`flask.session`, the same object, for type checkers: they learn of `sync`, `user_id` and all else that it has."""

_EXTENSION = "coatcheck"


class Coatcheck:
    """Gives a Flask application its sessions: `Coatcheck(app, "sqlite:///sessions.sqlite3")`.

    - `sessions`: a store's URL, or `Sessions`; without it `app.config["COATCHECK_SESSIONS"]`. Of an URL each process
      makes its own Sessions
    - `cookie`: the cookie's policy; the default is `__Host-session`, which browsers keep only over https and for localhost
    - `public_origins`: origins whose pages may send unsafe requests (see `Credentials`); without it
      `app.config["COATCHECK_PUBLIC_ORIGINS"]`
    - `tokens`: what verifies access tokens (`coatcheck.tokens.AccessTokens`); without it bearers are not looked at

    Flask's own settings of its signed cookie (`SESSION_COOKIE_…`, `PERMANENT_SESSION_LIFETIME`, `SECRET_KEY`) have no
    effect on it. With an application factory make it without `app`, and call `init_app(app)` for each.

    Changes are stored before the response leaves; an exception that no handler of yours answers discards them. A store
    that cannot be asked is 503 with Retry-After.
    """

    def __init__(
        self,
        app: Flask | None = None,
        sessions: Sessions | str | None = None,
        *,
        cookie: CookiePolicy | None = None,
        public_origins: Iterable[str] | None = None,
        tokens: Verifier | None = None,
    ) -> None:
        if isinstance(app, Sessions | str):
            raise UsageError(
                "the first argument is the application: write Coatcheck(app, sessions), or Coatcheck(sessions=…)"
            )
        self._given = sessions
        self._cookie = cookie or CookiePolicy()
        self._public_origins = (
            public_origins if public_origins is None or isinstance(public_origins, str) else [*public_origins]
        )
        self._tokens = tokens
        self._interfaces: weakref.WeakSet[CoatcheckInterface] = weakref.WeakSet()
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Give one more application its sessions. Raises UsageError where nothing says where they are kept."""
        config = cast("dict[str, Any]", app.config)
        given: object = config.get("COATCHECK_SESSIONS") if self._given is None else self._given
        if not isinstance(given, Sessions | str):
            raise UsageError(
                'nothing says where sessions are kept: write Coatcheck(app, "sqlite:///sessions.sqlite3"), or set '
                'app.config["COATCHECK_SESSIONS"] before init_app'
            )
        if _EXTENSION in app.extensions:
            raise UsageError(f"the application {app.name} has its sessions already: one Coatcheck is enough")
        origins = self._public_origins
        if origins is None:
            origins = cast("Iterable[str]", config.get("COATCHECK_PUBLIC_ORIGINS", ()))
        if isinstance(origins, str):
            raise UsageError(f"public_origins={origins!r} is one text: write a list, as [{origins!r}]")
        _warn_of_settings(config, self._cookie)
        interface = CoatcheckInterface(given, cookie=self._cookie, public_origins=origins, tokens=self._tokens)
        interface.install(app)
        app.extensions[_EXTENSION] = interface
        self._interfaces.add(interface)

    @property
    def sessions(self) -> Sessions:
        """The manager, for `run`: that of the current application, or of the only one."""
        return self._interface().thread.sessions

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Wait for what a coroutine of `sessions` gives: `coatcheck.run(coatcheck.sessions.end_user("user123"))`.

        Works in views, async ones too, and outside of requests, as in commands. Raises what the coroutine raises.
        """
        try:
            thread = self._interface().thread
        except UsageError:
            coroutine.close()
            raise
        return thread.run(coroutine)

    def close(self) -> None:
        """Write what is pending and close the store. Happens by itself before the interpreter ends; tests may be sooner."""
        for interface in list(self._interfaces):
            interface.thread.close()

    def _interface(self) -> CoatcheckInterface:
        if flask.has_app_context():
            interface = flask.current_app.extensions.get(_EXTENSION)
            if interface in self._interfaces:
                return cast("CoatcheckInterface", interface)
        interfaces = list(self._interfaces)
        if len(interfaces) != 1:
            raise UsageError(
                "this Coatcheck has no application yet: call init_app(app)"
                if not interfaces
                else "this Coatcheck has several applications: write `with app.app_context():` around its use"
            )
        return interfaces[0]


def _warn_of_settings(config: dict[str, Any], cookie: CookiePolicy) -> None:
    """Say which of Flask's settings would make another cookie than the policy does: they have no effect."""
    ours = {
        "NAME": cookie.name,
        "DOMAIN": cookie.domain,
        "PATH": cookie.path,
        "HTTPONLY": cookie.http_only,
        "SECURE": cookie.secure,
        "SAMESITE": cookie.same_site.capitalize(),
    }
    for name, value in ours.items():
        setting = f"SESSION_COOKIE_{name}"
        given = config.get(setting)
        if given != Flask.default_config[setting] and str(given).lower() != str(value).lower():
            _log.warning(
                "%s=%r is a setting of Flask's signed cookie and has no effect: write Coatcheck(…, cookie=CookiePolicy(…))",
                setting,
                given,
            )


class LoginRequired(Unauthorized):
    """The 401 for whoever is not logged in, or not recently enough; `challenge` goes into WWW-Authenticate.

    A page for people may answer it with `@app.errorhandler(LoginRequired)`, as by a redirect to its login.
    """

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.detail)
        self.challenge: str = refusal.challenge

    def get_headers(self, environ: Any = None, scope: Any = None) -> list[tuple[str, str]]:
        """Give the headers of the answer."""
        return [*super().get_headers(environ, scope), ("WWW-Authenticate", self.challenge)]


@overload
def login_required(view: Callable[P, T], /) -> Callable[P, T]: ...
@overload
def login_required(*, fresh_within: float | None = None) -> Callable[[Callable[P, T]], Callable[P, T]]: ...
def login_required(view: Callable[..., Any] | None = None, /, *, fresh_within: float | None = None) -> Any:
    """Demand a logged-in user of a view: `@login_required`, or `@login_required(fresh_within=300)`, below `@app.route`.

    With `fresh_within` the user must have proved who they are within that many seconds. Otherwise LoginRequired is
    raised, a 401 with the `WWW-Authenticate` of RFC 6750, section 3, or, for a login that is too old, of RFC 9470, section
    3. Raises UsageError for a `fresh_within` that is not positive.
    """
    demand = LoginDemand(fresh_within)

    def decorate(view: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(view)
        def demanding(*args: Any, **values: Any) -> Any:
            _demand(demand)
            return flask.current_app.ensure_sync(view)(*args, **values)

        return demanding

    return decorate if view is None else decorate(view)


def current_user_id() -> str:
    """Give the id of the logged-in user. Raises LoginRequired (401) where nobody is; `session.user_id` is None there."""
    _demand(_LOGIN)
    user_id = session.user_id
    assert user_id is not None
    return user_id


_LOGIN = LoginDemand()


def _demand(demand: LoginDemand) -> None:
    if not isinstance(flask.session, FlaskSession):
        raise UsageError("this application has no Coatcheck sessions: write Coatcheck(app, …)")
    refusal = demand.unmet_by(session)
    if refusal is not None:
        raise LoginRequired(refusal)
