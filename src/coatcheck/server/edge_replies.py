"""What the edge answers by itself, in the form of the application: problem documents (RFC 9457) with security headers. Part of `edge`."""

from typing import Any, TypeAlias

from coatcheck.server.refusals import MEDIA_TYPE, REFUSALS, RETRY_AFTER
from coatcheck.server.security_headers import SECURITY_HEADERS

__all__ = ["local_replies"]

Json: TypeAlias = dict[str, Any]

_REDIRECT = 308
# What went wrong in Envoy's words would say too much about the inside.
_ANY: tuple[str, str] = ("Request refused", "The server refused this request.")


def local_replies() -> Json:
    """The connection manager's `local_reply_config`; the first mapper that fits is used."""
    mappers = [_mapper("EQ", _REDIRECT, {"text_format_source": {"inline_string": "%LOCAL_REPLY_BODY%"}})]
    mappers += [_mapper("EQ", status, _problem(*words)) for status, words in REFUSALS.items()]
    mappers.append(_mapper("GE", 400, _problem(*_ANY)))
    return {"mappers": mappers}


def _mapper(comparison: str, status: int, body: Json) -> Json:
    # Envoy can change the number while it runs, under this key; nobody does.
    value = {"default_value": status, "runtime_key": "coatcheck.reply"}
    headers = [*SECURITY_HEADERS, ("cache-control", "no-store")]
    if status == 503:
        headers.append(("retry-after", RETRY_AFTER))
    return {
        "filter": {"status_code_filter": {"comparison": {"op": comparison, "value": value}}},
        "headers_to_add": [
            {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
            for name, value in headers
        ],
        "body_format_override": body,
    }


def _problem(title: str, detail: str) -> Json:
    return {
        "json_format": {"title": title, "status": "%RESPONSE_CODE%", "detail": detail},
        "content_type": MEDIA_TYPE,
    }
