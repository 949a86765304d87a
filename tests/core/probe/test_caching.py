"""Whether a shared cache may store a response, by what RFC 9111 says."""

import pytest

from coatcheck.probe.caching import judge_caching
from coatcheck.probe.exchange import Response


def judge(*headers: tuple[str, str], status: int = 200, authorized: bool = False) -> str:
    return judge_caching(Response(status, "HTTP/1.1", headers), authorized=authorized).shared


@pytest.mark.parametrize(
    "value", ["no-store", "private", 'private="set-cookie"', "public, No-Store", "max-age=60, private"]
)
def test_what_is_private_is_not_shared(value: str) -> None:
    assert judge(("cache-control", value), ("last-modified", "yesterday")) == "no"


@pytest.mark.parametrize("value", ["max-age=60", "public", "s-maxage=5, max-age=0", 'public, ext="a,b", max-age=1'])
def test_what_is_declared_fresh_is_shared(value: str) -> None:
    assert judge(("cache-control", value)) == "yes"


def test_expires_alone_declares_it_fresh() -> None:
    assert judge(("expires", "Thu, 01 Jan 2099 00:00:00 GMT")) == "yes"


def test_without_a_word_caches_guess_only_from_a_date_and_a_status_that_allows_it() -> None:
    assert judge(("last-modified", "yesterday")) == "guessing"
    assert judge(("last-modified", "yesterday"), status=302) == "no"
    assert judge() == "no"
    assert judge(("cache-control", "no-cache"), ("last-modified", "yesterday")) == "no"
    assert judge(("cache-control", "max-age=0"), ("last-modified", "yesterday")) == "no"


def test_an_authorised_response_needs_leave() -> None:
    assert judge(("cache-control", "max-age=60"), authorized=True) == "no"
    assert judge(("cache-control", "max-age=60, public"), authorized=True) == "yes"
    assert judge(("vary", "*"), ("cache-control", "max-age=60")) == "no"


def test_garbage_in_the_header_is_no_leave() -> None:
    assert judge(("cache-control", ";;;=,,")) == "no"
