"""What an operator may set, and where it comes from: command line, then COATCHECK_*, then coatcheck.toml, then defaults.

Promises that a setting which cannot work is refused at start with one line naming it and where it was set.
Leaves what the settings mean to the modules that use them.
"""

import difflib
import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, cast
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from coatcheck.server.errors import SettingsError

__all__ = ["LONGEST_ACCESS_TOKEN", "Limits", "Settings", "Throttling", "load_settings", "restore_settings"]

_DEFAULT_PORTS = {"http": 80, "https": 443}
_PREFIX = "COATCHECK_"
Port = Annotated[int, Field(ge=1, le=65535)]
Attempts = Annotated[int, Field(ge=1, le=100_000)]
Period = Annotated[float, Field(ge=1, le=30 * 86400)]

LONGEST_ACCESS_TOKEN = 3600.0
"""Seconds that an access token is good for, at most."""


def _default_data_dir() -> Path:
    """The XDG Base Directory Specification's place for what a user's program keeps."""
    home = os.environ.get("XDG_DATA_HOME", "")
    base = Path(home) if home.startswith("/") else Path.home() / ".local" / "share"
    return base / "coatcheck"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _default_workers() -> int:
    # Two at least: one can then be replaced, or be busy hashing, while the other answers.
    return max(2, _cores())


def _default_edge_threads() -> int:
    # A request costs the edge about as much as a worker, or less; on two cores a second thread costs more than it brings.
    return max(1, _cores() // 4)


class Limits(BaseModel):
    """What one client, or all of them, may take of the edge. Seconds and bytes unless the name says otherwise."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    request_headers_kb: int = Field(default=60, ge=1, le=8192)
    """Longest header section in KiB, the address included; beyond it the answer is 431."""
    request_headers_count: int = Field(default=100, ge=10, le=1000)
    """Header fields in one request; beyond it the answer is 431."""
    request_headers_timeout: float = Field(default=15.0, gt=0)
    """How long a client may take over the TLS handshake, and to send its header section; beyond it the answer is 408."""
    request_body_kb: int = Field(default=64, ge=1, le=65536)
    """Longest body in KiB; beyond it the answer is 413. Nothing that this server takes is longer."""
    request_timeout: float = Field(default=30.0, gt=0)
    """How long a client may take to send a whole request; beyond it the answer is 408. Also how long it may leave a response
    unread."""
    websocket_message_kb: int = Field(default=64, ge=1, le=65536)
    """Longest WebSocket message in KiB; beyond it the connection is closed with 1009."""
    requests_per_second: int = Field(default=100, ge=0, le=1_000_000)
    """Requests from one address (IPv6: one /64) in the long run, on each of plain, TLS and QUIC; beyond it the answer is 429.
    0: no limit. Loopback has none."""
    requests_burst: int = Field(default=1000, ge=1, le=1_000_000)
    """Requests that an address which was silent may send at once."""
    keepalive_timeout: float = Field(default=75.0, gt=0)
    """How long a connection without a request stays open."""
    concurrent_streams: int = Field(default=100, ge=1, le=10_000)
    """Requests under way at once on one HTTP/2 or HTTP/3 connection."""
    connections: int = Field(default=20_000, ge=16)
    """Open connections over all listeners; further ones are refused."""
    connections_per_session: int = Field(default=100, ge=1, le=1_000_000)
    """Live connections (WebSockets, event streams, gRPC streams) of one session on one worker; beyond it the answer is 429."""
    connections_per_user: int = Field(default=1000, ge=1, le=1_000_000)
    """The same of all sessions of one user."""
    slow_client_timeout: float = Field(default=30.0, gt=0)
    """How long a live connection's client may leave unread what it is sent; beyond it a WebSocket is closed with 4408."""
    buffer_kb: int = Field(default=64, ge=16, le=16384)
    """How much of requests and responses under way is held for each connection, in KiB, before its other side must wait."""
    edge_heap_mb: int = Field(default=1024, ge=64)
    """Memory of the edge in MiB. Near it, idle connections are closed, then new ones refused, then requests answered 503."""
    drain_timeout: float = Field(default=15.0, ge=0)
    """How long requests under way may take to end when the server stops."""


class Throttling(BaseModel):
    """How often passwords may be guessed, and accounts made. So many may come at once, and as many again in each period,
    evenly spread; periods are seconds. A right password weighs nothing. Beyond it the answer is 429 with Retry-After.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    account_attempts: Attempts = 10
    """Wrong passwords on one account, from all devices together that have not logged in to it before."""
    account_period: Period = 900.0
    device_attempts: Attempts = 10
    """Wrong passwords on one account from one device that has logged in to it: nobody else's guesses keep it out."""
    device_period: Period = 900.0
    address_attempts: Attempts = 100
    """Wrong passwords from one address (IPv6: one /64), on all accounts together. Loopback too: behind a proxy that does
    not say for whom it asks, everybody comes from there."""
    address_period: Period = 900.0
    registrations: Attempts = 60
    """Accounts made from one address (IPv6: one /64), and usernames tried that were taken."""
    registration_period: Period = 3600.0


class Settings(BaseSettings):
    """All settings of one server, checked against each other; made by `load_settings`."""

    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(
        env_prefix=_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True
    )

    data_dir: Path = Field(default_factory=_default_data_dir)
    host: str = "127.0.0.1"
    """Address to listen on; `localhost` means both loopback addresses. Beyond loopback only when told so."""
    http_port: Port = 8080
    https_port: Port = 8443
    """TLS over TCP, and QUIC over UDP on the same number."""
    metrics_port: Annotated[int, Field(ge=0, le=65535)] | None = None
    """Where `/metrics` listens, on loopback alone; 0 for nowhere. Not set: 9464 if it is free."""
    workers: int = Field(default_factory=_default_workers, ge=1, le=256)
    edge_threads: int = Field(default_factory=_default_edge_threads, ge=1, le=64)
    """Threads that the edge takes and answers requests with. One connection stays on one of them."""
    store: str | None = None
    accounts: str | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    cookie_keys: Path | None = None
    """Where the keys of sealed cookies are, if not in the data directory: the same ones on each of several machines."""
    registration: Literal["open", "closed"] = "open"
    log_format: Literal["console", "json"] = "console"
    public_origins: Annotated[tuple[str, ...], NoDecode] = ()
    """Origins under which browsers reach this server, such as `https://login.example.com`."""
    issuer: str | None = None
    """This server as access tokens name it, a URL without a slash at its end (`iss`). Not set: the first public origin."""
    audiences: Annotated[tuple[str, ...], NoDecode] = ()
    """URLs of other services for which a logged-in browser may ask for an access token, beside those of services that were
    added."""
    session_idle_timeout: float = Field(default=86_400.0, ge=1)
    """Seconds without a request after which a session ends; up to two minutes more."""
    session_lifetime: float = Field(default=30 * 86_400.0, ge=1)
    """Seconds from login after which a session ends in any case."""
    sessions_per_user: int = Field(default=100, ge=1)
    """Beyond it a login ends the user's oldest session."""
    access_token_lifetime: float = Field(default=300.0, ge=10, le=LONGEST_ACCESS_TOKEN)
    """Seconds that an access token is good for."""
    keys: Literal["file", "database"] = "file"
    """Where the keys that sign access tokens are kept: in the data directory, or, for several machines, in the accounts'
    database, sealed with COATCHECK_MASTER_SECRET."""
    signing_algorithm: Literal["ES256", "Ed25519"] = "ES256"
    """Of the keys that are made from now on."""
    introspection: bool | None = None
    """Whether `/graphql` tells its schema to whoever asks. Not set: only while nothing but loopback is listened on."""
    edge: bool = True
    """False: no Envoy; HTTP/1.1 in plain on `http_port` by the workers alone."""
    trusted_proxies: int = Field(default=0, ge=0, le=16)
    """How many proxies, such as a load balancer, every request passes before it gets here. Then the client is whom the
    first of them names in X-Forwarded-For, counted from the right, and `X-Forwarded-Proto: https` is believed. Nobody
    must be able to go round them, or they can pretend to be anybody."""
    hsts_max_age: int | None = Field(default=None, ge=0)
    """Seconds in Strict-Transport-Security for public origins over TLS; 0 has browsers forget it. Unless set: a year, but
    nothing at all while only loopback is listened on."""
    grpc_reflection: bool | None = None
    """Whether gRPC's clients may ask which services and messages there are. Not set: while only loopback is listened on."""
    limits: Limits = Limits()
    throttling: Throttling = Throttling()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings, env_settings, TomlConfigSettingsSource(settings_cls, _config_file()))

    @field_validator("data_dir", "tls_cert", "tls_key", "cookie_keys")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return None if value is None else Path(os.path.abspath(value.expanduser()))

    @field_validator("host")
    @classmethod
    def _is_address(cls, value: str) -> str:
        if value == "localhost":
            return value
        try:
            return str(ipaddress.ip_address(value.removeprefix("[").removesuffix("]")))
        except ValueError:
            raise ValueError(f"{value!r} is not an IP address; give one, or `localhost`") from None

    @field_validator("public_origins", "audiences", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("public_origins")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(_origin(item) for item in value))

    @field_validator("audiences")
    @classmethod
    def _are_urls(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(_identifier(item) for item in value))

    @field_validator("issuer")
    @classmethod
    def _is_url(cls, value: str | None) -> str | None:
        if value is not None and (_identifier(value).endswith("/") or "?" in value):
            raise ValueError(f"{value!r} is not an issuer; write it like https://login.example.com")
        return value

    @model_validator(mode="after")
    def _agree(self) -> "Settings":
        if self.edge and self.http_port == self.https_port:
            raise ValueError(f"http_port and https_port are both {self.http_port}; give two different ports")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key belong together; give both or neither")
        if self.effective_issuer() in self.audiences:
            raise ValueError(f"audiences has {self.effective_issuer()}, which is this server itself; leave it out")
        return self

    def store_url(self) -> str:
        """Where sessions are kept."""
        return self.store or f"sqlite:///{self.data_dir}/sessions.sqlite3"

    def accounts_url(self) -> str:
        """Where accounts are kept: never the sessions' file, see the decision record on two SQLite libraries."""
        return self.accounts or f"sqlite+aiosqlite:///{self.data_dir}/accounts.sqlite3"

    def effective_issuer(self) -> str:
        """This server as access tokens name it, both as their issuer and as the audience of its own API."""
        own = f"https://localhost:{self.https_port}" if self.edge else f"http://localhost:{self.http_port}"
        return self.issuer or next(iter(self.public_origins), own)

    def tells_its_schema(self) -> bool:
        """Whether `/graphql` answers introspection."""
        return self.is_loopback() if self.introspection is None else self.introspection

    def signing_keys_file(self) -> Path:
        """Where the keys that sign access tokens are kept."""
        return self.data_dir / "signing-keys.json"

    def cookie_keys_file(self) -> Path:
        """Where the keys of sealed cookies are kept."""
        return self.cookie_keys or self.data_dir / "cookie.keys"

    def shows_reflection(self) -> bool:
        """Whether gRPC's reflection is served."""
        return self.is_loopback() if self.grpc_reflection is None else self.grpc_reflection

    def is_loopback(self) -> bool:
        """Whether nobody beyond this machine can reach the server."""
        return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback

    def listen_addresses(self) -> tuple[str, ...]:
        """The IP addresses to listen on."""
        return ("127.0.0.1", "::1") if self.host == "localhost" else (self.host,)

    def effective_public_origins(self) -> tuple[str, ...]:
        """The origins whose pages may act on this server: those configured, and loopback's own where it listens there."""
        own: list[str] = []
        if self.is_loopback() or ipaddress.ip_address(self.host).is_unspecified:
            served = [("https", self.https_port)] if self.edge else []
            for scheme, port in (*served, ("http", self.http_port)):
                own += [_origin(f"{scheme}://{name}:{port}") for name in ("localhost", "127.0.0.1", "[::1]")]
        return tuple(dict.fromkeys((*own, *self.public_origins)))


def load_settings(**overrides: object) -> Settings:
    """The settings in force; `overrides` come from the command line, and None among them means "not given".

    Reads `coatcheck.toml` in the working directory, or the file that COATCHECK_CONFIG names.
    Raises SettingsError, one line for each thing that is wrong.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    file = _config_file()
    if "COATCHECK_CONFIG" in os.environ and not file.is_file():
        raise SettingsError(f"COATCHECK_CONFIG names {file}, which is not a file; correct the path or unset it")
    try:
        return Settings(**cast("dict[str, Any]", given))
    except ValidationError as error:
        raise SettingsError("\n".join(_explain(item, given) for item in error.errors())) from None
    except (OSError, ValueError) as error:  # tomllib's errors are ValueErrors that name line and column
        raise SettingsError(f"{file} cannot be read: {error}") from None


def restore_settings(text: str) -> Settings:
    """Settings as another process of this server wrote them with `model_dump_json`; looks at nothing else."""
    return _Restored.model_validate_json(text)


class _Restored(Settings):
    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


def _config_file() -> Path:
    return Path(os.environ.get("COATCHECK_CONFIG", "coatcheck.toml"))


def _origin(text: str) -> str:
    """`text` as browsers write an origin (RFC 6454, section 6.2): lower case, no default port, no path."""
    parts = urlsplit(text)
    try:
        port = parts.port
    except ValueError:
        port = -1
    host = parts.hostname
    bad_port = port is not None and port < 1
    # No wildcards, and international names in their ASCII form: what browsers send.
    if host and not re.fullmatch(r"[a-z0-9._-]+|[0-9a-f:.]+", host):
        host = None
    if parts.scheme not in _DEFAULT_PORTS or not host or bad_port or parts.username or parts.query or parts.fragment:
        raise ValueError(f"{text!r} is not an origin; write it like https://login.example.com or https://name:8443")
    if parts.path not in ("", "/"):
        raise ValueError(f"{text!r} has a path; an origin is scheme, host and port only")
    shown = f"[{host}]" if ":" in host else host
    if port is None or port == _DEFAULT_PORTS[parts.scheme]:
        return f"{parts.scheme}://{shown}"
    return f"{parts.scheme}://{shown}:{port}"


def _identifier(text: str) -> str:
    """`text` if it can name an issuer or an audience: an absolute URL without user and fragment, compared as it is written."""
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        parts, host = urlsplit(""), None
    plain = text.isascii() and text.isprintable() and " " not in text and len(text) <= 255
    if not plain or parts.scheme not in _DEFAULT_PORTS or not host or "#" in text or "@" in parts.netloc:
        raise ValueError(f"{text!r} is not a URL that can name a service; write it like https://orders.example.com")
    return text


def _explain(error: Mapping[str, Any], given: Mapping[str, object]) -> str:
    """One line: which setting, set where, is wrong in which way."""
    path = [str(part) for part in error["loc"]]
    message = str(error["msg"]).removeprefix("Value error, ")
    if not path:
        return message
    name, key = path[0], path[-1]
    if name in given:
        source = "--" + name.replace("_", "-")
    elif any(variable.upper().startswith((_PREFIX + name).upper()) for variable in os.environ):
        source = _PREFIX + "__".join(path).upper()
    else:
        source = f"{_config_file()}: {'.'.join(path)}"
    if error["type"] == "extra_forbidden":
        parts: Mapping[str, type[BaseModel]] = {"limits": Limits, "throttling": Throttling}
        known = (parts[name] if len(path) > 1 else Settings).model_fields
        near = difflib.get_close_matches(key, known, n=1)
        return f"{source}: there is no such setting" + (f"; did you mean {near[0]!r}?" if near else "")
    return f"{source}: {message}"
