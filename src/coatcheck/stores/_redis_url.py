"""Where a Redis or Valkey is and how to get in: reads the store's URL. Leaves connecting to `_redis_server`.

URLs hold passwords: no message here, and no `repr`, shows more of one than its scheme, hosts and the name of what is wrong.
"""

from contextlib import suppress
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from coatcheck.errors import UsageError

__all__ = ["SCHEMES", "Options", "Place", "parse_url"]

SCHEMES = tuple(
    name + kind for name in ("redis", "rediss", "valkey", "valkeys") for kind in ("", "+sentinel", "+cluster")
)
"""The schemes of this store's URLs. `rediss` and `valkeys` speak TLS."""

_EXAMPLES = {
    "": "redis://user:password@host:6379/0",
    "sentinel": "redis+sentinel://host1:26379,host2:26379/service",
    "cluster": "redis+cluster://host1:6379,host2:6379",
}
_PORTS = {"": 6379, "sentinel": 26379, "cluster": 6379}


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What may be set in a URL's query, or as keyword arguments of `RedisStore`. Times in seconds."""

    prefix: str = "coatcheck"
    timeout: float = 2.0
    connect_timeout: float = 2.0
    connections: int = 8
    durability: str = "warn"
    wait_replicas: int = 0
    wait_timeout: float = 1.0
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_check_hostname: bool = True
    sentinel_username: str | None = None
    sentinel_password: str | None = None

    def __repr__(self) -> str:
        return f"<options of the store under {self.prefix}>"

    def check(self) -> None:
        """Raise UsageError for what cannot be meant."""
        for name in ("timeout", "connect_timeout", "wait_timeout"):
            if not 0 < getattr(self, name) <= 600:
                raise UsageError(f"{name}={getattr(self, name)!r} must be a number of seconds between 0 and 600")
        if not 1 <= self.connections <= 1000:
            raise UsageError(f"connections={self.connections!r} must lie between 1 and 1000")
        if self.wait_replicas < 0:
            raise UsageError(f"wait_replicas={self.wait_replicas!r} must not be negative")
        if self.durability not in ("any", "warn", "require"):
            raise UsageError(f"durability={self.durability!r} must be 'any', 'warn' or 'require'")
        if not self.prefix or any(c in "{}:*?[]\\" or not c.isprintable() or c.isspace() for c in self.prefix):
            raise UsageError(f"prefix={self.prefix!r} must be a word without spaces, colons, braces and wildcards")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise UsageError("tls_cert and tls_key belong together: give both, or none")


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Which servers, and as whom. `kind` is empty for one server, else `sentinel` or `cluster`."""

    kind: str
    hosts: tuple[tuple[str, int], ...]
    service: str = ""
    db: int = 0
    tls: bool = False
    username: str | None = None
    password: str | None = None

    def __str__(self) -> str:
        """Name the place as logs and errors may show it: without user and password."""
        hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)
        scheme = ("rediss" if self.tls else "redis") + (f"+{self.kind}" if self.kind else "")
        return f"{scheme}://{hosts}" + (f"/{self.service}" if self.service else f"/{self.db}" if self.db else "")

    def __repr__(self) -> str:
        return str(self)


def parse_url(url: str) -> tuple[Place, dict[str, object]]:
    """Read a URL; give the place, and what its query sets. Raises UsageError, which names the mend and nothing secret."""
    scheme, _, rest = url.partition("://")
    name, _, kind = scheme.partition("+")
    if scheme not in SCHEMES or not rest:
        raise UsageError(f"this is no URL of a Redis store: write {_EXAMPLES['']}")
    parts = urlsplit(f"//{rest}")
    if parts.fragment:
        raise UsageError(f"the {scheme} URL has a '#' in it: write %23 where it belongs to a name or password")
    credentials, at, hosts = parts.netloc.rpartition("@")
    username, colon, password = credentials.partition(":")
    places = tuple(_host(scheme, kind, text) for text in hosts.split(","))
    service, db = _path(scheme, kind, unquote(parts.path.strip("/")))
    place = Place(
        kind=kind,
        hosts=places,
        service=service,
        db=db,
        tls=name in ("rediss", "valkeys"),
        username=unquote(username) or None if at else None,
        password=unquote(password) or None if colon else None,
    )
    if not kind and len(place.hosts) > 1:
        raise UsageError(
            f"{place} names several hosts: write redis+cluster:// or redis+sentinel:// where that is meant"
        )
    return place, _query(scheme, parts.query)


def _host(scheme: str, kind: str, text: str) -> tuple[str, int]:
    with suppress(ValueError):
        parts = urlsplit(f"//{text}")
        if parts.hostname and not parts.path and not parts.query:
            return parts.hostname, parts.port or _PORTS[kind]
    raise UsageError(
        f"the {scheme} URL has no host, or one that cannot be read: write {_EXAMPLES[kind]}, and percent-encode what is "
        "special in a user or password (%40 for @, %3A for :, %2F for /)"
    )


def _path(scheme: str, kind: str, path: str) -> tuple[str, int]:
    """Give the service, for Sentinels, and the database."""
    if kind == "sentinel":
        service, _, db = path.partition("/")
        if not service:
            raise UsageError(f"the {scheme} URL names no service that the Sentinels watch: write {_EXAMPLES[kind]}")
        return service, _number(scheme, db)
    db = _number(scheme, path)
    if db and kind == "cluster":
        raise UsageError(f"a cluster has one database, and the {scheme} URL asks for {db}: write {_EXAMPLES[kind]}")
    return "", db


def _number(scheme: str, text: str) -> int:
    if text and not (text.isascii() and text.isdigit()):
        raise UsageError(f"the {scheme} URL's path must be a database's number, as in {_EXAMPLES['']}")
    return int(text or 0)


def _query(scheme: str, query: str) -> dict[str, object]:
    given: dict[str, object] = {}
    kinds = {field.name: field.type for field in msgspec.structs.fields(Options)}
    for name, text in parse_qsl(query, keep_blank_values=True):
        if name not in kinds:
            # Its name is not told: it may be part of a password that has an unencoded question mark in it.
            raise UsageError(f"the {scheme} URL's query sets what is no option: there are {', '.join(kinds)}")
        try:
            given[name] = msgspec.convert(text, kinds[name], strict=False)
        except msgspec.ValidationError:
            raise UsageError(f"the {scheme} URL sets {name} to what is no value of it") from None
    return given
