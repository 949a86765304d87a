"""Django's views for `contenders`: async, as its documentation has them under ASGI."""

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.urls import path

from bench.peers.contenders import PATHS, VALUES, _numbers


def _view(which: str) -> Any:
    async def answer(request: HttpRequest) -> HttpResponse:
        session = getattr(request, "session", None)
        if session is not None:
            if which == "/read":
                if await session.aget("user") is None or await session.aget("theme") is None:
                    return HttpResponse("nobody", status=401)
            elif which == "/write":
                await session.aset("visits", next(_numbers))
            elif which == "/login":
                await session.aupdate(VALUES)
            elif which == "/logout":
                await session.aflush()
        return HttpResponse("ok", content_type="text/plain; charset=utf-8")

    return answer


urlpatterns = [path(each[1:], _view(each)) for each in PATHS]
