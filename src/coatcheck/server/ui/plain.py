"""The page without JavaScript: log in, see one's sessions, end them, log out, by forms alone.

Promises that everything that came from outside is escaped, that a form answers by a redirect (303) so that a reload does
nothing again, and the cross-site rule, which SessionMiddleware keeps. Leaves all else to the page with JavaScript.
"""

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from html import escape
from typing import Any, TypeAlias, cast
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from coatcheck.manager import SessionInfo
from coatcheck.server.actions import logins, sessions
from coatcheck.server.actions.access import user_of
from coatcheck.server.commands import Commands
from coatcheck.server.printable import printable
from coatcheck.server.problems import ProblemError, problem_of
from coatcheck.server.services import Services
from coatcheck.server.session_kind import session_kind
from coatcheck.server.ui.devices import device
from coatcheck.server.ui.japanese import JAPANESE
from coatcheck.session import session_of

__all__ = ["plain_routes"]

_Answer: TypeAlias = Callable[[Request], Awaitable[Response]]
_HOME = "/page"
_SAID: Mapping[str, str] = {
    "ended": "The session has ended.",
    "others": "All other sessions have ended.",
    "out": "You are logged out.",
}
"""What a redirect may have the page say, by the word in its address."""
_FORM = "application/x-www-form-urlencoded"


def plain_routes(policy: str, assets: str) -> list[BaseRoute]:
    """The routes under `/page`. `policy` is their Content-Security-Policy, `assets` the path of the page's files."""

    def page(request: Request, title: str, body: str, status: int = 200) -> Response:
        t = _words(request)
        text = _DOCUMENT.format(
            language="ja" if t("Log in") != "Log in" else "en", title=escape(t(title)), assets=assets, body=body
        )
        headers = {"content-security-policy": policy, "cache-control": "no-store", "vary": "accept-language, cookie"}
        return HTMLResponse(text, status, headers=headers)

    def shown(work: _Answer) -> _Answer:
        """What is refused is said on a page; failures that nobody expected go on."""

        async def answer(request: Request) -> Response:
            try:
                return await work(request)
            except Exception as error:
                problem = problem_of(error, by_bearer=False)
                if problem is None:
                    raise
                t = _words(request)
                back = f'<p><a href="{_HOME}">{escape(t("Back"))}</a></p>'
                answered = page(request, "Not done", _problem(t(problem.detail)) + back, problem.status)
                answered.headers.update(problem.headers)
                return answered

        return answer

    async def home(request: Request) -> Response:
        services, session = _services(request), session_of(request)
        t = _words(request)
        said = _SAID.get(request.query_params.get("said", ""))
        notice = f'<p class="hint" role="status">{escape(t(said))}</p>' if said else ""
        if session.user_id is None:
            return page(request, "Log in", notice + _login(t))
        user = await user_of(session, services)
        listed = await Commands(services).list(session)
        mine = sorted(listed.sessions, key=lambda each: (each.id != listed.current, -each.last_seen_at))
        items = "".join(_session(t, each, listed.current) for each in mine)
        others = _button(t, "/page/end-others", "End all others", "danger") if len(mine) > 1 else ""
        body = (
            f"<h1>{escape(t('Sessions'))}</h1>{notice}"
            f'<p class="hint">{escape(t("Logged in as"))} <strong>{escape(user.name or user.username)}</strong></p>'
            f'<ul class="list">{items}</ul><div class="inline">{others}'
            f"{_button(t, '/page/logout', 'Log out')}</div>"
        )
        return page(request, "Sessions", body)

    async def log_in(request: Request) -> Response:
        fields = await _fields(request)
        answer = _to(_HOME)
        try:
            await logins.log_in(
                _services(request),
                request,
                answer,
                session_of(request),
                username=fields.get("username", ""),
                password=fields.get("password", ""),
                remember="remember" in fields,
            )
        except ProblemError as error:
            if error.status != 401:
                raise
            t = _words(request)
            wrong = _problem(t("Username and password do not match."))
            refused = page(request, "Log in", wrong + _login(t, fields.get("username", "")), 401)
            refused.headers["www-authenticate"] = "Bearer"  # RFC 9110, section 15.5.2; browsers ask nobody for it
            return refused
        return answer

    async def log_out(request: Request) -> Response:
        await session_of(request).log_out()
        return _to(f"{_HOME}?said=out")

    async def end(request: Request) -> Response:
        fields, session = await _fields(request), session_of(request)
        if session.user_id is None:
            return _to(_HOME)
        await sessions.end_session(_services(request), session, fields.get("session", ""))
        return _to(f"{_HOME}?said=ended")

    async def end_others(request: Request) -> Response:
        session = session_of(request)
        if session.user_id is None:
            return _to(_HOME)
        await Commands(_services(request)).end_others(session)
        return _to(f"{_HOME}?said=others")

    posts = {"login": log_in, "logout": log_out, "end": end, "end-others": end_others}
    return [
        Route(_HOME, shown(home), name="plain", include_in_schema=False),
        *(
            Route(f"{_HOME}/{name}", shown(work), methods=["POST"], name=f"plain-{name}", include_in_schema=False)
            for name, work in posts.items()
        ),
    ]


class _Words:
    def __init__(self, translations: Mapping[str, str]) -> None:
        self._translations = translations

    def __call__(self, text: str) -> str:
        return self._translations.get(text, text)


def _words(request: Request) -> _Words:
    """In Japanese for who asks for that before English (RFC 9110, section 12.5.4; in the order given), else in English."""
    for part in request.headers.get("accept-language", "").lower().split(","):
        primary = part.split(";")[0].strip()[:2]
        if primary in ("ja", "en"):
            return _Words(JAPANESE if primary == "ja" else {})
    return _Words({})


def _services(request: Request) -> Services:
    return cast("Services", request.app.state.services)


async def _fields(request: Request) -> dict[str, str]:
    """The fields of a form. Raises ProblemError with 415 for a body that is none, with 400 for one that is not UTF-8."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM:
        raise ProblemError(415, "Send a form.")
    try:
        pairs = parse_qsl(
            (await request.body()).decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=10
        )
    except ValueError:
        raise ProblemError(400, "This form cannot be read.") from None
    return dict(pairs)


def _to(path: str) -> Response:
    return RedirectResponse(path, 303)


def _problem(text: str) -> str:
    return f'<p class="problem" role="alert">{escape(text)}</p>'


def _button(t: _Words, action: str, label: str, kind: str = "") -> str:
    return f'<form method="post" action="{action}"><button class="{kind}">{escape(t(label))}</button></form>'


def _login(t: _Words, username: str = "") -> str:
    return (
        f"<h1>{escape(t('Log in'))}</h1>"
        '<form method="post" action="/page/login">'
        f'<div class="field"><label for="username">{escape(t("Username"))}</label>'
        f'<input id="username" name="username" autocomplete="username" value="{escape(username)}" required></div>'
        f'<div class="field"><label for="password">{escape(t("Password"))}</label>'
        '<input id="password" name="password" type="password" autocomplete="current-password" required></div>'
        '<label class="check"><input type="checkbox" name="remember"> '
        f"<span>{escape(t('Remember me on this device'))}</span></label>"
        f'<button class="primary">{escape(t("Log in"))}</button></form>'
        f'<p class="hint">{escape(t("With JavaScript this page does more: sign up, passkeys, live connections."))}</p>'
    )


def _session(t: _Words, session: SessionInfo, current: str) -> str:
    about: Mapping[str, Any] = session.about
    words = device(printable(about.get("user_agent", "")))
    name = printable(about["name"]) if about.get("name") else words
    here = f' <span class="here">{escape(t("This one"))}</span>' if session.id == current else ""
    kind = t("Token" if session_kind(about) == "token" else "Cookie")
    facts = " · ".join(
        (
            about.get("address") or t("Address unknown"),
            kind,
            f"{t('Last seen')} {_time(session.last_seen_at)}",
            f"{t('Logged in')} {_time(session.created_at)}",
        )
    )
    end = (
        ""
        if session.id == current
        else f'<form method="post" action="/page/end"><input type="hidden" name="session" value="{escape(session.id)}">'
        f'<button class="danger" aria-label="{escape(t("End"))} {escape(name)}">{escape(t("End"))}</button></form>'
    )
    return f'<li><div class="what"><h2>{escape(name)}{here}</h2><p class="hint">{escape(facts)}</p></div>{end}</li>'


def _time(seconds: float) -> str:
    # Without JavaScript nobody knows the reader's zone: said in one that is named.
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


_DOCUMENT = """<!doctype html>
<html lang="{language}">
<head>
<meta charset="utf-8">
<title>{title} · Coatcheck</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="{assets}/favicon.svg">
<link rel="stylesheet" href="{assets}/style.css">
</head>
<body class="plain">
<header class="bar"><a class="brand" href="/page">Coatcheck</a></header>
<main><div class="card">{body}</div></main>
</body>
</html>
"""
