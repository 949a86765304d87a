"""What a PostgreSQL URL asks for: options of ours taken out of it, the rest as libpq knows it. Pure; nothing is opened.

Nothing that this module says, in an error or a `repr`, holds a password.
"""

import difflib
from collections.abc import Mapping
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

import msgspec

from coatcheck.errors import UsageError

__all__ = ["Dsn", "PostgresOptions", "is_postgres", "postgres_options"]

_SCHEMES = ("postgresql", "postgres")
_OURS = (
    "connect_timeout", "feed_url", "migrate", "pgbouncer", "pool_size", "probe_interval", "schema", "timeout", "unlogged",
)  # fmt: skip
# What asyncpg reads of a URL as libpq does. Anything else it would hand to the server as a setting.
_LIBPQ = (
    "database", "dbname", "gsslib", "host", "krbsrvname", "passfile", "password", "port", "service", "sslcert", "sslcrl",
    "sslkey", "sslmode", "sslnegotiation", "sslpassword", "sslrootcert", "ssl_max_protocol_version",
    "ssl_min_protocol_version", "target_session_attrs", "user",
)  # fmt: skip
_WHERE = ("host", "port", "service")
_WORDS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}


class Dsn(str):
    """A connection string for one host, which shows itself nowhere: a password may stand in it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<a connection string>"


class PostgresOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a store is opened. All times are seconds; the reference of the options is `PostgresStore`."""

    dsns: tuple[Dsn, ...]
    """One for each host."""
    feed_dsns: tuple[Dsn, ...]
    where: str
    """What errors call the database: no user and no password."""
    feed_where: str
    has_feed_url: bool
    schema: str
    pool_size: int
    timeout: float
    connect_timeout: float
    probe_interval: float
    pgbouncer: bool | None
    unlogged: bool
    migrate: bool


def is_postgres(url: str) -> bool:
    """Tell whether this is a URL of PostgreSQL's."""
    return url.partition("://")[0] in _SCHEMES


def postgres_options(url: str, given: Mapping[str, object], *, ours: tuple[str, ...] = _OURS) -> PostgresOptions:
    """Read a URL; what is `given` (None: not) wins over what stands in the URL. Raises UsageError.

    `ours` are those options of ours that it may have.
    """
    if not is_postgres(url):
        raise UsageError("PostgreSQL has a URL like postgresql://user@host/database")
    dsns, where, found = _split(url, ours)
    found |= {name: value for name, value in given.items() if value is not None}
    feed_url = found.get("feed_url")
    feed_dsns, feed_where = dsns, where
    if feed_url is not None:
        feed_dsns, feed_where, _ = _split(_completed(str(feed_url), dsns[0]), ())
    return PostgresOptions(
        dsns=dsns,
        feed_dsns=feed_dsns,
        where=where,
        feed_where=feed_where,
        has_feed_url=feed_url is not None,
        schema=_schema(found.get("schema", "coatcheck")),
        pool_size=int(_number("pool_size", found.get("pool_size", 10), whole=True)),
        timeout=_number("timeout", found.get("timeout", 2.0)),
        connect_timeout=_number("connect_timeout", found.get("connect_timeout", 2.0)),
        probe_interval=_number("probe_interval", found.get("probe_interval", 0.5)),
        pgbouncer=None if found.get("pgbouncer") is None else _flag("pgbouncer", found["pgbouncer"]),
        unlogged=_flag("unlogged", found.get("unlogged", False)),
        migrate=_flag("migrate", found.get("migrate", False)),
    )


def _split(url: str, ours: tuple[str, ...]) -> tuple[tuple[Dsn, ...], str, dict[str, object]]:
    """Give the connection strings, what to call the database, and those of our options that stand in the URL."""
    try:
        parts = urlsplit(url)
        query = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        # Without the cause, which may show the URL.
        parts, query = None, []
    if parts is None:
        raise UsageError("this PostgreSQL URL cannot be read: percent-encode what stands in it, such as a password")
    found: dict[str, object] = {}
    kept: list[tuple[str, str]] = []
    for name, value in query:
        if name in ours:
            found[name] = value
        elif name == "target_session_attrs" and value not in ("read-write", "primary"):
            raise UsageError("sessions are read from the primary alone: leave out target_session_attrs")
        elif name in _LIBPQ:
            kept.append((name, value))
        else:
            raise UsageError(f"a PostgreSQL URL has no option {name!r}{_meant(name, (*ours, *_LIBPQ))}")
    user, at, host = parts.netloc.rpartition("@")
    options = dict(kept)
    where = host or options.get("host", "")
    name = parts.path.removeprefix("/") or options.get("dbname", options.get("database", ""))
    # Host by host: one that does not answer must not take the time for all of them.
    if host:
        dsns = [_dsn(f"{user}{at}{each}", parts.path, kept) for each in host.split(",")]
    else:
        hosts, ports = options.get("host", "").split(","), options.get("port", "").split(",")
        if len(ports) not in (1, len(hosts)):
            raise UsageError("a PostgreSQL URL has one port, or one for each of its hosts")
        others = [(name, value) for name, value in kept if name not in ("host", "port")]
        dsns = [
            _dsn(parts.netloc, parts.path, [*others, *_given(host=each, port=port)])
            for each, port in zip(hosts, ports * len(hosts) if len(ports) == 1 else ports, strict=True)
        ]
    return tuple(dsns), f"postgresql://{where}/{unquote(name)}", found


def _given(**options: str) -> list[tuple[str, str]]:
    return [(name, value) for name, value in options.items() if value]


def _dsn(netloc: str, path: str, query: list[tuple[str, str]]) -> Dsn:
    dsn = urlunsplit(("postgresql", netloc, path, urlencode(query, quote_via=quote), ""))
    # Without a host and a path urllib leaves out the slashes.
    return Dsn(dsn if "://" in dsn else dsn.replace("postgresql:", "postgresql://", 1))


def _completed(feed_url: str, dsn: str) -> str:
    """Give the feed's URL with what it leaves out taken from the main one: user, password, database, TLS options."""
    if not feed_url.startswith("//") and not is_postgres(feed_url):
        raise UsageError(
            "feed_url is a URL like postgresql://user@host/database, or //host:port for another server only"
        )
    main, feed = urlsplit(dsn), urlsplit(feed_url)
    user, _, host = feed.netloc.rpartition("@")
    user = user or main.netloc.rpartition("@")[0]
    query = feed.query or urlencode(
        [(name, value) for name, value in parse_qsl(main.query) if name not in _WHERE], quote_via=quote
    )
    path = feed.path if feed.path not in ("", "/") else main.path
    return urlunsplit(("postgresql", f"{user}@{host}" if user else host, path, query, ""))


def _meant(name: str, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f": did you mean {close[0]}?" if close else f": there are {', '.join(sorted(known))}"


def _schema(value: object) -> str:
    name = str(value)
    if not 0 < len(name.encode("utf-8", "replace")) <= 63 or not name.isprintable() or set(name) & set("\\$"):
        raise UsageError(
            f"schema={name!r} cannot be one's name: up to 63 printable bytes, without a backslash or a dollar"
        )
    return name


def _flag(name: str, value: object) -> bool:
    if isinstance(value, bool):
        return value
    word = _WORDS.get(str(value).lower())
    if word is None:
        raise UsageError(f"{name}={value!r} must be true or false")
    return word


def _number(name: str, value: object, *, whole: bool = False) -> float:
    try:
        number = float(str(value))
    except ValueError:
        number = 0.0
    if not 0 < number < 1e6 or (whole and number != int(number)):
        raise UsageError(f"{name}={value!r} must be a {'whole ' if whole else ''}number above 0")
    return number
