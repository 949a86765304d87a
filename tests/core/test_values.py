"""Session values: what comes back equal is kept, all else is refused by name; what changed is written, and nothing more."""

import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import math
import uuid
from collections import OrderedDict, UserDict, defaultdict, deque, namedtuple
from types import MappingProxyType, SimpleNamespace
from typing import Any

import msgspec
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coatcheck.values import Key, SessionValues, decode_value, encode_value

UTC = dt.UTC


def stored(**values: Any) -> dict[str, bytes]:
    return {key: encode_value(key, value) for key, value in values.items()}


def session(**values: Any) -> SessionValues:
    return SessionValues(MappingProxyType(stored(**values)))


def written(values: SessionValues) -> dict[str, Any]:
    """Gives what would be stored, decoded, and makes sure that nothing would be deleted."""
    changed, deleted = values.difference()
    assert not deleted
    return {key: decode_value(data) for key, data in changed.items()}


def save(values: SessionValues, others: dict[str, Any] | None = None, gone: set[str] | None = None) -> dict[str, Any]:
    """Does what a session does when it stores its changes, while others changed `others` and deleted `gone`."""
    before = dict(values._raw)
    changed, deleted = values.difference()
    for key in gone or ():
        before.pop(key, None)
    before.update(stored(**(others or {})))
    for key in deleted:
        before.pop(key, None)
    before.update(changed)
    values.settle(before, changed, deleted)
    return {key: decode_value(data) for key, data in before.items()}


# ---- what can be kept

zones = st.one_of(
    st.just(UTC), st.integers(-1439, 1439).map(lambda minutes: dt.timezone(dt.timedelta(minutes=minutes)))
)
# Beyond these years an instant has no UTC date any more.
moments = st.datetimes(dt.datetime(1, 1, 3), dt.datetime(9999, 12, 29), timezones=zones)  # noqa: DTZ001
plain_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False),
    plain_texts,
    st.binary(max_size=10),
    moments,
)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(plain_texts, inner, max_size=3),
    max_leaves=8,
)


def same(left: Any, right: Any) -> bool:
    if type(left) is not type(right) or left != right:
        return False
    if isinstance(left, list):
        return all(map(same, left, right))
    if isinstance(left, dict):
        return all(same(item, right[key]) for key, item in left.items())
    return True


@settings(max_examples=250, deadline=None)
@given(anything)
def test_a_value_comes_back_equal_and_of_the_same_type(value: Any) -> None:
    assert same(decode_value(encode_value("k", value)), value)


@settings(max_examples=150, deadline=None)
@given(anything)
def test_reading_a_value_is_no_change_and_neither_is_assigning_what_was_read(value: Any) -> None:
    values = session(k=value)
    read = values["k"]
    assert values.difference() == ({}, frozenset())
    values["k"] = read
    assert values.difference() == ({}, frozenset())
    values["k"] = value
    assert values.difference() == ({}, frozenset())


@settings(max_examples=200, deadline=None)
@given(anything, anything)
def test_a_value_is_written_exactly_if_it_is_another_one(before: Any, after: Any) -> None:
    values = session(k=before)
    values["k"] = after
    expected = {} if same(before, after) else {"k": after}
    assert same(written(values), expected)


class Colour(enum.Enum):
    RED = "red"


class Number(enum.IntEnum):
    ONE = 1


class Word(enum.StrEnum):
    WORD = "word"


@dataclasses.dataclass
class Item:
    name: str
    count: int = 0


class Struct(msgspec.Struct):
    name: str


class Model(pydantic.BaseModel):
    name: str
    at: dt.datetime | None = None
    parts: list[int] = []


class Text(str):
    __slots__ = ()


class Mapping(dict[str, Any]):
    pass


class Many(list[Any]):
    pass


class Whole(int):
    pass


class Real(float):
    pass


class Bytes(bytes):
    pass


class Moment(dt.datetime):
    pass


Point = namedtuple("Point", "x y")

REFUSED: list[tuple[Any, str]] = [
    ((1, 2), "store list(value)"),
    (Point(1, 2), "store list(value)"),
    ({1, 2}, "store sorted(value) or list(value)"),
    (frozenset({1}), "store sorted(value) or list(value)"),
    (dt.datetime(2026, 1, 1), "give it a time zone, as datetime.now(timezone.utc)"),  # noqa: DTZ001
    (Moment(2026, 1, 1, tzinfo=UTC), "store datetime.fromisoformat(value.isoformat())"),
    (dt.date(2026, 1, 1), "store value.isoformat()"),
    (dt.time(12), "coatcheck.Key"),
    (dt.timedelta(1), "coatcheck.Key"),
    (uuid.UUID(int=1), "coatcheck.Key"),
    (decimal.Decimal("1.5"), "coatcheck.Key"),
    (fractions.Fraction(1, 2), "coatcheck.Key"),
    (1j, "coatcheck.Key"),
    (Colour.RED, "coatcheck.Key"),
    (Number.ONE, "coatcheck.Key"),
    (Word.WORD, "coatcheck.Key"),
    (Item("a"), "coatcheck.Key"),
    (Struct("a"), "coatcheck.Key"),
    (Model(name="a"), "coatcheck.Key"),
    (Text("a"), "store str(value)"),
    (Mapping(a=1), "coatcheck.Key"),
    (OrderedDict(a=1), "coatcheck.Key"),
    (defaultdict(int, a=1), "coatcheck.Key"),
    (UserDict(a=1), "coatcheck.Key"),
    (MappingProxyType({"a": 1}), "coatcheck.Key"),
    (Many([1]), "coatcheck.Key"),
    (deque([1]), "coatcheck.Key"),
    (range(3), "coatcheck.Key"),
    (Whole(1), "coatcheck.Key"),
    (Real(1), "coatcheck.Key"),
    (Bytes(b"a"), "coatcheck.Key"),
    (bytearray(b"a"), "coatcheck.Key"),
    (memoryview(b"a"), "coatcheck.Key"),
    (object(), "coatcheck.Key"),
    (SimpleNamespace(a=1), "coatcheck.Key"),
    (print, "coatcheck.Key"),
    (int, "coatcheck.Key"),
    ((each for each in ()), "coatcheck.Key"),
    (..., "coatcheck.Key"),
]
KINDS = [type(value).__qualname__ for value, _ in REFUSED]


@pytest.mark.parametrize(("value", "mend"), REFUSED, ids=KINDS)
def test_a_value_that_would_not_come_back_the_same_is_refused_with_key_type_and_mend(value: Any, mend: str) -> None:
    values = SessionValues()
    with pytest.raises(TypeError) as refused:
        values["the key"] = value
    message = str(refused.value)
    assert message.startswith(f"session['the key'] is a {type(value).__qualname__}, which would not come back the same")
    assert mend in message
    assert "\n" not in message
    assert "the key" not in values, "nothing was assigned"


@pytest.mark.parametrize(("value", "mend"), REFUSED, ids=KINDS)
def test_the_same_deep_inside_is_refused_with_its_place(value: Any, mend: str) -> None:
    values = SessionValues()
    with pytest.raises(TypeError) as refused:
        values["k"] = {"a": [0, {"b": value}]}
    assert str(refused.value).startswith(f"session['k']['a'][1]['b'] is a {type(value).__qualname__}, ")


@pytest.mark.parametrize(("value", "mend"), REFUSED, ids=KINDS)
def test_the_same_put_in_later_is_refused_when_it_would_be_stored(value: Any, mend: str) -> None:
    values = session(k=[])
    values["k"].append(value)
    with pytest.raises(TypeError, match=r"session\['k'\]\[0\] is a"):
        values.difference()


@pytest.mark.parametrize("name", [1, None, True, 1.5, b"a", ("a",), Text("a"), Word.WORD])
def test_a_dict_with_other_than_str_keys_is_refused(name: Any) -> None:
    with pytest.raises(TypeError, match="use str keys"):
        SessionValues()["k"] = {name: 1}


@pytest.mark.parametrize("name", [1, None, b"a", ("a",), Text("a"), Word.WORD])
def test_a_session_key_that_is_no_str_is_refused(name: Any) -> None:
    with pytest.raises(TypeError, match="session keys are str"):
        SessionValues()[name] = 1


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, 10**100])
def test_an_int_beyond_64_bits_is_refused_with_its_mend(value: int) -> None:
    with pytest.raises(TypeError, match=r"session\['k'\]\[0\] is an int of over 64 bits: store str\(value\)"):
        SessionValues()["k"] = [value]


def test_not_a_number_is_refused_and_infinity_is_not() -> None:
    with pytest.raises(TypeError, match=r"session\['k'\] is not a number and so is not equal to itself: store None"):
        SessionValues()["k"] = math.nan
    for value in (math.inf, -math.inf):
        assert decode_value(encode_value("k", value)) == value


@pytest.mark.parametrize("value", ["\ud800", ["\udfff"], {"a": "x\ud900y"}, {"\udc80": 1}])
def test_half_a_surrogate_pair_is_refused_when_it_would_be_stored(value: Any) -> None:
    values = SessionValues()
    values["k"] = value
    with pytest.raises(TypeError, match=r"session\['k'\] cannot be stored"):
        values.difference()


def test_half_a_surrogate_pair_in_a_session_key_is_refused_when_it_would_be_stored() -> None:
    values = SessionValues()
    values["\ud800"] = 1
    with pytest.raises(TypeError, match="cannot be stored"):
        values.difference()


def test_a_value_that_contains_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    ring: dict[str, Any] = {}
    ring["a"] = {"b": [ring]}
    for value in (loop, ring):
        with pytest.raises(TypeError, match=r"session\['k'\] is nested deeper than 64 levels, or contains itself"):
            SessionValues()["k"] = value


def test_nesting_is_bounded_so_that_reading_back_always_works() -> None:
    def nest(levels: int) -> list[Any]:
        value: list[Any] = []
        for _ in range(levels - 1):
            value = [value]
        return value

    assert decode_value(encode_value("k", nest(64))) == nest(64)
    for levels in (65, 100_000):
        value = nest(levels)
        with pytest.raises(TypeError, match="nested deeper than 64"):
            encode_value("k", value)
        while value:  # taken apart by hand: 100,000 levels are too many for the interpreter to free at once
            value = value.pop()


@pytest.mark.parametrize(
    "value",
    [
        dt.datetime.min.replace(tzinfo=dt.timezone(dt.timedelta(hours=14))),
        dt.datetime.max.replace(tzinfo=dt.timezone(dt.timedelta(hours=-14))),
    ],
)
def test_a_moment_that_has_no_date_in_utc_is_refused_and_not_stored_unreadable(value: dt.datetime) -> None:
    with pytest.raises(TypeError, match=r"session\['k'\]"):
        encode_value("k", value)


def test_a_moment_comes_back_in_utc_to_the_microsecond() -> None:
    value = dt.datetime(2026, 7, 1, 12, 30, 15, 123456, dt.timezone(dt.timedelta(hours=5, minutes=45)))
    back = decode_value(encode_value("k", value))
    assert back == value
    assert back.utcoffset() == dt.timedelta(0)


# ---- reading


def test_what_nobody_reads_is_never_decoded() -> None:
    values = SessionValues({"good": encode_value("good", 1), "bad": b"\xc1"})
    assert values["good"] == 1
    assert "bad" in values
    assert sorted(values) == ["bad", "good"]
    assert len(values) == 2
    assert repr(values) == "<SessionValues with keys ['bad', 'good']>"
    values["new"] = 2
    del values["good"]
    assert values.difference() == ({"new": encode_value("new", 2)}, {"good"})
    with pytest.raises(msgspec.DecodeError):
        values["bad"]


def test_an_untouched_mapping_has_no_difference_and_costs_no_look() -> None:
    values = session(a=1, b=[1])
    assert not values.touched()
    assert values["a"] == 1
    assert not values.touched(), "what cannot be changed in place is not held"
    assert values["b"] == [1]
    assert values.touched()
    assert values.difference() == ({}, frozenset())


def test_a_list_is_the_same_object_each_time_it_is_read() -> None:
    values = session(cart=[])
    assert values["cart"] is values["cart"]


def test_two_requests_never_share_an_object() -> None:
    raw = stored(cart=["a"])
    one, two = SessionValues(raw), SessionValues(raw)
    one["cart"].append("b")
    assert two["cart"] == ["a"]
    assert raw == stored(cart=["a"])


def test_the_stored_values_are_never_written_to() -> None:
    values = SessionValues(MappingProxyType(stored(a=1, b=[1])))
    values["a"] = 2
    values["b"].append(2)
    values["c"] = 3
    del values["b"]
    values.clear()
    values.update(a=5)
    assert written_and_deleted(values) == ({"a": 5}, {"b"})


def written_and_deleted(values: SessionValues) -> tuple[dict[str, Any], set[str]]:
    changed, deleted = values.difference()
    return {key: decode_value(data) for key, data in changed.items()}, set(deleted)


def test_looking_is_noticed_so_that_the_response_can_say_that_it_varies() -> None:
    for look in (
        lambda s: s.get("a"),
        lambda s: "a" in s,
        list,
        len,
        lambda s: s.pop("a", None),
        lambda s: s.clear(),
        lambda s: s.__setitem__("a", 1),
        lambda s: Key("a", int, default=int).get(s),
    ):
        values = session()
        assert not values.used
        look(values)
        assert values.used


def test_neither_repr_nor_str_shows_a_value() -> None:
    values = session(card="4111 1111")
    values["token"] = "hush"
    assert repr(values) == str(values) == "<SessionValues with keys ['card', 'token']>"


# ---- changing


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda s: s["list"].append(3), {"list": [1, 2, 3]}),
        (lambda s: s["list"].clear(), {"list": []}),
        (lambda s: s["dict"].update(b=2), {"dict": {"a": {"x": []}, "b": 2}}),
        (lambda s: s["dict"]["a"]["x"].append(1), {"dict": {"a": {"x": [1]}}}),
        (lambda s: s["list"].append(3) or s["list"].pop(), {}),
        (lambda s: s.setdefault("list", []).append(9), {"list": [1, 2, 9]}),
        (lambda s: s.setdefault("new", []).append(9), {"new": [9]}),
        (lambda s: s.update(list=[1, 2], n=2), {"n": 2}),
        (lambda s: s.update({"n": 1, "s": "y"}), {"s": "y"}),
    ],
)
def test_a_change_in_place_is_noticed_and_one_that_was_undone_is_none(change: Any, expected: dict[str, Any]) -> None:
    values = session(list=[1, 2], dict={"a": {"x": []}}, n=1, s="x")
    change(values)
    assert written(values) == expected


def test_an_equal_dict_in_another_order_is_not_written() -> None:
    values = session(d={"a": 1, "b": {"c": 2, "d": 3}})
    values["d"] = {"b": {"d": 3, "c": 2}, "a": 1}
    assert written(values) == {}


@pytest.mark.parametrize("wrap", [lambda v: v, lambda v: [v], lambda v: {"a": v}, lambda v: [{"a": [v]}]])
@pytest.mark.parametrize(
    ("before", "after"), [(1, True), (1, 1.0), (True, 1), (True, 1.0), (1.0, 1), (0, False), (0, None), ("a", b"a")]
)
def test_one_and_true_and_one_point_nought_are_three_values(wrap: Any, before: Any, after: Any) -> None:
    values = session(k=wrap(before))
    values["k"] = wrap(after)
    changed = written(values)
    assert same(changed, {"k": wrap(after)})


def test_a_key_that_was_deleted_is_gone_and_can_come_back() -> None:
    values = session(a=1, b=[1])
    del values["a"]
    assert "a" not in values
    assert values.get("a") is None
    assert list(values) == ["b"]
    with pytest.raises(KeyError, match="a"):
        values["a"]
    with pytest.raises(KeyError, match="a"):
        del values["a"]
    assert values.difference() == ({}, {"a"})
    values["a"] = 1
    assert values.difference() == ({}, frozenset()), "as it was stored"
    values["a"] = 2
    assert written(values) == {"a": 2}


def test_deleting_what_was_only_just_set_leaves_nothing_to_do() -> None:
    values = session()
    values["a"] = 1
    del values["a"]
    assert values.difference() == ({}, frozenset())
    assert list(values) == []


def test_deleting_what_is_not_there_is_a_key_error() -> None:
    values = session(a=1)
    with pytest.raises(KeyError):
        del values["b"]
    with pytest.raises(KeyError):
        values.pop("b")
    assert values.pop("b", 5) == 5
    assert values.difference() == ({}, frozenset())


def test_pop_gives_the_value_and_deletes_it() -> None:
    values = session(a=[1])
    values["b"] = 2
    assert (values.pop("a"), values.pop("b")) == ([1], 2)
    assert values.difference() == ({}, {"a"})
    assert values.difference() == ({}, {"a"}), "asking does not change the answer"


def test_popitem_empties_the_mapping() -> None:
    values = session(a=1, b=[2])
    assert dict([values.popitem(), values.popitem()]) == {"a": 1, "b": [2]}
    with pytest.raises(KeyError):
        values.popitem()
    assert values.difference() == ({}, {"a", "b"})


def test_clear_deletes_what_is_stored_and_drops_what_is_not() -> None:
    values = session(a=1, b=[2])
    values["b"].append(3)
    values["c"] = 4
    Key("d", list[int], default=list).get(values).append(1)
    values.clear()
    assert dict(values) == {}
    assert values.difference() == ({}, {"a", "b"})
    values["a"] = 1
    assert values.difference() == ({}, {"b"})
    empty = session()
    empty.clear()
    assert not empty.touched()


def test_it_compares_and_iterates_as_a_dict_does() -> None:
    values = session(a=1, b=[2])
    values["c"] = 3
    values["a"] = 4
    assert values == {"a": 4, "b": [2], "c": 3}
    assert list(values.items()) == [("a", 4), ("b", [2]), ("c", 3)]
    assert list(values.keys()) == ["a", "b", "c"]
    assert len(values) == 3
    for key in values:
        del values[key]
    assert len(values) == 0


def test_all_encoded_gives_every_value_with_its_changes() -> None:
    values = SessionValues({**stored(a=1, b=2, c=[3]), "d": b"\xc1"})
    values["a"] = 5
    del values["b"]
    values["c"].append(4)
    assert values.all_encoded() == {**stored(a=5, c=[3, 4]), "d": b"\xc1"}


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(st.sampled_from("abcd"), scalars, max_size=4),
    st.lists(
        st.one_of(
            st.tuples(st.just("set"), st.sampled_from("abcd"), scalars | st.lists(scalars, max_size=2)),
            st.tuples(st.sampled_from(["delete", "read", "append", "save", "clear"]), st.sampled_from("abcd"), scalars),
        ),
        max_size=12,
    ),
)
def test_whatever_is_done_to_it_it_is_a_dict_and_what_is_stored_is_that_dict(
    start: dict[str, Any], steps: list[tuple[str, str, Any]]
) -> None:
    values, model, kept = session(**start), dict(start), dict(start)
    for step, key, value in steps:
        if step == "set":
            values[key] = value
            # The model has a copy of its own.
            model[key] = decode_value(encode_value(key, value))
        elif step == "delete":
            assert (values.pop(key, ...) is ...) == (model.pop(key, ...) is ...)
        elif step == "read":
            assert values.get(key, ...) == model.get(key, ...)
        elif step == "append" and isinstance(model.get(key), list):
            values[key].append(value)
            model[key].append(value)
        elif step == "clear" and key == "a":
            values.clear()
            model.clear()
        elif step == "save":
            kept = save(values)
            assert same(kept, model)
            assert values.difference() == ({}, frozenset())
    assert same(dict(values), model)
    assert same(save(values), model)


# ---- going on after others changed something (P3)


def test_a_key_that_was_only_read_is_never_written_back_over_anothers_change() -> None:
    values = session(cart=["a"], other=1)
    assert values["cart"] == ["a"]
    values["other"] = 2
    assert save(values, others={"cart": ["b"]}) == {"cart": ["b"], "other": 2}
    assert values.difference() == ({}, frozenset())
    assert save(values, others={"cart": ["c"]}) == {"cart": ["c"], "other": 2}


def test_a_key_that_was_only_read_does_not_come_back_after_another_deleted_it() -> None:
    values = session(cart=["a"], other=1)
    assert values["cart"] == ["a"]
    values["other"] = 2
    assert save(values, gone={"cart"}) == {"other": 2}
    assert save(values, gone={"cart"}) == {"other": 2}


def test_an_object_that_was_read_before_a_save_is_still_watched_after_it() -> None:
    values = session(cart=["a"], other=1)
    cart = values["cart"]
    values["other"] = 2
    save(values)
    cart.append("b")
    assert values["cart"] is cart
    assert written(values) == {"cart": ["a", "b"]}
    save(values)
    cart.append("c")
    assert written(values) == {"cart": ["a", "b", "c"]}


def test_a_key_that_was_deleted_and_stored_as_deleted_can_be_set_to_what_it_was() -> None:
    values = session(cart=["a"], other=1)
    assert values["cart"] == ["a"]
    values["other"] = 2
    save(values)
    del values["cart"]
    assert save(values) == {"other": 2}
    values["cart"] = ["a"]
    assert save(values) == {"cart": ["a"], "other": 2}


def test_after_a_clear_that_was_stored_everything_can_be_set_to_what_it_was() -> None:
    values = session(cart=["a"], n=1)
    assert values["cart"] == ["a"]
    values["n"] = 2
    save(values)
    values.clear()
    assert save(values) == {}
    values["cart"] = ["a"]
    assert save(values) == {"cart": ["a"]}


def test_assigning_what_was_read_is_no_change_even_after_another_changed_it() -> None:
    values = session(cart=["a"], other=1)
    cart = values["cart"]
    values["other"] = 2
    save(values, others={"cart": ["b"]})
    values["cart"] = cart
    assert save(values, others={"cart": ["b"]}) == {"cart": ["b"], "other": 2}


def test_a_key_that_was_set_and_deleted_again_is_not_deleted_for_others() -> None:
    values = session(other=1)
    values["a"] = 1
    del values["a"]
    values["other"] = 2
    assert save(values, others={"a": "another's"}) == {"a": "another's", "other": 2}
    assert values["a"] == "another's"
    assert values.difference() == ({}, frozenset())


def test_what_is_still_pending_after_a_save_stays_pending() -> None:
    values = session(a=1)
    values["a"] = 2
    changed, deleted = values.difference()
    # While the store was writing, the request went on.
    values["a"] = 3
    values["b"] = 4
    values.settle({**values._raw, **changed}, changed, deleted)
    assert written(values) == {"a": 3, "b": 4}


def test_a_key_that_was_deleted_while_its_value_was_being_stored_is_deleted_next() -> None:
    values = session()
    values["a"] = 1
    changed, deleted = values.difference()
    del values["a"]
    values.settle(changed, changed, deleted)
    assert "a" not in values
    assert values.difference() == ({}, {"a"})


def test_a_key_that_was_set_while_its_deletion_was_being_stored_is_set_next() -> None:
    values = session(a=[1])
    del values["a"]
    changed, deleted = values.difference()
    values["a"] = [1]
    values.settle({}, changed, deleted)
    assert written(values) == {"a": [1]}


def test_after_a_rebase_only_what_is_stored_counts() -> None:
    values = session(a=[1], b=2)
    values["a"].append(2)
    del values["b"]
    values["c"] = 3
    CART.get(values).append("x")
    values.rebase(stored(a=[9]))
    assert dict(values) == {"a": [9]}
    assert not SessionValues.touched(session())
    assert values.difference() == ({}, frozenset())


def test_a_key_that_was_replaced_is_taken_and_all_else_stays_pending() -> None:
    values = session(n=1, cart=["a"], gone=1)
    assert values["cart"] == ["a"]
    values["pending"] = True
    values["n"] = 100
    del values["gone"]
    values.take("n", 2, stored(n=2, cart=["b"], gone=1))
    assert values["n"] == 2
    assert written_and_deleted(values) == ({"pending": True}, {"gone"})


def test_a_key_that_was_deleted_is_there_again_once_it_was_replaced() -> None:
    values = session(n=1)
    del values["n"]
    values.take("n", 2, stored(n=2))
    assert values["n"] == 2
    assert values.difference() == ({}, frozenset())


# ---- typed keys

CART = Key("cart", list[str], default=list)


def _name(value: Any) -> str:
    return str(value) if isinstance(value, type) else type(value).__qualname__


def kept(key: Key[Any], value: Any) -> Any:
    """Gives what a value is after it was stored under a key and read by another request."""
    values = SessionValues()
    key.set(values, value)
    changed, _ = values.difference()
    return key.get(SessionValues(changed))


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (int, 5),
        (float, 1.5),
        (str, "x"),
        (bytes, b"\x00\xff"),
        (list[str], ["a"]),
        (dict[str, int], {"a": 1}),
        (dict[int, str], {1: "a"}),
        (tuple[int, str], (1, "a")),
        (dict[str, tuple[int, ...]], {"a": (1, 2)}),
        (set[int], {1, 2}),
        (frozenset[str], frozenset({"a"})),
        (Item, Item("a", 2)),
        (list[Item], [Item("a"), Item("b", 3)]),
        (dict[str, Item], {"x": Item("a")}),
        (Struct, Struct("a")),
        (Model, Model(name="a", at=dt.datetime(2026, 1, 1, tzinfo=UTC), parts=[1])),
        (Colour, Colour.RED),
        (Number, Number.ONE),
        (uuid.UUID, uuid.UUID(int=5)),
        (decimal.Decimal, decimal.Decimal("1.50")),
        (dt.date, dt.date(2026, 1, 1)),
        (dt.time, dt.time(12, 30)),
        (dt.timedelta, dt.timedelta(seconds=90)),
        (dt.datetime, dt.datetime(2026, 1, 1, tzinfo=UTC)),
        (int | None, None),
    ],
    ids=_name,
)
def test_a_value_of_a_keys_type_comes_back_as_that_type(type_: Any, value: Any) -> None:
    back = kept(Key("k", type_), value)
    assert back == value
    assert type(back) is type(value)


def test_a_key_that_is_absent_gives_its_default_or_a_key_error() -> None:
    values = session()
    assert CART.get(values) == []
    with pytest.raises(KeyError, match="n"):
        Key("n", int).get(values)
    assert CART.fallback() == []
    assert Key("n", int).fallback() is None
    assert repr(CART) == "Key('cart')"


def test_a_default_that_nobody_changes_is_not_stored() -> None:
    values = session()
    assert CART.get(values) == []
    assert values.difference() == ({}, frozenset())
    assert "cart" not in values
    assert list(values) == []
    assert len(values) == 0


def test_a_default_that_was_changed_is_stored_and_is_a_value_from_then_on() -> None:
    values = session()
    CART.get(values).append("a")
    assert "cart" in values
    assert list(values) == ["cart"]
    assert values["cart"] == ["a"]
    assert written(values) == {"cart": ["a"]}
    CART.get(values).append("b")
    assert written(values) == {"cart": ["a", "b"]}
    values["cart"].append("c")
    assert written(values) == {"cart": ["a", "b", "c"]}


def test_a_default_that_was_changed_is_there_for_whoever_reads_without_the_key_too() -> None:
    key = Key("item", Item, default=lambda: Item("none"))
    values = session()
    key.get(values).count = 7
    assert values["item"] == {"name": "none", "count": 7}
    assert values["item"] == {"name": "none", "count": 7}
    values["item"] = {"name": "other", "count": 1}
    assert key.get(values) == Item("other", 1)
    assert written(values) == {"item": {"name": "other", "count": 1}}


def test_a_default_is_the_same_object_until_something_is_stored() -> None:
    values = session()
    first = CART.get(values)
    first.append("a")
    CART.get(values).append("b")
    first.append("c")
    assert written(values) == {"cart": ["a", "b", "c"]}


def test_a_default_of_a_type_of_its_own_is_stored_once_it_was_changed() -> None:
    key = Key("item", Item, default=lambda: Item("none"))
    values = session()
    item = key.get(values)
    assert values.difference() == ({}, frozenset())
    item.count = 5
    assert written(values) == {"item": {"name": "none", "count": 5}}
    assert key.get(values) is item


def test_a_default_is_dropped_when_the_key_is_set_or_deleted_otherwise() -> None:
    values = session()
    lent = CART.get(values)
    values["cart"] = ["set"]
    lent.append("late")
    assert written(values) == {"cart": ["set"]}
    values = session()
    CART.get(values).append("a")
    del values["cart"]
    assert values.difference() == ({}, frozenset())


@pytest.mark.parametrize("type_", [list[str], list[int]])
def test_what_get_returns_is_the_same_object_each_time_and_watched(type_: Any) -> None:
    key = Key("cart", type_)
    values = session(cart=[])
    first = key.get(values)
    second = key.get(values)
    first.append("a")
    second.append("b")
    assert written(values) == {"cart": ["a", "b"]}


def test_what_was_read_without_a_key_is_watched_after_it_was_read_with_one() -> None:
    values = session(cart=["a"])
    plain = values["cart"]
    assert CART.get(values) == ["a"]
    plain.append("b")
    assert written(values) == {"cart": ["a", "b"]}


def test_an_object_of_a_type_of_its_own_may_be_changed_in_place() -> None:
    key = Key("item", Item)
    values = session(item={"name": "a", "count": 1})
    item = key.get(values)
    assert values.difference() == ({}, frozenset())
    item.count += 1
    assert key.get(values) is item
    assert values["item"] == {"name": "a", "count": 2}
    assert written(values) == {"item": {"name": "a", "count": 2}}
    save(values)
    item.count += 1
    assert written(values) == {"item": {"name": "a", "count": 3}}


def test_a_pydantic_model_may_be_changed_in_place() -> None:
    key = Key("model", Model, default=lambda: Model(name="new"))
    values = session(model={"name": "a", "at": None, "parts": [1]})
    key.get(values).parts.append(2)
    assert written(values) == {"model": {"name": "a", "at": None, "parts": [1, 2]}}
    fresh = session()
    assert key.get(fresh).name == "new"
    assert fresh.difference() == ({}, frozenset())


def test_reading_data_that_an_older_release_stored_is_no_change() -> None:
    # The type has got a field since, or reads a number as another kind: only looking must not write.
    for key, old in (
        (Key("k", Item), {"name": "a"}),
        (Key("k", Model), {"name": "a"}),
        (Key("k", float), 1),
        (Key("k", list[float]), [1]),
        (Key("k", set[int]), [2, 1, 2]),
        (Key("k", dict[str, float]), {"a": 1}),
    ):
        values = session(k=old, other=1)
        key.get(values)
        assert values.difference() == ({}, frozenset()), key
        values["other"] = 2
        assert save(values, others={"k": None}) == {"k": None, "other": 2}
        assert values.difference() == ({}, frozenset()), key


def test_data_that_an_older_release_stored_is_written_whole_once_it_was_changed() -> None:
    values = session(k={"name": "a"})
    Key("k", Item).get(values).count = 7
    assert written(values) == {"k": {"name": "a", "count": 7}}


def test_a_change_that_was_pending_before_the_key_was_read_stays_pending() -> None:
    values = session(k={"name": "a", "count": 0})
    values["k"] = {"name": "b"}
    key = Key("k", Item)
    assert key.get(values) == Item("b", 0)
    changed, _ = values.difference()
    assert key.get(SessionValues(changed)) == Item("b", 0)


def test_setting_a_key_to_what_it_was_is_no_change() -> None:
    values = session(k={"name": "a", "count": 0})
    Key("k", Item).set(values, Item("a", 0))
    assert values.difference() == ({}, frozenset())


def test_deleting_a_key_that_is_absent_is_fine() -> None:
    values = session()
    CART.delete(values)
    values = session(cart=["a"])
    CART.delete(values)
    assert values.difference() == ({}, {"cart"})
    assert CART.get(values) == []


@pytest.mark.parametrize(
    ("type_", "data"),
    [(int, "x"), (list[str], [1]), (Item, {"count": 1}), (Colour, "blue"), (uuid.UUID, "no"), (Model, {"name": 1})],
    ids=_name,
)
def test_stored_data_that_does_not_fit_its_key_is_a_type_error_that_names_it(type_: Any, data: Any) -> None:
    values = session(k=data)
    with pytest.raises(TypeError, match=r"session\['k'\] does not fit its Key"):
        Key("k", type_).get(values)
    assert values["k"] == data
    assert values.difference() == ({}, frozenset())


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (int, "x"),
        (list[str], [1]),
        (list[str], None),
        (Item, {"count": 1}),
        (Item, Struct("a").__class__),
        (Model, {"name": "a"}),
        (Model, Item("a")),
        (int, object()),
        (dict[str, int], {1: object()}),
        (float, math.nan),
    ],
    ids=_name,
)
def test_a_value_that_does_not_fit_its_key_is_refused_when_it_is_set(type_: Any, value: Any) -> None:
    values = session()
    with pytest.raises(TypeError, match=r"session\['k'\]"):
        Key("k", type_).set(values, value)
    assert "k" not in values


def test_two_keys_of_one_name_see_each_others_values() -> None:
    values = session(k={"name": "a", "count": 1})
    Key("k", Item).get(values).count = 2
    assert Key("k", dict[str, Any]).get(values) == {"name": "a", "count": 2}
