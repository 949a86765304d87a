"""Reads Set-Cookie as a browser does, and judges what it says, in words (RFC 6265bis). Pure. Values are never kept.

Leaves to `sessions` what a cookie is good for, and to `findings` how loud to be about it.
"""

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal, TypeAlias

import msgspec

from coatcheck.cookies import MAX_COOKIE_BYTES
from coatcheck.probe.levels import Level, worst
from coatcheck.probe.target import Target, is_loopback
from coatcheck.probe.words import count, printable, seconds_in_words

__all__ = ["CookieReport", "Remark", "SetCookie", "is_session_like", "judge_cookie", "parse_set_cookie"]

Verdict: TypeAlias = Literal["good", "info", "warn", "problem"]

_SESSION_NAME = re.compile(r"sess|sid\b|_id$|auth|token|jwt|login|identity|remember|^id$", re.IGNORECASE)
_NOT_SESSION_NAME = re.compile(r"csrf|xsrf|consent|lang|locale|theme|_ga|_gid|tz", re.IGNORECASE)
_RANDOM_LOOKING = re.compile(r"[A-Za-z0-9+/=_.~%:-]{20,}")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_JWT = re.compile(r"[\w-]+\.[\w-]+\.[\w-]*")
_LONGEST = 400 * 86400
"""Browsers cut a longer life to this (RFC 6265bis, section 5.5)."""
_LARGE = 1024
_SHORT_ID = 16
"""Characters; fewer than that cannot hold the 64 bits that make an id hard to guess, as base64 writes them with room."""


class SetCookie(msgspec.Struct, frozen=True, kw_only=True):
    """One Set-Cookie header, taken apart."""

    name: str
    value: str
    secure: bool = False
    http_only: bool = False
    same_site: str | None = None
    """In lower case; None where it is absent."""
    domain: str | None = None
    path: str | None = None
    max_age: int | None = None
    expires: datetime | None = None
    partitioned: bool = False
    malformed: tuple[str, ...] = ()
    """Attributes whose values mean nothing to a browser."""

    def lifetime(self, now: datetime) -> float | None:
        """Seconds from now on; None: until the browser is closed. Max-Age wins over Expires (RFC 6265, section 5.3)."""
        if self.max_age is not None:
            return self.max_age
        return None if self.expires is None else (self.expires - now).total_seconds()

    def deletes(self, now: datetime) -> bool:
        """Whether a browser forgets the cookie at once."""
        lifetime = self.lifetime(now)
        return lifetime is not None and lifetime <= 0


class Remark(msgspec.Struct, frozen=True, kw_only=True):
    """One attribute of a cookie, judged."""

    attribute: str
    verdict: Verdict
    words: str


class CookieReport(msgspec.Struct, frozen=True, kw_only=True):
    """One cookie that the server sets. Its value is left out: whoever has it may be who it stands for."""

    name: str
    session_like: bool
    """Whether it looks as if it told who somebody is, for which the bar is higher."""
    set_over: tuple[str, ...]
    bytes: int
    """Name and value together."""
    lifetime_s: float | None
    """None: until the browser is closed."""
    secure: bool
    http_only: bool
    same_site: str | None
    domain: str | None
    path: str | None
    level: Level | None
    """The worst of the remarks; None: all is well."""
    remarks: tuple[Remark, ...]


def parse_set_cookie(header: str) -> SetCookie | None:
    """Take one header apart (RFC 6265bis, section 5.6); None if a browser would ignore it whole."""
    if _CONTROL.search(header):
        return None
    pair, *attributes = header.split(";")
    name, equals, value = pair.partition("=")
    if not equals:
        name, value = "", pair
    name, value = name.strip(" \t"), value.strip(" \t")
    if not name and not value:
        return None
    found: dict[str, str] = {}
    for attribute in attributes:
        key, _, said = attribute.partition("=")
        found[key.strip(" \t").lower()] = said.strip(" \t")
    malformed: list[str] = []
    max_age = expires = None
    if "max-age" in found:
        if re.fullmatch(r"-?[0-9]{1,18}", found["max-age"]):
            max_age = int(found["max-age"])
        else:
            malformed.append("Max-Age")
    if "expires" in found:
        expires = _date(found["expires"])
        if expires is None:
            malformed.append("Expires")
    domain = found.get("domain", "").lstrip(".").lower() or None
    path = found.get("path")
    return SetCookie(
        name=name,
        value=value,
        secure="secure" in found,
        http_only="httponly" in found,
        same_site=found["samesite"].lower() if "samesite" in found else None,
        domain=domain,
        path=path if path and path.startswith("/") else None,
        max_age=max_age,
        expires=expires,
        partitioned="partitioned" in found,
        malformed=tuple(malformed),
    )


def is_session_like(name: str, value: str, http_only: bool = False) -> bool:
    """Whether a cookie looks as if it told who somebody is: by its name, or by a long value that scripts may not read."""
    if _NOT_SESSION_NAME.search(name):
        return False
    return bool(_SESSION_NAME.search(name)) or (http_only and bool(_RANDOM_LOOKING.fullmatch(value)))


def judge_cookie(cookie: SetCookie, target: Target, address: str, over: tuple[str, ...], now: datetime) -> CookieReport:
    """Say of each attribute what it does, and whether that is well."""
    session = is_session_like(cookie.name, cookie.value, cookie.http_only)
    local = is_loopback(address)
    remarks = [
        *_name(cookie, target, session),
        _http_only(cookie, session),
        _secure(cookie, target, session, local),
        _same_site(cookie, session),
        _domain(cookie, target),
        _path(cookie),
        _lifetime(cookie, session, now),
        _size(cookie, session),
        *_value(cookie, session),
    ]
    return CookieReport(
        name=printable(cookie.name),
        session_like=session,
        set_over=over,
        bytes=_length(cookie),
        lifetime_s=cookie.lifetime(now),
        secure=cookie.secure,
        http_only=cookie.http_only,
        same_site=cookie.same_site and printable(cookie.same_site),
        domain=cookie.domain and printable(cookie.domain),
        path=cookie.path and printable(cookie.path),
        level=worst(remark.verdict for remark in remarks if remark.verdict != "good"),
        remarks=tuple(remarks),
    )


# -- one attribute each ------------------------------------------------------------------------------------------------


def _name(cookie: SetCookie, target: Target, session: bool) -> list[Remark]:
    name = cookie.name.lower()
    if not name.startswith(("__host-", "__secure-", "__http-")):
        if session and target.tls:
            words = (
                "Without the prefix __Host- a sibling host, or anybody on plain http, can plant a cookie of this name."
            )
            return [_remark("prefix", "info", words)]
        return [_remark("prefix", "good", "None; over plain http there can be none.")] if session else []
    broken: list[str] = []
    if not cookie.secure or not target.tls:
        broken.append("Secure, over TLS")
    if name.startswith("__host-") and cookie.domain is not None:
        broken.append("no Domain")
    if name.startswith("__host-") and cookie.path != "/":
        broken.append("Path=/")
    if name.startswith(("__http-", "__host-http-")) and not cookie.http_only:
        broken.append("HttpOnly")
    if broken:
        return [_remark("prefix", "problem", f"The prefix promises {', '.join(broken)}: browsers refuse this cookie.")]
    held = "only this very host can have set it" if name.startswith("__host-") else "it was set over TLS"
    return [_remark("prefix", "good", f"Browsers hold it to its prefix: {held}.")]


def _http_only(cookie: SetCookie, session: bool) -> Remark:
    if cookie.http_only:
        return _remark("HttpOnly", "good", "Scripts of the page cannot read it.")
    words = "Scripts can read it: whoever gets one line of script into a page takes the session along."
    return _remark("HttpOnly", "warn" if session else "good", words if session else "Scripts can read it.")


def _secure(cookie: SetCookie, target: Target, session: bool, local: bool) -> Remark:
    if cookie.secure and target.tls:
        return _remark("Secure", "good", "It is sent over TLS only.")
    if cookie.secure:
        return _remark("Secure", "good" if local else "problem", "Over plain http browsers keep it on localhost only.")
    if not session:
        return _remark("Secure", "good", "It is sent over plain http, too.")
    if target.tls:
        words = "It is sent over plain http, too, where anybody on the way can read it."
        return _remark("Secure", "problem", words)
    return _remark("Secure", "info" if local else "problem", "It travels in plain text.")


def _same_site(cookie: SetCookie, session: bool) -> Remark:
    said = cookie.same_site
    if said == "strict":
        return _remark("SameSite", "good", "Strict: no request that another site began carries it.")
    if said == "lax":
        return _remark("SameSite", "good", "Lax: of other sites' requests only links followed carry it.")
    if said == "none":
        if not cookie.secure:
            return _remark("SameSite", "problem", "None without Secure: browsers refuse this cookie.")
        words = "None: requests that any other site begins carry it; forging them must be kept off by other means."
        return _remark("SameSite", "warn" if session else "good", words)
    words = "Absent: some browsers take that for Lax, with two minutes' grace for POST, others for None. Say which."
    if said is not None:
        words = f"{printable(said)!r} is none of Strict, Lax and None: it counts as absent."
    return _remark("SameSite", "warn" if session else "info", words)


def _domain(cookie: SetCookie, target: Target) -> Remark:
    if cookie.domain is None:
        return _remark("Domain", "good", "Absent: sent to this very host only.")
    if target.host != cookie.domain and not (target.host.endswith("." + cookie.domain) and not target.is_address):
        return _remark(
            "Domain", "problem", f"{printable(cookie.domain)} is not this host's: browsers refuse this cookie."
        )
    words = f"Every host under {printable(cookie.domain)} gets it, and can overwrite it."
    return _remark("Domain", "warn", words)


def _path(cookie: SetCookie) -> Remark:
    if cookie.path is None:
        return _remark(
            "Path", "info", "Absent: it holds for the folder of the page that set it, which is rarely meant."
        )
    if cookie.path == "/":
        return _remark("Path", "good", "/: sent with every request to the host.")
    return _remark(
        "Path", "good", f"Sent under {printable(cookie.path)} only; that keeps no script of the host from it."
    )


def _lifetime(cookie: SetCookie, session: bool, now: datetime) -> Remark:
    if cookie.malformed:
        return _remark("lifetime", "warn", f"Browsers cannot read its {' and '.join(cookie.malformed)} and ignore it.")
    lifetime = cookie.lifetime(now)
    if lifetime is None:
        return _remark("lifetime", "good", "Until the browser is closed, or longer where it restores its tabs.")
    if lifetime <= 0:
        return _remark("lifetime", "good", "It deletes the cookie.")
    if lifetime > _LONGEST + 86400:
        words = f"{seconds_in_words(lifetime)}: browsers cut that to 400 days."
        return _remark("lifetime", "info", words)
    long = session and lifetime > 90 * 86400
    words = f"{seconds_in_words(lifetime)} from each time it is set."
    return _remark("lifetime", "info" if long else "good", words)


def _size(cookie: SetCookie, session: bool) -> Remark:
    length = _length(cookie)
    if length > MAX_COOKIE_BYTES:
        return _remark("size", "problem", f"{length} bytes: browsers drop a cookie of more than {MAX_COOKIE_BYTES}.")
    if length > _LARGE:
        words = (
            f"{length} of at most {MAX_COOKIE_BYTES} bytes, sent with every request. It seems to hold data, not an id."
        )
        return _remark("size", "info", words)
    return _remark("size", "good", f"{length} of at most {MAX_COOKIE_BYTES} bytes, name and value.")


def _value(cookie: SetCookie, session: bool) -> list[Remark]:
    if _JWT.fullmatch(cookie.value) and cookie.value.startswith("eyJ"):
        words = "It looks like a JWT: whoever has it can read it, and it counts until it expires unless the server keeps a list."
        return [_remark("value", "info", words)]
    if session and 0 < len(cookie.value) < _SHORT_ID:
        words = f"Its value has {count(len(cookie.value), 'character')}: an id so short may be guessed."
        return [_remark("value", "warn", words)]
    return []


def _remark(attribute: str, verdict: Verdict, words: str) -> Remark:
    return Remark(attribute=attribute, verdict=verdict, words=words)


def _length(cookie: SetCookie) -> int:
    return len(cookie.name.encode("latin-1", "replace")) + len(cookie.value.encode("latin-1", "replace"))


def _date(text: str) -> datetime | None:
    # Some servers write dashes, as the first specification had them.
    try:
        moment = parsedate_to_datetime(text.replace("-", " "))
    except (ValueError, TypeError, IndexError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
