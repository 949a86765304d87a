"""Records: changes merge key by key, secrets change in one step, and the stored form outlives releases."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coatcheck.ids import encode
from coatcheck.record import (
    FORMAT,
    TOMBSTONE_SECONDS,
    Changes,
    Identity,
    SessionRecord,
    Tombstone,
    decode_record,
    encode_record,
    merge,
)

ID = encode(bytes(16))
NOW = 1_700_000_000.0

keys = st.sampled_from("abcdef")
values = st.dictionaries(keys, st.binary(max_size=4))
times = st.floats(min_value=0, max_value=4e9, allow_nan=False)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


def record(**fields: Any) -> SessionRecord:
    plain = SessionRecord(
        id=ID, secret_hash=b"h1", created_at=NOW, expires_at=NOW + 100, last_seen_at=NOW, values={"a": b"\x01"}
    )
    return msgspec.structs.replace(plain, **fields)


def identity(number: int = 2, **fields: Any) -> Identity:
    plain = Identity(secret_hash=b"h%d" % number, at=NOW, user_id="user", epoch=7, expires_at=NOW + 200)
    return msgspec.structs.replace(plain, **fields)


def changes_to(among: str) -> st.SearchStrategy[Changes]:
    these = st.sampled_from(among)
    return st.builds(
        Changes, set=st.dictionaries(these, st.binary(max_size=4)), delete=st.frozensets(these, max_size=3)
    )


# ---- merging


@settings(max_examples=150, deadline=None)
@given(values, changes_to("abc"), changes_to("def"))
def test_changes_to_different_keys_come_to_the_same_in_either_order(
    stored: dict[str, bytes], one: Changes, two: Changes
) -> None:
    start = record(values=stored)
    assert merge(merge(start, one), two) == merge(merge(start, two), one)


@settings(max_examples=150, deadline=None)
@given(values, changes_to("abc"))
def test_keys_that_a_change_does_not_name_stand_as_they_were(stored: dict[str, bytes], change: Changes) -> None:
    merged = merge(record(values=stored), change)
    for key in "def":
        assert merged.values.get(key) == stored.get(key)
    for key in "abc":
        expected = change.set.get(key, None if key in change.delete else stored.get(key))
        assert merged.values.get(key) == expected


@settings(max_examples=100, deadline=None)
@given(values, changes_to("abcdef"))
def test_a_change_made_twice_comes_to_the_same_as_once(stored: dict[str, bytes], change: Changes) -> None:
    once = merge(record(values=stored), change)
    twice = merge(once, change)
    assert twice.values == once.values
    assert twice.version == once.version + 1


@settings(max_examples=100, deadline=None)
@given(values, changes_to("abcdef"))
def test_merging_leaves_its_arguments_alone(stored: dict[str, bytes], change: Changes) -> None:
    start = record(values=stored)
    before = dict(stored)
    merge(start, change)
    assert start.values == before


def test_every_merge_raises_the_version_and_only_a_new_secret_the_generation() -> None:
    changed = merge(record(), Changes(set={"b": b"\x02"}))
    assert (changed.version, changed.generation) == (2, 1)
    rotated = merge(changed, Changes(identity=identity()))
    assert (rotated.version, rotated.generation) == (3, 2)


def test_values_alone_change_nothing_of_who_it_is() -> None:
    start = record(user_id="user", epoch=3, remember=True, about={"k": "v"}, system={"r": b"x"})
    merged = merge(start, Changes(set={"b": b"\x02"}, delete=frozenset("a")))
    assert merged == msgspec.structs.replace(start, values={"b": b"\x02"}, version=2)


def test_a_new_identity_takes_effect_as_a_whole_and_the_old_secret_is_known_as_replaced() -> None:
    merged = merge(record(), Changes(set={"b": b"\x02"}, identity=identity(authenticated_at=NOW, about={"agent": "x"})))
    assert merged == record(
        secret_hash=b"h2",
        generation=2,
        version=2,
        user_id="user",
        epoch=7,
        authenticated_at=NOW,
        expires_at=NOW + 200,
        about={"agent": "x"},
        values={"a": b"\x01", "b": b"\x02"},
        replaced=((b"h1", NOW),),
    )
    assert merged.created_at == NOW, "the session is the same one"


def test_another_users_values_are_gone_before_new_ones_are_set() -> None:
    change = Changes(set={"b": b"\x02"}, identity=identity(clear_values=True))
    assert merge(record(), change).values == {"b": b"\x02"}


def test_setting_wins_over_deleting_the_same_key() -> None:
    assert merge(record(), Changes(set={"a": b"\x09"}, delete=frozenset("a"))).values == {"a": b"\x09"}


def test_remember_and_system_change_only_where_the_change_names_them() -> None:
    start = record(remember=True, system={"r": b"x"})
    assert merge(start, Changes(set={"b": b""})).remember
    assert not merge(start, Changes(remember=False)).remember
    assert merge(start, Changes(system={})).system == {}
    assert merge(start, Changes(remember=False)).system == {"r": b"x"}


def test_secrets_that_were_replaced_are_forgotten_after_their_minute_and_at_most_eight_are_kept() -> None:
    current = record()
    for number in range(20):
        current = merge(current, Changes(identity=identity(number + 2, at=NOW + number)))
    assert [old for old, _ in current.replaced] == [b"h%d" % number for number in range(13, 21)]
    later = merge(current, Changes(identity=identity(99, at=NOW + 19 + TOMBSTONE_SECONDS)))
    assert later.replaced == ((b"h21", NOW + 19 + TOMBSTONE_SECONDS),)


def test_a_change_of_nothing_is_false_and_any_other_is_true() -> None:
    assert not Changes()
    for change in (
        Changes(set={"a": b""}),
        Changes(delete=frozenset("a")),
        Changes(identity=identity()),
        Changes(remember=False),
        Changes(system={}),
    ):
        assert change


@pytest.mark.parametrize(
    "thing", [record(), identity(), Changes(), Tombstone(id=ID, ended_at=NOW, reason="logout")], ids=type
)
def test_what_is_shared_between_requests_cannot_be_changed(thing: msgspec.Struct) -> None:
    with pytest.raises(AttributeError):
        setattr(thing, thing.__struct_fields__[0], None)


def test_the_defaults_that_all_records_share_cannot_be_changed() -> None:
    plain = SessionRecord(id=ID, secret_hash=b"", created_at=NOW, expires_at=NOW, last_seen_at=NOW)
    for shared in (plain.values, plain.system, plain.about, Changes().set):
        with pytest.raises(TypeError):
            shared["a"] = b""  # type: ignore[index]


# ---- the stored form


records = st.builds(
    SessionRecord,
    id=st.just(ID),
    secret_hash=st.binary(min_size=32, max_size=32),
    created_at=times,
    expires_at=times,
    last_seen_at=times,
    generation=st.integers(1, 2**31),
    version=st.integers(1, 2**31),
    user_id=st.none() | texts,
    epoch=st.integers(0, 2**62),
    authenticated_at=st.none() | times,
    remember=st.booleans(),
    values=st.dictionaries(texts, st.binary(max_size=20)),
    system=st.dictionaries(texts, st.binary(max_size=20)),
    about=st.dictionaries(texts, texts),
    replaced=st.lists(st.tuples(st.binary(max_size=32), times), max_size=8).map(tuple),
)


@settings(max_examples=150, deadline=None)
@given(records)
def test_a_record_comes_back_as_it_was_stored(kept: SessionRecord) -> None:
    data = encode_record(kept)
    assert decode_record(data, id=kept.id, version=kept.version, last_seen_at=kept.last_seen_at) == kept


def _stored(**fields: Any) -> bytes:
    plain = {"f": FORMAT, "h": b"hash", "c": NOW, "x": NOW, "g": 1}
    return msgspec.msgpack.encode({key: value for key, value in (plain | fields).items() if value is not ...})


def _decode(data: bytes) -> SessionRecord:
    return decode_record(data, id=ID, version=3, last_seen_at=NOW)


def test_the_stored_form_of_format_one_stays_readable() -> None:
    # Bytes as the first release wrote them. If this fails, sessions in stores are lost by an update.
    data = bytes.fromhex(
        "8da16601a168c4026831a163cb41d954fc40000000a178cb41d954fc59000000a16702a175a475736572a16507a161cb"
        "41d954fc40000000a172c3a17681a161c40101a17381a172c40178a16281a56167656e74a178a16f9192c4026830cb41d954fc40000000"
    )
    assert _decode(data) == record(
        version=3,
        generation=2,
        user_id="user",
        epoch=7,
        authenticated_at=NOW,
        remember=True,
        system={"r": b"x"},
        about={"agent": "x"},
        replaced=((b"h0", NOW),),
    )


def test_fields_that_a_later_release_adds_are_passed_over() -> None:
    found = _decode(_stored(z={"new": [1, 2, {"deep": None}]}, zz=b"more"))
    assert found == SessionRecord(
        id=ID, secret_hash=b"hash", created_at=NOW, expires_at=NOW, last_seen_at=NOW, version=3
    )


@pytest.mark.parametrize("newer", [FORMAT + 1, FORMAT + 100])
def test_a_format_too_new_is_refused_by_number_and_not_misread(newer: int) -> None:
    with pytest.raises(ValueError, match=f"{ID} has format {newer} and this release reads up to {FORMAT}"):
        _decode(_stored(f=newer))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        b"\xc1",
        b"not msgpack at all",
        b"\xff" * 100,
        msgspec.msgpack.encode([1, 2, 3]),
        msgspec.msgpack.encode({}),
        _stored(f=...),
        _stored(h=...),
        _stored(h="text"),
        _stored(c="soon"),
        _stored(x=None),
        _stored(g=1.5),
        _stored(v=[1]),
        _stored(v={"a": 1}),
        _stored(v={1: b"x"}),
        _stored(o=[[b"x"]]),
        _stored()[:-1],
        _stored() + b"\x00",
        _stored(u="abcd").replace(b"abcd", b"\xff\xfe\xfd\xfc"),
        _stored(z=b"1").removesuffix(b"\xc4\x011") + b"\x91" * 100_000 + b"\xc0",
        _stored(v=...).replace(b"\x85", b"\x86", 1) + b"\xa1v" + b"\xdf\xff\xff\xff\xff",
    ],
)
def test_garbage_is_an_error_that_names_the_session_and_never_a_record(data: bytes) -> None:
    with pytest.raises(ValueError, match=f"the stored session {ID} cannot be read"):
        _decode(data)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60), st.integers(0, 200), st.integers(0, 255))
def test_no_bytes_make_reading_fail_in_any_other_way(junk: bytes, place: int, byte: int) -> None:
    whole = bytearray(encode_record(record(user_id="user", about={"agent": "x"}, replaced=((b"h0", NOW),))))
    whole[place % len(whole)] = byte
    for data in (junk, bytes(whole), bytes(whole)[: place % len(whole)]):
        try:
            assert isinstance(_decode(data), SessionRecord)
        except ValueError as error:
            assert ID in str(error)


def test_nothing_that_a_store_keeps_beside_it_is_in_the_stored_form() -> None:
    data = encode_record(record(last_seen_at=1.5, version=9))
    assert ID.encode() not in data
    assert decode_record(data, id="other", version=1, last_seen_at=2.5).last_seen_at == 2.5


def test_texts_about_the_client_merge_text_by_text_and_an_empty_one_removes() -> None:
    kept = record(about={"address": "192.0.2.1", "name": "old"})
    assert Changes(about={"name": "phone"})
    merged = merge(kept, Changes(about={"name": "phone", "kind": "token"}))
    assert merged.about == {"address": "192.0.2.1", "name": "phone", "kind": "token"}
    assert merge(merged, Changes(about={"name": ""})).about == {"address": "192.0.2.1", "kind": "token"}
    assert merge(kept, Changes()).about == kept.about
