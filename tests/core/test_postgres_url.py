"""URLs of PostgreSQL's: what is ours in them, what is libpq's, and that no error shows what is secret in them."""

from typing import Any

import pytest

from coatcheck.errors import UsageError
from coatcheck.stores._postgres_url import PostgresOptions, postgres_options

URL = "postgresql://app:s3cret@db.example:5432/shop"


def read(url: str, **given: object) -> PostgresOptions:
    return postgres_options(url, given)


def test_a_url_alone_has_every_default() -> None:
    options = read(URL)
    assert options.dsns == options.feed_dsns == (URL,)
    assert (options.where, options.feed_where) == ("postgresql://db.example:5432/shop",) * 2
    assert (options.schema, options.pool_size, options.timeout, options.connect_timeout) == ("coatcheck", 10, 2.0, 2.0)
    assert (options.probe_interval, options.pgbouncer, options.unlogged, options.migrate) == (0.5, None, False, False)
    assert not options.has_feed_url


@pytest.mark.parametrize(
    ("url", "dsns", "where"),
    [
        ("postgres://h/d", "postgresql://h/d", "postgresql://h/d"),
        ("postgresql:///d", "postgresql:///d", "postgresql:///d"),
        ("postgresql://", "postgresql://", "postgresql:///"),
        ("postgresql:///d?host=/run/pg", "postgresql:///d?host=%2Frun%2Fpg", "postgresql:///run/pg/d"),
        ("postgresql://u:p@a:1,b/d", "postgresql://u:p@a:1/d postgresql://u:p@b/d", "postgresql://a:1,b/d"),
        (
            "postgresql:///d?host=a,/b&port=1,2",
            "postgresql:///d?host=a&port=1 postgresql:///d?host=%2Fb&port=2",
            "postgresql://a,/b/d",
        ),
        (
            "postgresql:///d?host=a,b&port=1",
            "postgresql:///d?host=a&port=1 postgresql:///d?host=b&port=1",
            "postgresql://a,b/d",
        ),
        ("postgresql://[::1]:7/d", "postgresql://[::1]:7/d", "postgresql://[::1]:7/d"),
        ("postgresql://u%40x:p%2Fw@h/d%20b", "postgresql://u%40x:p%2Fw@h/d%20b", "postgresql://h/d b"),
        ("postgresql://h/d?sslmode=require&pool_size=3", "postgresql://h/d?sslmode=require", "postgresql://h/d"),
        ("postgresql://h/d?target_session_attrs=primary", None, "postgresql://h/d"),
        ("postgresql://h?dbname=d&password=pw", "postgresql://h?dbname=d&password=pw", "postgresql://h/d"),
    ],
)
def test_what_is_libpqs_is_handed_on_and_errors_name_host_and_database_alone(
    url: str, dsns: str | None, where: str
) -> None:
    options = read(url)
    assert options.dsns == tuple((url if dsns is None else dsns).split(" "))
    assert options.where == where


def test_options_stand_in_the_url_or_are_given_and_what_is_given_wins() -> None:
    query = "schema=s&pool_size=3&timeout=1.5&connect_timeout=4&probe_interval=.1&pgbouncer=yes&unlogged=1&migrate=TRUE"
    options = read(f"{URL}?{query}")
    assert options.dsns == (URL,)
    assert (options.schema, options.pool_size, options.timeout, options.connect_timeout) == ("s", 3, 1.5, 4.0)
    assert (options.probe_interval, options.pgbouncer, options.unlogged, options.migrate) == (0.1, True, True, True)
    options = read(f"{URL}?{query}", pool_size=7, migrate=False, schema=None)
    assert (options.pool_size, options.migrate, options.schema) == (7, False, "s")


@pytest.mark.parametrize(
    ("feed_url", "dsn"),
    [
        ("//direct:6000", "postgresql://app:s3cret@direct:6000/shop?sslmode=require"),
        ("//other:pw@direct", "postgresql://other:pw@direct/shop?sslmode=require"),
        ("//direct/elsewhere?sslmode=disable", "postgresql://app:s3cret@direct/elsewhere?sslmode=disable"),
        ("postgres://direct", "postgresql://app:s3cret@direct/shop?sslmode=require"),
        ("postgresql://x:y@direct:1/z", "postgresql://x:y@direct:1/z?sslmode=require"),
    ],
)
def test_the_feeds_url_takes_what_it_leaves_out_from_the_main_one(feed_url: str, dsn: str) -> None:
    main = "postgresql://app:s3cret@bouncer:6432/shop?sslmode=require&host=&port="
    for options in (read(main, feed_url=feed_url), read(f"{main}&feed_url={feed_url.replace('?', '%3F')}")):
        assert options.feed_dsns == (dsn,)
        assert options.has_feed_url
        assert "s3cret" not in options.feed_where


@pytest.mark.parametrize(
    ("url", "given", "message"),
    [
        ("sqlite:///x", {}, "a URL like postgresql://user@host/database"),
        ("postgresql://app:s3cret@h:x/d?pool=3", {}, "has no option 'pool': did you mean pool_size?"),
        ("postgresql://app:s3cret@h/d?completely_else=s3cret", {}, "has no option 'completely_else': there are"),
        ("postgresql://app:s3cret@[h/d", {}, "cannot be read: percent-encode"),
        ("postgresql://app:s3cret@h/d?nonsense", {}, "cannot be read: percent-encode"),
        (URL, {"feed_url": "http://app:s3cret@h"}, "feed_url is a URL like"),
        (URL, {"feed_url": "//h?pool_size=3"}, "has no option 'pool_size'"),
        ("postgresql:///d?host=a,b,c&port=1,2", {}, "has one port, or one for each of its hosts"),
        (f"{URL}?target_session_attrs=any", {}, "sessions are read from the primary alone"),
        (f"{URL}?schema=", {}, "cannot be one's name"),
        (URL, {"schema": "a\\b"}, "cannot be one's name"),
        (URL, {"schema": "a$$b"}, "cannot be one's name"),
        (URL, {"schema": "é" * 32}, "cannot be one's name"),
        (f"{URL}?pool_size=0", {}, "pool_size='0' must be a whole number above 0"),
        (f"{URL}?pool_size=2.5", {}, "pool_size='2.5' must be a whole number above 0"),
        (URL, {"timeout": -1}, "timeout=-1 must be a number above 0"),
        (f"{URL}?timeout=nan", {}, "timeout='nan' must be a number above 0"),
        (f"{URL}?probe_interval=soon", {}, "probe_interval='soon' must be a number above 0"),
        (f"{URL}?migrate=maybe", {}, "migrate='maybe' must be true or false"),
        (f"{URL}?pgbouncer=", {}, "pgbouncer='' must be true or false"),
    ],
)
def test_what_cannot_be_meant_is_refused_without_showing_what_is_secret(
    url: str, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError) as refusal:
        postgres_options(url, given)
    assert message in str(refusal.value)
    assert "s3cret" not in str(refusal.value)
    assert refusal.value.__context__ is None


def test_no_password_shows_itself_in_a_repr() -> None:
    assert "s3cret" not in repr(read(URL, feed_url="//direct"))
