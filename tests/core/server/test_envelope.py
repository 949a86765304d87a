"""The last net around an application that fails, and the bound on bodies, with applications made for it."""

import logging
from typing import Any

import pytest

from coatcheck.server.envelope import MAX_BODY, Envelope, HeadAsGet

START = {"type": "http.response.start", "status": 200, "headers": []}


def scope(**more: Any) -> dict[str, Any]:
    return {"type": "http", "method": "GET", "path": "/x", "raw_path": b"/x", "headers": [], **more}


async def run(app: Any, around: Any = None, **more: Any) -> list[Any]:
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"x" * 1000, "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    envelope = around or Envelope(app, worker=1, show_worker=True)
    try:
        await envelope(scope(**more), receive, send)
    except Exception as error:
        sent.append(error)
    return sent


async def test_a_failure_before_the_answer_is_a_problem_and_one_traceback(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("no")

    start, body = await run(app)
    assert start["status"] == 500
    assert (b"content-type", b"application/problem+json") in start["headers"]
    assert (b"x-content-type-options", b"nosniff") in start["headers"]
    assert b"no" not in body["body"].replace(b"not", b"")
    assert [record.exc_info is not None for record in caplog.records if record.levelno == logging.ERROR] == [True]


async def test_a_failure_in_the_middle_of_an_answer_goes_on_to_the_server_which_cuts_it_off() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(dict(START))
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise RuntimeError("no")

    *_, last = await run(app)
    assert isinstance(last, RuntimeError)


async def test_a_failure_after_a_whole_answer_is_only_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(dict(START))
        await send({"type": "http.response.body", "body": b"whole"})
        raise RuntimeError("no")

    assert [message["type"] for message in await run(app)] == ["http.response.start", "http.response.body"]
    assert "failed" in caplog.text


async def test_an_answers_own_headers_stand_and_ours_are_added_where_they_are_missing() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        own = [(b"Referrer-Policy", b"no-referrer"), (b"Cache-Control", b"max-age=9")]
        await send({**START, "headers": own})
        await send({"type": "http.response.body", "body": b""})

    for path, caching in (("/page", b"max-age=9"), ("/v1/x", b"no-store")):
        headers = [(name.lower(), value) for name, value in (await run(app, path=path))[0]["headers"]]
        assert [value for name, value in headers if name == b"referrer-policy"] == [b"no-referrer"]
        assert [value for name, value in headers if name == b"cache-control"] == [caching]
        assert (b"x-coatcheck-worker", b"1") in headers


async def test_a_declared_length_that_is_too_long_is_refused_before_the_application_runs() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("it ran")

    for length, status in ((str(MAX_BODY + 1), 413), ("9" * 30, 413)):
        start, _ = await run(app, headers=[(b"content-length", length.encode())])
        assert start["status"] == status


async def test_a_body_without_a_length_ends_for_an_application_of_any_kind() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["more_body"]:
            pass

    start, _ = await run(app)
    assert start["status"] == 413


async def test_head_keeps_every_header_of_get() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["method"] == "GET"
        await send({**START, "headers": [(b"content-length", b"5")]})
        await send({"type": "http.response.body", "body": b"wh", "more_body": True})
        await send({"type": "http.response.body", "body": b"ole"})

    start, *bodies = await run(app, HeadAsGet(app), method="HEAD")
    assert start["headers"] == [(b"content-length", b"5")]
    assert [(message["body"], message.get("more_body", False)) for message in bodies] == [(b"", False)]
