"""Whether the session survives: how the server reacts to a request with its cookie, without, and with one made up. Pure.

A server cannot be asked whether it knows somebody. So its answers are compared: what it does with the cookie that it
gave (or that the user brought), against what it does with none and with an id that nobody ever issued.
"""

import re
import secrets
import string
from collections.abc import Iterable
from typing import Literal, TypeAlias

import msgspec

from coatcheck.probe.options import Version
from coatcheck.probe.words import joined

__all__ = ["Credential", "Known", "Reaction", "SessionReport", "judge_session", "made_up_like"]

Credential: TypeAlias = Literal["none", "ours", "made up"]
"""What a request carried: no cookie; those that the server gave or the user brought; values that nobody issued."""

Known: TypeAlias = Literal["yes", "no", "cannot tell", "not tried"]


class Reaction(msgspec.Struct, frozen=True, kw_only=True):
    """What the server did with one request."""

    version: Version
    credential: Credential
    connection: int
    """The connection's number in the trace."""
    other_address: bool
    """Sent from another address of ours than the rest."""
    status: int
    location: str | None
    digest: bytes
    """Of the body."""
    set_values: tuple[tuple[str, str], ...] = ()
    """Names and values of the session cookies that the response sets."""
    sent_values: tuple[tuple[str, str], ...] = ()
    """Names and values of the session cookies that the request carried."""


class SessionReport(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of the session. Every answer has words that say what it rests on."""

    cookies: tuple[str, ...]
    """The names that seem to carry it."""
    known_again: Known
    """Whether the cookie makes a difference at all."""
    survives_connection: Known
    survives_version: dict[str, Known]
    """For each version, whether the session is known there."""
    survives_address: Known
    adopts_made_up: Known
    words: str


def made_up_like(value: str) -> str:
    """A value of the same shape that nobody issued: letters for letters, digits for digits, the rest as it was."""
    return "".join(part if part.startswith("%") else "".join(map(_like, part)) for part in _parts(value)) or "made-up"


def judge_session(names: Iterable[str], reactions: Iterable[Reaction]) -> SessionReport:
    """Compare the reactions. `names` are the cookies that seem to carry the session."""
    cookies = tuple(names)
    every = list(reactions)
    ours = [each for each in every if each.credential == "ours"]
    without = [each for each in every if each.credential == "none"]
    made_up = [each for each in every if each.credential == "made up"]
    versions = {each.version: "not tried" for each in every}
    if not cookies:
        return _nothing(
            "The server set no cookie that looks like a session. Bring one with --cookie name=value.", versions
        )
    if not ours:
        return _nothing("Too few requests to send the cookie back: allow more with --requests.", versions, cookies)
    tell = _difference(ours, without, made_up)
    if tell is None:
        words = (
            f"The server answers alike with {joined(cookies)} and without: whether it knows the session cannot be told."
        )
        return SessionReport(
            cookies=cookies,
            known_again="cannot tell",
            survives_connection="cannot tell",
            survives_version=dict.fromkeys(versions, "cannot tell"),
            survives_address="cannot tell",
            adopts_made_up=_adopted(made_up, without, ours[0], None),
            words=words,
        )
    model = ours[0]
    first = model.connection
    same_version = [each for each in ours if each.version == model.version]
    return SessionReport(
        cookies=cookies,
        known_again="yes",
        survives_connection=_all_known([each for each in same_version if each.connection != first], model, tell),
        survives_version={
            version: _all_known([each for each in ours if each.version == version], model, tell) for version in versions
        },
        survives_address=_all_known([each for each in ours if each.other_address], model, tell),
        adopts_made_up=_adopted(made_up, without, model, tell),
        words=f"The server tells {joined(cookies)} from none {tell.words}.",
    )


# -- telling apart -----------------------------------------------------------------------------------------------------


class Tell(msgspec.Struct, frozen=True):
    """By what a known session is told from an unknown one."""

    by: Literal["answer", "cookie", "body"]
    words: str


def _difference(ours: list[Reaction], without: list[Reaction], made_up: list[Reaction]) -> Tell | None:
    """What differs between the first answer to our cookie and all those to none, or to a made-up one."""
    model = ours[0]
    # Without any cookie is the better measure; a made-up one will do where the user's cookie was always sent.
    others = without or made_up
    if not others:
        return None
    if all(_answer(each) != _answer(model) for each in others):
        return Tell("answer", f"by its answer: {model.status} with it, {others[0].status} without")
    if not model.set_values and all(each.set_values for each in others):
        return Tell("cookie", "by giving a new one to who comes without")
    bodies = {each.digest for each in ours if each.version == model.version}
    if len(bodies) == 1 and all(each.digest != model.digest for each in others):
        # Pages that differ each time, by a clock or a counter, tell nothing.
        return Tell("body", "by the body of its answer") if len(ours) > 2 else None
    return None


def _alike(reaction: Reaction, model: Reaction, tell: Tell) -> bool:
    if tell.by == "answer":
        return _answer(reaction) == _answer(model)
    if tell.by == "cookie":
        return not reaction.set_values
    return reaction.digest == model.digest


def _all_known(reactions: list[Reaction], model: Reaction, tell: Tell) -> Known:
    if not reactions:
        return "not tried"
    return "yes" if all(_alike(each, model, tell) for each in reactions) else "no"


def _adopted(made_up: list[Reaction], without: list[Reaction], model: Reaction, tell: Tell | None) -> Known:
    if not made_up:
        return "not tried"
    reaction = made_up[0]
    sent = dict(reaction.sent_values)
    given = dict(reaction.set_values)
    if any(given.get(name) == value for name, value in sent.items()):
        return "yes"  # it handed back the very value that we made up
    if any(name in given for name in sent):
        return "no"
    if tell is None or not without:
        return "cannot tell"
    return "yes" if _alike(reaction, model, tell) else "no"


def _answer(reaction: Reaction) -> tuple[int, str | None]:
    return reaction.status, reaction.location


def _nothing(words: str, versions: Iterable[str], cookies: tuple[str, ...] = ()) -> SessionReport:
    return SessionReport(
        cookies=cookies,
        known_again="not tried",
        survives_connection="not tried",
        survives_version=dict.fromkeys(versions, "not tried"),
        survives_address="not tried",
        adopts_made_up="not tried",
        words=words,
    )


def _parts(value: str) -> list[str]:
    # A percent sign and what it escapes stay, or the value would not even be readable.
    return [part for part in re.split(r"(%[0-9A-Fa-f]{2})", value) if part]


def _like(char: str) -> str:
    for alphabet in (string.digits, string.ascii_lowercase, string.ascii_uppercase):
        if char in alphabet:
            return secrets.choice(alphabet)
    return char
