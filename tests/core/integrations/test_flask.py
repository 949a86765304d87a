"""The promises as Flask shows them: through its test client, with the cache on, each interleaving forced."""

import asyncio
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from contextvars import copy_context
from pathlib import Path
from typing import Any

import flask
import pytest
from flask import Flask, Response, stream_with_context
from flask.sessions import SessionMixin
from flask.testing import FlaskClient
from markupsafe import Markup
from werkzeug.test import EnvironBuilder, run_wsgi_app

from coatcheck import (
    CookiePolicy,
    Key,
    Session,
    SessionEnded,
    Sessions,
    StoreUnavailable,
    UsageError,
    current_session,
)
from coatcheck.integrations._sessions_thread import thread_of
from coatcheck.integrations.flask import Coatcheck, LoginRequired, current_user_id, login_required, session
from coatcheck.stores.memory import MemoryStore
from coatcheck.testing import GatedStore, ManualClock
from coatcheck.tokens import AccessTokens, KeyRing
from tests.core.integrations.flask_site import COOKIE, Site, cookie_of, set_cookies, site, sites


@pytest.fixture(params=["memory", "sqlite"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def here() -> Iterator[Site]:
    with site() as made:
        yield made


# ---- P1: ended is ended


def test_a_replayed_cookie_is_refused_after_logout_on_every_node(kind: str, tmp_path: Path) -> None:
    with sites(kind, tmp_path) as (one, two):
        client = one.logged_in()
        token = cookie_of(client)
        assert two.who(two.client(cookie=token)) == "user"
        answer = client.post("/logout")
        assert cookie_of(client) is None
        assert "Max-Age=0" in set_cookies(answer)[0]
        for node in (one, two):
            assert node.who(node.client(cookie=token)) is None


def test_ending_a_users_sessions_from_outside_of_a_request_ends_them(kind: str, tmp_path: Path) -> None:
    with site(kind, tmp_path) as here:
        client, other = here.logged_in(), here.logged_in()
        assert len(here.coatcheck.run(here.coatcheck.sessions.end_user("user"))) == 2
        assert here.who(client) is None
        assert here.who(other) is None


def test_a_store_that_cannot_be_asked_is_503_with_retry_after(kind: str, tmp_path: Path) -> None:
    with site(kind, tmp_path) as here:
        client = here.logged_in()
        here.store.down = True
        assert here.who(client) == "user", "inside the lease the copy is believed"
        here.clock.advance(2.0)
        for path in ("/whoami", "/static-page"):
            answer = client.get(path)
            assert answer.status_code == 503
            assert answer.headers["Retry-After"] == "1"
            assert answer.content_type == "application/problem+json"
            assert json.loads(answer.data)["status"] == 503
            assert not set_cookies(answer)
        assert here.client().get("/whoami").status_code == 200, "visitors without a cookie need no store"
        here.store.down = False
        assert here.who(client) == "user"


def test_a_store_that_goes_away_before_the_commit_is_503_and_the_answer_is_withheld(here: Site) -> None:
    closed: list[str] = []

    class Pieces:
        def __iter__(self) -> Iterator[str]:
            return iter(["secret"])

        def close(self) -> None:
            closed.append("closed")

    def written(streamed: bool) -> Response:
        session["n"] = 1
        here.store.down = True
        return Response(Pieces() if streamed else "secret", headers={"X-Mine": "secret", "Set-Cookie": "mine=1"})

    here.add("/written/<int:streamed>", written)
    for streamed in (0, 1):
        client = here.logged_in()
        answer = client.get(f"/written/{streamed}")
        here.store.down = False
        assert answer.status_code == 503
        assert answer.headers["Retry-After"] == "1"
        assert b"secret" not in answer.data
        assert "X-Mine" not in answer.headers
        assert not set_cookies(answer)
        with client.session_transaction() as stored:
            assert "n" not in stored
    assert closed == ["closed"]


def test_a_verb_that_cannot_be_written_is_503_unless_the_application_answers_itself(here: Site) -> None:
    here.store.down = True
    assert here.client().post("/login").status_code == 503
    mine = Flask("mine")
    mine.register_error_handler(StoreUnavailable, lambda error: ("mine", 500))
    Coatcheck(mine, here.sessions)
    mine.add_url_rule("/", "root", lambda: session.sync.log_in("user"))
    answer = mine.test_client().get("/")
    assert (answer.status_code, answer.text) == (500, "mine")


def test_a_store_that_cannot_be_opened_is_503_until_it_can() -> None:
    class Shut(GatedStore):
        async def start(self) -> None:
            if self.down:
                raise StoreUnavailable("shut")
            await super().start()

    clock = ManualClock()
    here = Site(Shut(MemoryStore(clock=clock)), clock)
    here.store.down = True
    assert here.client(cookie="A" * 22 + "." + "B" * 43).get("/whoami").status_code == 503
    answer = here.client().get("/write")
    assert (answer.status_code, set_cookies(answer)) == (503, [])
    assert here.client().post("/login").status_code == 503
    assert here.client().get("/whoami").status_code == 200
    here.store.down = False
    assert here.who(here.logged_in()) == "user"
    here.coatcheck.close()


# ---- P3: nothing lost, nothing raised from the dead


def test_a_slow_request_after_logout_gets_its_answer_and_no_cookie(kind: str, tmp_path: Path) -> None:
    with site(kind, tmp_path) as here:
        client = here.logged_in()
        tab = here.client(cookie=cookie_of(client))

        def slow() -> str:
            session["draft"] = "late"
            client.post("/logout")
            return "answered"

        here.add("/slow", slow)
        writes = here.store.calls["create"]
        answer = tab.get("/slow")
        assert (answer.status_code, json.loads(answer.data)) == (200, "answered")
        assert not set_cookies(answer)
        assert here.store.calls["create"] == writes, "nothing is made in its place"
        assert here.who(tab) is None


def test_a_slow_request_under_the_old_secret_changes_nothing(here: Site) -> None:
    client = here.logged_in()
    tab = here.client(cookie=cookie_of(client))
    here.add("/regenerate", lambda: session.sync.regenerate())

    def slow() -> None:
        session["draft"] = "late"
        client.post("/regenerate")

    here.add("/slow", slow)
    assert not set_cookies(tab.get("/slow"))
    with client.session_transaction() as stored:
        assert "draft" not in stored


def test_a_verb_on_an_ended_session_is_401_and_not_500(here: Site) -> None:
    client = here.logged_in()

    def ended() -> None:
        here.coatcheck.run(here.sessions.end(session.id or ""))
        session.sync.regenerate()

    here.add("/ended", ended)
    answer = client.get("/ended")
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert not set_cookies(answer)


def test_a_login_that_was_ended_before_the_response_left_sets_no_cookie(here: Site) -> None:
    def undone(stored: int) -> None:
        session.sync.log_in("user")
        if stored:
            session["n"] = 1
        here.coatcheck.run(here.sessions.end_user("user"))

    here.add("/undone/<int:stored>", undone)
    for stored in (0, 1):
        answer = here.client().post(f"/undone/{stored}")
        assert answer.status_code == 200
        assert not set_cookies(answer)


def test_a_second_tab_with_the_replaced_cookie_is_anonymous_and_leaves_the_cookie_alone(here: Site) -> None:
    client = here.logged_in()
    tab = here.client(cookie=cookie_of(client))
    client.post("/login")
    assert here.who(tab) is None
    answer = tab.get("/write")
    assert answer.status_code == 200
    assert not set_cookies(answer)
    assert here.who(client) == "user"


def test_requests_at_once_that_change_many_keys_all_count(kind: str, tmp_path: Path) -> None:
    with site(kind, tmp_path) as here:
        client = here.logged_in()
        token = cookie_of(client)
        together = threading.Barrier(8)

        def change(key: str) -> None:
            assert key not in session
            together.wait(10)
            session[key] = key

        here.add("/change/<key>", change)
        keys = [f"key{number}" for number in range(8)]
        answers: list[int] = []

        def request(key: str) -> None:
            answers.append(here.client(cookie=token).get(f"/change/{key}").status_code)

        threads = [threading.Thread(target=request, args=(key,)) for key in keys]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert answers == [200] * 8
        with client.session_transaction() as stored:
            assert sorted(stored) == keys


def test_an_exception_discards_pending_changes_and_leaves_verbs(here: Site) -> None:
    def failing() -> None:
        session.sync.log_in("user")
        session["n"] = 1
        raise ZeroDivisionError

    here.add("/failing", failing)
    here.app.logger.disabled = True
    client = here.client()
    answer = client.post("/failing")
    assert answer.status_code == 500
    assert set_cookies(answer), "the login stands, and so does its cookie"
    assert here.who(client) == "user"
    with client.session_transaction() as stored:
        assert "n" not in stored


def test_what_is_changed_after_an_exception_by_whoever_answers_it_is_kept(here: Site) -> None:
    @here.app.errorhandler(500)
    def apologise(error: Exception) -> tuple[str, int]:
        session["apology"] = True
        return "sorry", 500

    @here.app.errorhandler(KeyError)
    def forgive(error: KeyError) -> str:
        return "forgiven"

    def failing(kind: str) -> None:
        session[kind] = True
        raise {"key": KeyError, "zero": ZeroDivisionError}[kind]

    here.add("/failing/<kind>", failing)
    here.add("/missing", lambda: (session.update(missing=True), flask.abort(404)))
    here.app.logger.disabled = True
    client = here.client()
    assert [client.get(path).status_code for path in ("/failing/zero", "/failing/key", "/missing")] == [500, 200, 404]
    with client.session_transaction() as stored:
        assert dict(stored) == {"apology": True, "key": True, "missing": True}


def test_an_exception_that_is_let_out_of_the_application_leaves_nothing_behind(here: Site) -> None:
    here.app.testing = True
    here.add("/failing", lambda: (session.update(n=1), 1 / 0))
    client = here.logged_in()
    with pytest.raises(ZeroDivisionError):
        client.get("/failing")
    with pytest.raises(UsageError):
        current_session()
    with client.session_transaction() as stored:
        assert "n" not in stored


# ---- P4: no adopted ids


def test_the_old_cookie_is_dead_after_login_and_the_id_stays(here: Site) -> None:
    client = here.client()
    client.get("/write")
    before = cookie_of(client)
    client.post("/login")
    after = cookie_of(client)
    assert before is not None
    assert after is not None
    assert before != after
    assert before.split(".")[0] == after.split(".")[0]
    assert here.who(here.client(cookie=before)) is None
    assert here.who(client) == "user"
    with client.session_transaction() as stored:
        assert stored["n"] == 1, "what the visitor stored is theirs"


@pytest.mark.parametrize("planted", ["", "x", "A" * 22 + "." + "B" * 43, "A" * 22, "é", "..", "\0" * 66])
def test_a_cookie_that_was_not_issued_is_nobodys(here: Site, planted: str) -> None:
    environ = EnvironBuilder("/write").get_environ()
    environ["HTTP_COOKIE"] = f"{COOKIE}={planted}"
    answer = here.app.test_client().open(environ)
    assert answer.status_code == 200
    made = set_cookies(answer)[0].partition(";")[0].partition("=")[2]
    assert made != planted
    assert "A" * 22 not in made


def test_two_cookies_of_our_name_are_none(here: Site) -> None:
    token = cookie_of(here.logged_in())
    for header in (f"{COOKIE}={token}; {COOKIE}={token}", f"{COOKIE}={token},{COOKIE}={token}"):
        answer = here.app.test_client(use_cookies=False).get("/whoami", headers={"Cookie": header})
        assert json.loads(answer.data) is None


# ---- P6: no needless work


def test_a_visitor_who_stores_nothing_gets_nothing(here: Site) -> None:
    client = here.client()
    for path in ("/static-page", "/whoami", "/missing"):
        answer = client.get(path)
        assert not set_cookies(answer)
        assert ("Vary" in answer.headers) == (path == "/whoami")
    assert not here.sessions.started
    assert not here.store.calls


def test_a_warm_request_asks_neither_the_store_nor_the_sessions_thread(kind: str, tmp_path: Path) -> None:
    with site(kind, tmp_path) as here:
        client = here.logged_in()
        assert here.who(client) == "user"
        here.store.calls.clear()
        held, let_go = threading.Event(), threading.Event()

        async def hold() -> None:
            held.set()
            let_go.wait(10)

        holding = threading.Thread(target=lambda: here.coatcheck.run(hold()))
        holding.start()
        try:
            assert held.wait(10)
            assert here.who(client) == "user"
            assert client.get("/private").status_code == 200
            assert client.get("/static-page").status_code == 200
        finally:
            let_go.set()
            holding.join(10)
        assert not here.store.calls


def test_marking_every_session_permanent_costs_a_warm_request_nothing(here: Site) -> None:
    here.app.before_request(lambda: setattr(flask.session, "permanent", True))
    assert not set_cookies(here.client().get("/whoami", buffered=True))
    assert not here.sessions.started, "nothing was asked of the sessions' thread"
    client = here.client()
    assert "Max-Age=100000" in set_cookies(client.get("/write"))[0]
    here.store.calls.clear()
    assert not set_cookies(client.get("/whoami"))
    assert not here.store.calls


def test_a_response_that_used_no_session_is_not_touched(here: Site) -> None:
    client = here.logged_in()
    answer = client.get("/static-page")
    assert not {"Vary", "Cache-Control", "Set-Cookie"} & set(answer.headers.keys())


def test_a_response_that_used_a_session_varies_and_is_private_and_one_with_a_cookie_is_stored_by_no_cache(
    here: Site,
) -> None:
    client = here.logged_in()
    answer = client.get("/whoami")
    assert (answer.headers["Vary"], answer.headers["Cache-Control"]) == ("Cookie", "private")

    def mine(change: int) -> Response:
        if change:
            session.sync.regenerate()
        else:
            assert session.user_id == "user"
        answer = Response("mine", headers={"Vary": "Accept, Cookie", "Cache-Control": "public, max-age=60"})
        answer.set_cookie("mine", "1")
        return answer

    here.add("/mine/<int:change>", mine)
    answer = client.get("/mine/0")
    assert answer.headers.getlist("Vary") == ["Accept, Cookie"]
    assert answer.headers.getlist("Cache-Control") == ["public, max-age=60"], "who says so knows why"
    answer = client.get("/mine/1")
    assert answer.headers.getlist("Cache-Control") == ["no-store"]
    assert [line.split("=")[0] for line in set_cookies(answer)] == ["mine", COOKIE]


# ---- flask.session


def test_flask_session_is_the_session_with_get_set_and_del(here: Site) -> None:
    def change() -> dict[str, Any]:
        assert isinstance(flask.session, SessionMixin)
        assert isinstance(flask.session, Session)
        assert flask.session == session
        assert current_session() is flask.session._get_current_object()  # type: ignore[attr-defined]
        flask.session["list"] = [1]
        flask.session["gone"] = 1
        del flask.session["gone"]
        flask.session.setdefault("number", 3)
        return dict(flask.session)

    def in_place() -> Any:
        flask.session["list"].append(2)
        return flask.session["list"], flask.session.pop("number"), "gone" in flask.session

    here.add("/change", change)
    here.add("/in-place", in_place)
    here.add("/all", lambda: dict(flask.session))
    client = here.client()
    assert json.loads(client.get("/change").data) == {"list": [1], "number": 3}
    assert json.loads(client.get("/in-place").data) == [[1, 2], 3, False]
    assert json.loads(client.get("/all").data) == {"list": [1, 2]}


def test_its_attributes_are_what_flask_means_by_them(here: Site) -> None:
    def look() -> list[bool]:
        seen = [flask.session.new, flask.session.permanent, flask.session.modified]
        flask.session["x"] = 1
        flask.session.permanent = True
        return [*seen, flask.session.modified, flask.session.permanent, flask.session.accessed]

    here.add("/look", look)
    client = here.client()
    assert json.loads(client.get("/look").data) == [True, False, False, True, True, True]
    assert json.loads(client.get("/look").data) == [False, True, False, False, True, True]

    def forget() -> None:
        flask.session.permanent = False
        flask.session.modified = True

    here.add("/forget", forget)
    assert "Max-Age" not in set_cookies(client.get("/forget"))[0]
    here.store.calls.clear()
    assert not set_cookies(client.get("/forget"))
    assert not here.store.calls, "modified = True writes nothing that did not change"


def test_flashed_messages_come_back_as_they_were_once(here: Site) -> None:
    def flash() -> None:
        flask.flash("plain")
        flask.flash(Markup("<b>bold</b>"), "error")
        flask.flash("<i>not Markup</i>", "error")

    seen: list[Any] = []
    here.add("/flash", flash)
    here.add("/seen", lambda: seen.append(flask.get_flashed_messages(with_categories=True)))
    here.add("/errors", lambda: seen.append(flask.get_flashed_messages(category_filter=["error"])))
    client = here.client()
    client.get("/flash")
    client.get("/flash")
    client.get("/seen")
    client.get("/seen")
    once = [("message", "plain"), ("error", "<b>bold</b>"), ("error", "<i>not Markup</i>")]
    assert seen == [once * 2, []]
    assert [type(message) for _, message in seen[0]] == [str, Markup, str] * 2
    client.get("/flash")
    client.get("/errors")
    assert seen[2] == ["<b>bold</b>", "<i>not Markup</i>"]


def test_a_template_shows_flashed_messages_and_one_that_shows_none_does_not_vary(here: Site) -> None:
    text = "{% for category, message in get_flashed_messages(with_categories=true) %}{{ category }}: {{ message }}{% endfor %}"
    here.add("/flash", lambda: flask.flash("a < b"))
    here.add("/shown", lambda: Response(flask.render_template_string(text)))
    here.add("/other", lambda: Response(flask.render_template_string("{{ request.path }}")))
    client = here.client()
    client.get("/flash")
    assert client.get("/shown").text == "message: a &lt; b"
    assert client.get("/shown").text == ""
    assert "Vary" not in client.get("/other").headers


def test_something_else_under_the_name_of_flashed_messages_is_left_as_it_is(here: Site) -> None:
    here.add("/set", lambda: session.update(_flashes="text"))
    here.add("/get", lambda: session["_flashes"])
    client = here.client()
    client.get("/set")
    assert json.loads(client.get("/get").data) == "text"


def test_session_transaction_reads_writes_and_logs_in(here: Site) -> None:
    client = here.client()
    with client.session_transaction() as stored:
        stored["n"] = 41
    assert json.loads(client.get("/write").data) == 42
    with client.session_transaction() as stored:
        assert stored["n"] == 42
        assert isinstance(stored, Session)
        stored.sync.log_in("user")
    assert here.who(client) == "user"
    with pytest.raises(UsageError):
        current_session()


def test_typed_keys_work(here: Site) -> None:
    cart = Key("cart", list[str], default=list)
    here.add("/add", lambda: cart.get(session).append("hat"))
    here.add("/cart", lambda: cart.get(session))
    client = here.client()
    client.get("/add")
    client.get("/add")
    assert json.loads(client.get("/cart").data) == ["hat", "hat"]


def test_a_value_that_cannot_be_stored_is_an_error_that_names_it_and_stores_nothing(here: Site) -> None:
    here.app.testing = True
    here.add("/bad", lambda: session.update(fine=1, bad={1, 2}))
    here.add("/worse", lambda: session.update(fine=[(1,)]))

    def later() -> None:
        session["fine"] = []
        session["fine"].append((1,))

    here.add("/later", later)
    client = here.logged_in()
    for path in ("/bad", "/worse", "/later"):
        with pytest.raises(TypeError, match="session\\['"):
            client.get(path)
    here.app.testing = False
    here.app.logger.disabled = True
    assert client.get("/later").status_code == 500
    with client.session_transaction() as stored:
        assert not stored


def test_another_cookie_policy_is_followed() -> None:
    with site(cookie=CookiePolicy(name="ticket", secure=False, same_site="strict")) as here:
        client = here.client()
        line = set_cookies(client.post("/login"))[0]
        assert line.startswith("ticket=")
        assert "Secure" not in line
        assert "SameSite=Strict" in line
        assert here.who(client) == "user"


def test_a_cookie_that_clients_will_drop_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    with site() as here:
        here.client().post("/login")
        here.client().post("/login", base_url="https://app.example")
        assert not caplog.records
        for _ in range(2):
            here.client().post("/login", base_url="http://app.example")
        assert [record.name for record in caplog.records] == ["coatcheck.flask"]
        assert "ProxyFix" in caplog.text


# ---- what another site causes, and bearers


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin,cross-site", "Origin": "https://evil.example"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": ""}, 403),
        ({"Origin": "https://app.example"}, 200),
        ({"Origin": "https://app.example", "Sec-Fetch-Site": "cross-site"}, 200),
        ({"Origin": "http://localhost"}, 403),
    ],
)
def test_what_another_site_causes_is_refused_before_anything_of_the_application_runs(
    headers: dict[str, str], status: int
) -> None:
    with site(public_origins=["https://app.example"]) as here:
        ran: list[str] = []
        here.app.before_request(lambda: ran.append("ran"))
        client = here.client()
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            answer = client.open("/write", method=method, headers=headers)
            expected = 405 if status == 200 and method != "POST" else status
            assert answer.status_code == expected
            assert not (status == 403 and set_cookies(answer))
        assert client.get("/static-page", headers=headers).status_code == 200
        assert len(ran) == (1 if status == 403 else 5)


def test_what_other_functions_store_while_a_refusal_leaves_is_dropped(here: Site) -> None:
    @here.app.after_request
    def store(answer: Response) -> Response:
        flask.session["seen"] = True
        return answer

    client = here.logged_in()
    token = cookie_of(client)
    for each in (client, here.client()):
        answer = each.post("/write", headers={"Origin": "https://evil.example"})
        assert answer.status_code == 403
        assert not set_cookies(answer)
    assert cookie_of(client) == token
    with client.session_transaction() as stored:
        assert "seen" in stored, "by the login itself"


def test_a_websocket_handshake_is_judged_by_its_origin(here: Site) -> None:
    handshake = {"Connection": "Upgrade", "Upgrade": "WebSocket", "Sec-WebSocket-Version": "13"}
    here.add("/socket", lambda: "opened", websocket=True, methods=["GET"])
    client = here.logged_in()
    for origin, status in (("https://evil.example", 403), ("http://localhost", 403), (None, 200)):
        headers = handshake if origin is None else {**handshake, "Origin": origin}
        assert client.get("/socket", headers=headers).status_code == status


def bearing() -> tuple[AbstractContextManager[Site], AccessTokens]:
    clock = ManualClock()
    tokens = AccessTokens(KeyRing(clock=clock), issuer="https://me", audience="https://me")
    return site(clock=clock, tokens=tokens), tokens


def test_an_access_token_is_its_session_without_a_cookie_and_over_when_that_is() -> None:
    made, tokens = bearing()
    with made as here:
        client = here.logged_in()
        with client.session_transaction() as stored:
            record = stored.record
        bearer = {"Authorization": f"Bearer {tokens.issue(record)[0]}"}
        plain = here.app.test_client(use_cookies=False)
        answer = plain.post("/write", headers={**bearer, "Origin": "https://evil.example"})
        assert (answer.status_code, json.loads(answer.data)) == (200, 1), "no browser sends one by itself"
        assert not set_cookies(answer)
        assert answer.headers["Vary"] == "Cookie, Authorization"
        answer = plain.post("/login", headers=bearer)
        assert not set_cookies(answer), "a new secret, and still no cookie"
        answer = plain.get("/whoami", headers=bearer)
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "é"])
def test_a_bad_bearer_is_401_and_never_falls_back_to_the_cookie(token: str) -> None:
    made, _ = bearing()
    with made as here:
        client = here.logged_in()
        answer = client.get("/whoami", headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'
        assert json.loads(client.get("/whoami", headers={"Authorization": "Basic eA=="}).data) == "user"


# ---- streams


def streaming(here: Site, path: str, pieces: Callable[[], Iterator[str]], *, context: bool = True) -> None:
    here.add(path, lambda: Response(stream_with_context(pieces()) if context else pieces()))


def stored_in(client: FlaskClient) -> dict[str, Any]:
    with client.session_transaction() as stored:
        return dict(stored)


def test_what_a_stream_changes_is_stored_at_its_end(here: Site) -> None:
    seen: list[Any] = []

    def pieces() -> Iterator[str]:
        yield "one"
        session["late"] = True
        seen.append(stored_in(client))
        yield "two"

    streaming(here, "/stream", pieces)
    client = here.logged_in()
    answer = client.get("/stream", buffered=True)
    assert answer.text == "onetwo"
    assert not set_cookies(answer)
    assert seen == [{}]
    assert stored_in(client) == {"late": True}


def test_the_current_session_of_a_stream_is_its_requests_with_a_context_or_without(here: Site) -> None:
    def pieces() -> Iterator[str]:
        yield str(current_session().user_id)
        current_session()["late"] = True
        yield "!"

    streaming(here, "/with", pieces)
    streaming(here, "/without", pieces, context=False)
    for path in ("/with", "/without"):
        client = here.logged_in()
        assert client.get(path, buffered=True).text == "user!"
        assert stored_in(client) == {"late": True}
        with pytest.raises(UsageError):
            current_session()


def test_a_stream_that_fails_discards_what_it_changed(here: Site) -> None:
    def pieces() -> Iterator[str]:
        yield "one"
        session["late"] = True
        raise ZeroDivisionError

    streaming(here, "/stream", pieces)
    client = here.logged_in()
    with pytest.raises(ZeroDivisionError):
        client.get("/stream", buffered=True)
    assert stored_in(client) == {}


def test_a_stream_whose_client_leaves_is_closed_and_what_it_changed_until_then_is_stored(here: Site) -> None:
    left: list[str] = []

    def pieces() -> Iterator[str]:
        try:
            session["late"] = True
            while True:
                yield "more"
        finally:
            left.append("closed")

    streaming(here, "/stream", pieces)
    client = here.logged_in()
    environ = EnvironBuilder("/stream", headers={"Cookie": f"{COOKIE}={cookie_of(client)}"}).get_environ()
    answer, status, _ = run_wsgi_app(here.app, environ)
    assert status == "200 OK"
    assert next(iter(answer)) == b"more"
    answer.close()  # type: ignore[attr-defined]
    answer.close()  # type: ignore[attr-defined]
    assert left == ["closed"]
    assert stored_in(client) == {"late": True}


def test_a_stream_that_nobody_reads_is_closed_and_stores_nothing(here: Site) -> None:
    def pieces() -> Iterator[str]:
        session["late"] = True
        yield "never"

    streaming(here, "/stream", pieces)
    client = here.logged_in()
    assert client.head("/stream").status_code == 200
    assert stored_in(client) == {}


def test_any_iterable_may_be_streamed(here: Site) -> None:
    here.add("/stream", lambda: Response(iter(["one", "two"])))
    assert here.logged_in().get("/stream", buffered=True).text == "onetwo"


def test_a_session_begun_in_a_stream_is_dropped_with_a_warning(here: Site, caplog: pytest.LogCaptureFixture) -> None:
    def pieces() -> Iterator[str]:
        session["late"] = True
        yield "one"

    streaming(here, "/stream", pieces)
    client = here.client()
    assert client.get("/stream", buffered=True).text == "one"
    assert here.store.calls["create"] == 0
    assert "after the response had started" in caplog.text


def test_what_a_stream_changes_while_the_store_is_away_is_lost_and_said_to_be(
    here: Site, caplog: pytest.LogCaptureFixture
) -> None:
    def pieces() -> Iterator[str]:
        session["late"] = True
        here.store.down = True
        yield "one"

    streaming(here, "/stream", pieces)
    client = here.logged_in()
    assert client.get("/stream", buffered=True).text == "one"
    assert [record.levelno for record in caplog.records if record.name == "coatcheck.flask"] == [logging.ERROR]


def test_what_is_changed_when_the_request_is_torn_down_is_stored_when_the_response_is_closed(here: Site) -> None:
    @here.app.teardown_request
    def late(error: BaseException | None) -> None:
        flask.session["torn down"] = True

    client = here.logged_in()
    client.get("/static-page", buffered=True)
    assert stored_in(client) == {"torn down": True}


# ---- async views


class AsyncFlask(Flask):
    """Runs async views as asgiref would: each on a loop of its own, in a thread of its own."""

    def async_to_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **values: Any) -> Any:
            with ThreadPoolExecutor(1) as thread:
                return thread.submit(copy_context().run, asyncio.run, func(*args, **values)).result(10)

        return run


class OneLoopStore(MemoryStore):
    """A store whose connections belong to one loop, as those over the network are."""

    any_loop = False


@pytest.mark.parametrize("store", [MemoryStore, OneLoopStore])
def test_async_views_await_the_verbs_and_change_the_same_session(store: type[MemoryStore]) -> None:
    app = AsyncFlask("site")
    coatcheck = Coatcheck(app, Sessions(store()))

    @app.get("/login")
    async def log_in() -> str:
        await session.log_in("user")
        session["n"] = 1
        assert await session.modify("n", lambda n: n + 1) == 2
        await session.save()
        await session.reload()
        await session.regenerate()
        session.sync.modify("n", lambda n: n + 1)
        assert await asyncio.gather(*(asyncio.to_thread(current_user_id) for _ in range(2))) == ["user"] * 2
        return str(coatcheck.run(coatcheck.sessions.epoch("user")) > 0)

    @app.get("/who")
    @login_required
    async def who() -> dict[str, Any]:
        return {"user": current_session().user_id, "n": session["n"]}

    @app.get("/logout")
    async def log_out() -> str:
        await session.log_out()
        session["left"] = "something"
        return ""

    @app.get("/end")
    async def end() -> str:
        await session.end("done")
        return ""

    client = app.test_client()
    try:
        assert client.get("/who").status_code == 401
        assert client.get("/login").text == "True"
        assert client.get("/who").json == {"user": "user", "n": 3}
        client.get("/logout")
        assert stored_in(client) == {"left": "something"}
        client.get("/end")
        assert client.get_cookie(COOKIE) is None
    finally:
        coatcheck.close()


# ---- the demand for a login


def test_login_required_demands_a_login(here: Site) -> None:
    answer = here.client().get("/private")
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert answer.headers["Vary"] == "Cookie"
    assert json.loads(here.logged_in().get("/private").data) == "for users"


def test_a_login_that_is_too_old_is_told_the_age_that_is_demanded(here: Site) -> None:
    here.add("/account", login_required(fresh_within=300.5)(lambda: "deleted"))
    client = here.logged_in()
    here.clock.advance(300.5)
    assert client.get("/account").status_code == 200
    here.clock.advance(0.5)
    answer = client.get("/account")
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == (
        'Bearer error="insufficient_user_authentication", '
        'error_description="A more recent login is required", max_age="300"'
    )
    client.post("/login")
    assert client.get("/account").status_code == 200


def test_a_page_for_people_may_send_them_to_its_login(here: Site) -> None:
    @here.app.errorhandler(LoginRequired)
    def to_login(error: LoginRequired) -> Any:
        return flask.redirect(f"/login?next={flask.request.path}")

    answer = here.client().get("/private")
    assert (answer.status_code, answer.headers["Location"]) == (302, "/login?next=/private")


def test_the_current_users_id_is_401_where_nobody_is_logged_in(here: Site) -> None:
    here.add("/id", current_user_id)
    assert here.client().get("/id").status_code == 401
    assert json.loads(here.logged_in().get("/id").data) == "user"


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_a_freshness_that_no_login_can_have_is_refused_when_it_is_asked_for(seconds: float) -> None:
    with pytest.raises(UsageError, match="fresh_within"):
        login_required(fresh_within=seconds)


def test_where_there_are_no_coatcheck_sessions_the_error_says_so() -> None:
    app = Flask("site")
    app.testing = True
    app.add_url_rule("/", "root", login_required(lambda: ""))
    with pytest.raises(UsageError, match="Coatcheck"):
        app.test_client().get("/")


# ---- the current session, and when it is over


def test_a_request_within_a_request_leaves_the_outer_ones_session_as_it_was(here: Site) -> None:
    client = here.logged_in()

    def outer() -> list[Any]:
        inner = json.loads(here.client().get("/whoami").data)
        return [inner, current_session().user_id, session.user_id]

    here.add("/outer", outer)
    assert json.loads(client.get("/outer").data) == [None, "user", "user"]
    with pytest.raises(UsageError):
        current_session()


def test_an_application_that_another_one_asks_with_its_own_environ_has_its_own_session(here: Site) -> None:
    inner = Flask("inner")
    others = Coatcheck(inner, "memory://", cookie=CookiePolicy(name="__Host-other"))

    @inner.get("/outer")
    def root() -> str:
        session["n"] = 1
        assert current_session() == session
        return f"{current_session().user_id}"

    def outer() -> list[Any]:
        asked = Response.from_app(inner.wsgi_app, flask.request.environ, buffered=True)
        return [asked.get_data(as_text=True), len(set_cookies(asked)), current_session().user_id, dict(session)]  # type: ignore[arg-type]

    here.add("/outer", outer)
    assert json.loads(here.logged_in().get("/outer").data) == ["None", 1, "user", {}]
    others.close()


def test_a_copy_of_the_context_that_ends_in_another_thread_leaves_this_ones_session(here: Site) -> None:
    def outer() -> list[Any]:
        seen: list[Any] = []

        @flask.copy_current_request_context
        def work() -> None:
            seen.append(flask.session.user_id)  # type: ignore[attr-defined]

        thread = threading.Thread(target=work)
        thread.start()
        thread.join(10)
        return [*seen, current_session().user_id]

    here.add("/outer", outer)
    assert json.loads(here.logged_in().get("/outer").data) == ["user", "user"]
    with pytest.raises(UsageError):
        current_session()


# ---- Coatcheck


def test_an_application_factory_reads_the_configuration() -> None:
    coatcheck = Coatcheck()

    def create_app(**config: Any) -> Flask:
        app = Flask("made")
        app.config.from_mapping(config)
        coatcheck.init_app(app)
        app.add_url_rule("/", "root", lambda: session.sync.log_in("user") or "", methods=["POST"])
        return app

    with pytest.raises(UsageError, match="COATCHECK_SESSIONS"):
        create_app()
    with pytest.raises(UsageError, match="init_app"):
        coatcheck.sessions
    one = create_app(COATCHECK_SESSIONS="memory://", COATCHECK_PUBLIC_ORIGINS=["https://app.example"])
    only = coatcheck.sessions
    mine = Sessions("memory://")
    two = create_app(COATCHECK_SESSIONS=mine)
    try:
        origin = {"Origin": "https://app.example"}
        assert one.test_client().post("/", headers=origin).status_code == 200
        assert two.test_client().post("/", headers=origin).status_code == 403
        with one.app_context():
            assert coatcheck.sessions is only
            assert len(coatcheck.run(coatcheck.sessions.list_user("user"))) == 1
        with two.app_context():
            assert coatcheck.sessions is mine
        with pytest.raises(UsageError, match="app_context"):
            coatcheck.run(mine.epoch("user"))
        with pytest.raises(UsageError, match="already"):
            coatcheck.init_app(one)
    finally:
        coatcheck.close()


def test_a_forked_child_makes_sessions_of_its_own_from_the_url() -> None:
    apps, kept = [Flask("by URL"), Flask("by Sessions")], Sessions("memory://")
    coatcheck, other = Coatcheck(apps[0], "memory://"), Coatcheck(apps[1], kept)
    before = coatcheck.sessions
    for sessions in (before, kept):
        thread_of(sessions)._process = 0  # as if this were the child
    made = coatcheck.sessions
    assert made is not before
    assert coatcheck.sessions is made
    assert other.sessions is kept


def test_what_is_given_wrongly_is_refused_with_the_line_to_write() -> None:
    with pytest.raises(UsageError, match=r"Coatcheck\(app, sessions\)"):
        Coatcheck("memory://")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"\['https://app.example'\]"):
        Coatcheck(Flask("site"), "memory://", public_origins="https://app.example")
    with pytest.raises(UsageError, match="no origin"):
        Coatcheck(Flask("site"), "memory://", public_origins=["app.example"])


def test_settings_of_flasks_cookie_that_have_no_effect_are_named(caplog: pytest.LogCaptureFixture) -> None:
    app = Flask("site")
    app.config.update(SESSION_COOKIE_SECURE=True, SESSION_COOKIE_SAMESITE="lax", SESSION_COOKIE_HTTPONLY=True)
    Coatcheck(app, "memory://")
    assert not caplog.records
    other = Flask("other")
    other.config.update(SESSION_COOKIE_NAME="mine", SESSION_COOKIE_SAMESITE="Strict")
    Coatcheck(other, "memory://")
    assert [record.args[0] for record in caplog.records if record.args] == [  # type: ignore[index]
        "SESSION_COOKIE_NAME",
        "SESSION_COOKIE_SAMESITE",
    ]


def test_two_applications_on_one_sessions_share_its_thread_and_its_logins() -> None:
    sessions = Sessions(OneLoopStore(), lazy_start=False)
    loops: set[asyncio.AbstractEventLoop] = set()
    sessions.on_login.append(lambda info: loops.add(asyncio.get_running_loop()))
    apps = [Flask("one"), Flask("two")]
    both = [Coatcheck(app, sessions) for app in apps]
    for app in apps:
        app.add_url_rule("/login", "login", lambda: session.sync.log_in("user") or "")
        app.add_url_rule("/who", "who", lambda: str(session.user_id))
    try:
        client = apps[0].test_client()
        client.get("/login")
        apps[1].test_client().get("/login")
        assert len(loops) == 1
        other = apps[1].test_client()
        other.set_cookie(COOKIE, cookie_of(client) or "")
        assert other.get("/who").text == "user"
    finally:
        for each in both:
            each.close()
    assert not sessions.started


def test_after_closing_the_next_request_opens_the_store_again(kind: str, tmp_path: Path) -> None:
    with site(kind, tmp_path) as here:
        client = here.logged_in()
        here.coatcheck.close()
        here.coatcheck.close()
        assert not here.sessions.started
        assert here.who(client) == "user"


def test_a_session_that_ended_refuses_its_verbs_by_name(here: Site) -> None:
    def over() -> str:
        session.sync.end("done")
        with pytest.raises(SessionEnded):
            session.sync.save()
        return "said"

    here.add("/over", over)
    assert json.loads(here.logged_in().get("/over").data) == "said"


def test_without_flask_the_error_says_what_to_install() -> None:
    program = """
import sys
sys.modules["flask"] = None
from coatcheck import MissingDependency
try:
    import coatcheck.integrations.flask
except MissingDependency as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout == "coatcheck.integrations.flask needs the package flask: pip install 'coatcheck[flask]'\n"
