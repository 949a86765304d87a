"""A session's values as a lazy mapping, and what changed in it. Pure; leaves storing the difference to `session`.

Each key's bytes are kept apart and decoded on first use; only keys that were touched are encoded and compared when
the difference is asked for, so that a list appended to in place is noticed and an equal value is not written.
"""

import datetime as dt
import math
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from types import MappingProxyType
from typing import Any, Generic, Protocol, TypeVar, cast

import msgspec

__all__ = ["Key", "SessionValues", "decode_value", "encode_value"]

T = TypeVar("T")

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder()

_EMPTY: Mapping[str, bytes] = MappingProxyType({})
_PLAIN = frozenset({str, bool, type(None), bytes})
_MUTABLE = frozenset({list, dict})
_MAX_DEPTH = 64
_MENDS: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (tuple, "store list(value)"),
    ((set, frozenset), "store sorted(value) or list(value)"),
    (dt.datetime, "give it a time zone, as datetime.now(timezone.utc)"),
    (dt.date, "store value.isoformat()"),
)


def _refuse(key: str, value: object, path: str) -> TypeError:
    mend = next((mend for kind, mend in _MENDS if isinstance(value, kind)), None)
    if isinstance(value, dt.datetime) and value.utcoffset() is not None:
        mend = "store datetime.fromisoformat(value.isoformat())"
    if mend is None:
        mend = "store str(value), or give the key a type with coatcheck.Key"
    where = f"session[{key!r}]{path}"
    return TypeError(
        f"{where} is a {type(value).__qualname__}, which would not come back the same: {mend}. Sessions hold None, bool, "
        "int, float, str, bytes, datetime with a time zone, and lists and dicts (with str keys) of these."
    )


def _check(key: str, value: object, path: str = "", depth: int = 0) -> None:
    kind = type(value)
    if kind in _PLAIN:
        return
    if kind is int:
        if not -(2**63) <= cast("int", value) < 2**64:
            raise TypeError(f"session[{key!r}]{path} is an int of over 64 bits: store str(value)")
    elif kind is float:
        if math.isnan(cast("float", value)):
            raise TypeError(f"session[{key!r}]{path} is not a number and so is not equal to itself: store None")
    elif kind is list:
        if depth >= _MAX_DEPTH:
            raise TypeError(f"session[{key!r}] is nested deeper than {_MAX_DEPTH} levels, or contains itself")
        for index, item in enumerate(cast("list[object]", value)):
            if type(item) not in _PLAIN:
                _check(key, item, f"{path}[{index}]", depth + 1)
    elif kind is dict:
        if depth >= _MAX_DEPTH:
            raise TypeError(f"session[{key!r}] is nested deeper than {_MAX_DEPTH} levels, or contains itself")
        for name, item in cast("dict[object, object]", value).items():
            if type(name) is not str:
                raise TypeError(
                    f"session[{key!r}]{path} has the key {name!r}, a {type(name).__qualname__}: use str keys, as str({name!r})"
                )
            if type(item) not in _PLAIN:
                _check(key, item, f"{path}[{name!r}]", depth + 1)
    elif kind is not dt.datetime or cast("dt.datetime", value).utcoffset() is None:
        raise _refuse(key, value, path)


def encode_value(key: str, value: object) -> bytes:
    """Give a value's msgpack. Raises TypeError, naming key and mend, for what would not come back equal."""
    _check(key, value)
    try:
        key.encode()
        return _encoder.encode(value)
    except (UnicodeEncodeError, msgspec.MsgspecError, OverflowError, RecursionError) as error:
        raise TypeError(f"session[{key!r}] cannot be stored: {error}") from error


def decode_value(data: bytes) -> Any:
    """Read back what `encode_value` gave."""
    return _decoder.decode(data)


def _same(left: object, right: object) -> bool:
    """Equal, and of equal types throughout: 1, 1.0 and True are three values."""
    if type(left) is not type(right):
        return False
    if type(left) is dict:
        mine, other = cast("dict[str, object]", left), cast("dict[str, object]", right)
        return len(mine) == len(other) and all(key in other and _same(item, other[key]) for key, item in mine.items())
    if type(left) is list:
        these, those = cast("list[object]", left), cast("list[object]", right)
        return len(these) == len(those) and all(map(_same, these, those))
    return left == right


def _is_plain(key: str, value: object) -> bool:
    try:
        _check(key, value)
    except TypeError:
        return False
    return True


class _Typed(Protocol):
    """What a Key offers to the mapping: from the stored data to the object that the caller holds, and back."""

    def plain(self, value: Any) -> Any: ...

    def parse(self, value: Any) -> Any: ...


class SessionValues(MutableMapping[str, Any]):
    """The values of one session as one request sees them. Reads are lazy; `difference` tells what changed.

    Values are JSON's types, bytes, and datetime with a time zone (which comes back in UTC). What would not come back
    equal and of the same type raises TypeError when assigned, or when the difference is taken.
    """

    __slots__ = ("_base", "_deleted", "_held", "_lent", "_raw", "_typed", "used")

    def __init__(self, raw: Mapping[str, bytes] = _EMPTY) -> None:
        self._raw = raw  # shared with the cached record: never written to
        self._held: dict[str, Any] | None = None  # values decoded or assigned by this request
        self._deleted: set[str] | None = None
        self._typed: dict[str, _Typed] | None = None  # keys whose held value is an object of a Key's own type
        self._lent: dict[str, tuple[_Typed, Any, bytes]] | None = None  # defaults given out, and how they began
        self._base: dict[str, bytes | None] | None = None  # what held values began as, where that is not in _raw
        self.used: bool = False
        """Whether anybody looked or changed anything: the response then depends on the cookie."""

    def __getitem__(self, key: str) -> Any:
        self.used = True
        held = self._held
        if held is not None and key in held:
            value = held[key]
            if self._typed and key in self._typed:
                return self._typed[key].plain(value)
            return value
        if self._deleted and key in self._deleted:
            raise KeyError(key)
        if self._lent and self._take_back(key):
            return self[key]
        value: Any = _decoder.decode(self._raw[key])
        if type(value) in _MUTABLE:
            # Only these can be changed in place. They are held and compared later, all else is decoded again.
            if self._base:
                self._base.pop(key, None)
            if held is None:
                self._held = {key: value}
            else:
                held[key] = value
        return value

    def __setitem__(self, key: str, value: Any) -> None:
        if type(key) is not str:
            raise TypeError(f"session keys are str, and {key!r} is a {type(key).__qualname__}")
        if type(value) not in _PLAIN:
            _check(key, value)
        self._hold(key, value, None)

    def _hold(self, key: str, value: Any, typed_by: _Typed | None) -> None:
        self.used = True
        if self._held is None:
            self._held = {}
        self._held[key] = value
        if self._lent:
            self._lent.pop(key, None)
        if self._deleted:
            self._deleted.discard(key)
        if typed_by is not None:
            if self._typed is None:
                self._typed = {}
            self._typed[key] = typed_by
        elif self._typed:
            self._typed.pop(key, None)

    def _take_back(self, key: str) -> bool:
        """Make a default that was changed in place a value of the session; tell whether it was changed."""
        if self._lent is None or key not in self._lent:
            return False
        typed_by, value, began = self._lent[key]
        if encode_value(key, typed_by.plain(value)) == began:
            return False
        self._hold(key, value, None if _is_plain(key, value) else typed_by)
        return True

    def _take_all_back(self) -> None:
        for key in tuple(self._lent or ()):
            self._take_back(key)

    def __delitem__(self, key: str) -> None:
        if key not in self:
            raise KeyError(key)
        if self._held:
            self._held.pop(key, None)
        if self._typed:
            self._typed.pop(key, None)
        if self._lent:
            self._lent.pop(key, None)
        if self._deleted is None:
            self._deleted = set()
        self._deleted.add(key)  # though it may not be stored: it may be on its way there

    def __contains__(self, key: object) -> bool:
        self.used = True
        if self._held and key in self._held:
            return True
        if self._lent and self._take_back(cast("str", key)):
            return True
        return key in self._raw and not (self._deleted and key in self._deleted)

    def __iter__(self) -> Iterator[str]:
        self.used = True
        if self._lent:
            self._take_all_back()
        deleted = self._deleted or ()
        raw = self._raw
        yield from [key for key in raw if key not in deleted]
        if self._held:
            yield from [key for key in self._held if key not in raw]

    def __len__(self) -> int:
        return sum(1 for _ in SessionValues.__iter__(self))

    def clear(self) -> None:
        """Delete every key."""
        self.used = True
        self._deleted = {*self._raw, *(self._held or ())} or None
        self._held = None
        self._typed = None
        self._lent = None

    def __repr__(self) -> str:
        # Values may be personal or secret, and reprs end up in logs.
        return f"<{type(self).__name__} with keys {sorted(SessionValues.__iter__(self))}>"

    def typed(self, key: str, typed_by: _Typed, default: Callable[[], Any] | None) -> Any:
        """Give a value as its Key's type (see `Key.get`)."""
        if self._typed and self._typed.get(key) is typed_by and self._held is not None:
            return self._held[key]
        if self._lent and key in self._lent and self._lent[key][0] is typed_by:
            return self._lent[key][1]
        if key not in self:
            if default is None:
                raise KeyError(key)
            value = default()
            if self._lent is None:
                self._lent = {}
            self._lent[key] = (typed_by, value, encode_value(key, typed_by.plain(value)))
            return value
        current = self[key]
        value = typed_by.parse(current)
        if _same(value, current):
            return current  # somebody may hold it already, and what is parsed is a copy
        changed = self._held is not None and key in self._held and self._changed(key) is not None
        self._hold(key, value, None if _is_plain(key, value) else typed_by)
        if not changed:
            # Parsing may have filled in or converted something: that is no change by whoever reads.
            if self._base is None:
                self._base = {}
            self._base[key] = encode_value(key, typed_by.plain(value))
        return value

    def set_typed(self, key: str, typed_by: _Typed, value: Any) -> None:
        """Set a value of its Key's type (see `Key.set`)."""
        plain = typed_by.plain(value)
        _check(key, plain)
        typed_by.parse(plain)
        self._hold(key, value, None if _is_plain(key, value) else typed_by)

    def difference(self) -> tuple[dict[str, bytes], frozenset[str]]:
        """Give what was set (encoded) and what was deleted since the values were read. Raises TypeError."""
        if self._lent:
            self._take_all_back()
        changed: dict[str, bytes] = {}
        for key in self._held or ():
            data = self._changed(key)
            if data is not None:
                changed[key] = data
        return changed, frozenset(key for key in self._deleted or () if key in self._raw)

    def pending(self, key: str) -> tuple[bool, bytes | None]:
        """Tell whether a key was changed since the values were read, and give what it is now (None: deleted)."""
        if self._lent:
            self._take_back(key)
        if self._held and key in self._held:
            data = self._changed(key)
            return data is not None, data
        return key in (self._deleted or ()), None

    def _changed(self, key: str) -> bytes | None:
        """Give a held value encoded if it is another one than it began as."""
        assert self._held is not None
        value = self._held[key]
        if self._typed and key in self._typed:
            value = self._typed[key].plain(value)
        data = encode_value(key, value)
        before = self._base[key] if self._base and key in self._base else self._raw.get(key)
        if before is None or (before != data and not _same(_decoder.decode(before), value)):
            return data
        return None

    def touched(self) -> bool:
        """Tell whether a difference is possible at all. Costs nothing; True does not promise one."""
        return bool(self._held) or bool(self._deleted) or bool(self._lent)

    def rebase(self, raw: Mapping[str, bytes]) -> None:
        """Start again from stored values; pending changes are dropped."""
        self._raw = raw
        self._held = None
        self._deleted = None
        self._typed = None
        self._lent = None
        self._base = None

    def settle(self, raw: Mapping[str, bytes], written: Mapping[str, bytes], deleted: frozenset[str]) -> None:
        """Go on from stored values after `written` and `deleted` were stored.

        Objects that the caller holds stay the same, so that changing them later is noticed; what is still pending
        stays pending; and what others stored meanwhile under keys that were only read is not taken for a change.
        """
        began: dict[str, bytes | None] = self._base or {}
        # What was deleted while the store was writing is deleted next, what was never stored anywhere is forgotten.
        pending = {key for key in self._deleted or () if key not in deleted and (key in self._raw or key in written)}
        base = {key: began[key] for key in pending if key in began}
        for key in self._held or ():
            if key in written:
                base[key] = written[key]
            elif key in deleted:
                base[key] = None
            else:
                base[key] = began[key] if key in began else self._raw.get(key)
        self._base = base or None
        self._deleted = pending or None
        self._raw = raw

    def take(self, key: str, value: Any, raw: Mapping[str, bytes]) -> None:
        """Go on from stored values of which `key` was just replaced by `value`; all else that is pending stays."""
        self.settle(raw, {}, frozenset({key}))
        if self._held:
            self._held.pop(key, None)
        for notes in (self._typed, self._base, self._lent):
            if notes:
                notes.pop(key, None)

    def all_encoded(self) -> dict[str, bytes]:
        """Give every value encoded, changes included. Raises TypeError."""
        changed, deleted = self.difference()
        kept = {key: data for key, data in self._raw.items() if key not in deleted}
        kept.update(changed)
        return kept


def _dump_model(value: Any) -> Any:
    return value.model_dump(mode="json")


def _to_builtins(value: Any) -> Any:
    return _with_lists(msgspec.to_builtins(value, builtin_types=(bytes, dt.datetime), str_keys=True))


def _with_lists(value: Any) -> Any:
    if type(value) is dict:
        return {key: _with_lists(item) for key, item in cast("dict[Any, Any]", value).items()}
    if type(value) in (list, tuple):
        return [_with_lists(item) for item in cast("list[Any]", value)]
    return value


class Key(Generic[T]):
    """A typed key: `CART = Key("cart", list[str], default=list)`, then `CART.get(session)`.

    `type` is anything that msgspec converts (builtins, dataclasses, msgspec structs, TypedDicts, enums, UUID, date,
    …) or a pydantic model. What `get` returns may be changed in place: the change is noticed. `default` is called
    when the key is absent; without it `get` raises KeyError. A default that nobody changes is not stored. Stored data
    that does not fit the type raises TypeError.
    """

    __slots__ = ("_convert", "_default", "_plain", "name")

    def __init__(self, name: str, type: type[T], *, default: Callable[[], T] | None = None) -> None:
        self.name: str = name
        self._default = default
        validate = cast("Callable[[Any], T] | None", getattr(type, "model_validate", None))
        if validate is not None:
            self._convert: Callable[[Any], T] = validate
            self._plain: Callable[[Any], Any] = _dump_model
        else:
            self._convert = lambda value: msgspec.convert(
                value, type, builtin_types=(bytes, dt.datetime), str_keys=True
            )
            self._plain = _to_builtins

    def __repr__(self) -> str:
        return f"Key({self.name!r})"

    def get(self, session: SessionValues) -> T:
        """Give the value, or the default; KeyError without one."""
        return session.typed(self.name, self, self._default)

    def set(self, session: SessionValues, value: T) -> None:
        """Store a value of the key's type. Raises TypeError for what would not come back the same."""
        session.set_typed(self.name, self, value)

    def delete(self, session: SessionValues) -> None:
        """Delete the key; absent is fine."""
        session.pop(self.name, None)

    def fallback(self) -> T | None:
        """Give a fresh default, or None where the key has none."""
        return None if self._default is None else self._default()

    def plain(self, value: Any) -> Any:
        """Give a value of the key's type as the data that is stored. Raises TypeError where it does not fit."""
        try:
            return self._plain(value)
        except (TypeError, AttributeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
            raise TypeError(
                f"session[{self.name!r}] is a {type(value).__qualname__}, which does not fit its Key: {error}"
            ) from error

    def parse(self, value: Any) -> T:
        """Give stored data as a value of the key's type. Raises TypeError where it does not fit."""
        try:
            return self._convert(value)
        except (msgspec.MsgspecError, ValueError) as error:
            raise TypeError(f"session[{self.name!r}] does not fit its Key: {error}") from error
