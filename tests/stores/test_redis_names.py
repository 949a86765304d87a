"""URLs, names of keys and stored forms of the Redis store: what is pure about it."""

import logging
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coatcheck.errors import UsageError
from coatcheck.record import Tombstone
from coatcheck.stores import open_store
from coatcheck.stores._redis_checks import _check_version
from coatcheck.stores._redis_copies import Copies
from coatcheck.stores._redis_keys import Keys, change_of, written_note
from coatcheck.stores._redis_shards import Shards
from coatcheck.stores._redis_url import SCHEMES, Options, parse_url
from coatcheck.stores._redis_values import Epoch, pack_record, unpack, version_of
from coatcheck.stores.contract import Change
from coatcheck.stores.redis import RedisStore
from tests.stores.redis_nodes import record


@pytest.mark.parametrize(
    ("url", "shown", "given"),
    [
        ("redis://host", "redis://host:6379", {}),
        ("valkeys://u:p%40w@host:1/3?timeout=2.5", "rediss://host:1/3", {"timeout": 2.5}),
        ("rediss+sentinel://u:p@a,b:7/svc/2?prefix=x", "rediss+sentinel://a:26379,b:7/svc", {"prefix": "x"}),
        ("valkey+cluster://[::1]:7000,b", "redis+cluster://[::1]:7000,b:6379", {}),
        ("redis://:pw@host?tls_check_hostname=false&connections=3", "redis://host:6379", {"tls_check_hostname": False, "connections": 3}),
    ],
)  # fmt: skip
def test_a_url_says_where_and_how(url: str, shown: str, given: dict[str, object]) -> None:
    place, options = parse_url(url)
    assert (str(place), options) == (shown, given)
    store = open_store(url)
    assert isinstance(store, RedisStore)
    assert repr(store).startswith(f"<RedisStore {shown} prefix=")


def test_credentials_are_read_and_never_shown() -> None:
    place, options = parse_url("redis+sentinel://me:s%3Ae%2Fc%23ret@host/main?sentinel_password=other%26secret")
    assert (place.username, place.password) == ("me", "s:e/c#ret")
    assert options == {"sentinel_password": "other&secret"}
    store = RedisStore("redis+sentinel://me:s%3Ae@host/main?sentinel_password=other")
    for shown in (repr(place), str(place), repr(store), repr(Options(sentinel_password="other"))):
        assert not any(secret in shown for secret in ("s:e", "other", "me:"))


@pytest.mark.parametrize(
    ("url", "mend"),
    [
        ("redis://", "write redis://user:password@host"),
        ("redis://me:hunter2/x@host/0", "percent-encode"),
        ("redis://me:hunter2@host:port", "percent-encode"),
        ("redis://me:hunter2@", "percent-encode"),
        ("redis://me:hunt#er2@host", "%23"),
        ("redis://me:hunt?er2=1@host", "no option|percent-encode"),
        ("redis://me:hunter2@host?speed=1", "there are prefix, timeout"),
        ("redis://me:hunter2@host?timeout=hunter2", "sets timeout to what is no value"),
        ("redis://me:hunter2@host/first", "database's number"),
        ("redis://me:hunter2@a,b", r"redis\+cluster://"),
        ("redis+cluster://me:hunter2@host/1", "one database"),
        ("redis+sentinel://me:hunter2@host", "no service"),
        ("redis+sentinel://me:hunter2@host/main/x", "database's number"),
        ("redis+unknown://me:hunter2@host", "no URL of a Redis store"),
        ("redis:/me:hunter2@host", "no store's URL"),
        ("rediss.me:hunter2@host", "no store's URL"),
        ("etcd://me:hunter2@host", "no store is called 'etcd'"),
    ],
)
def test_a_url_that_is_wrong_names_the_mend_and_nothing_secret(url: str, mend: str) -> None:
    with pytest.raises(UsageError, match=mend) as refused:
        open_store(url)
    assert "hunt" not in str(refused.value)
    assert "er2" not in str(refused.value)


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": 0.0},
        {"connect_timeout": -1.0},
        {"wait_timeout": 601.0},
        {"connections": 0},
        {"wait_replicas": -1},
        {"durability": "perhaps"},
        {"prefix": ""},
        {"prefix": "a{b"},
        {"prefix": "a b"},
        {"prefix": "a\n"},
        {"tls_cert": "cert.pem"},
        {"timeout": "soon"},
    ],
)
def test_options_that_cannot_be_meant_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        RedisStore("redis://host", **options)


def test_every_scheme_has_its_store() -> None:
    for scheme in SCHEMES:
        rest = "host/service" if "sentinel" in scheme else "host"
        assert isinstance(open_store(f"{scheme}://{rest}"), RedisStore)


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=30), st.text(max_size=30), st.integers(1, 2**40), st.integers(1, 2**40))
def test_whatever_ids_users_and_reasons_are_their_keys_say_them(
    one: str, reason: str, version: int, generation: int
) -> None:
    if any(0xD800 <= ord(character) < 0xE000 for character in one + reason):
        with pytest.raises(UnicodeEncodeError):
            Keys("p").user(one + reason)
        return
    keys = Keys("p")
    for key, about in ((keys.record(one), "session"), (keys.user(one), "user")):
        assert key.count("{") == key.count("}") == 1
        assert keys.read(key.encode()) == (about, one, "", "")
    note = keys.read(f"{keys.record(one)}:{written_note(version, generation)}".encode())
    assert change_of(note) == Change("changed", one, version, generation)
    assert keys.read(f"{keys.user(one)}:u".encode()) == ("user", one, "u", "")


def test_keys_that_are_not_ours_say_nothing() -> None:
    keys = Keys("p")
    for name in (b"", b"p:session:", b"p:session:x", b"\xff\xfe", b"q:session:{1}:x"):
        assert keys.read(name).about == ""
    assert keys.read(b"p:session:{1}:\xff").about == "session"
    assert sorted(keys.tracked("node")) == list(keys.tracked("node")), "Redis tells prefix by prefix, in this order"


def test_stored_forms_are_read_back() -> None:
    made = record(generation=7, version=9, values={"k": b":\x00"}, replaced=((b"old", 1.0),))
    value = pack_record(made)
    assert value.startswith(b"r:9:7:")
    assert unpack(value, id=made.id, last_seen_at=made.last_seen_at) == made
    assert version_of(value[:40]) == 9
    for head in (b"", b"t:1.0:x:", b"rubbish", b"r:x:1:", b"r:1"):
        assert version_of(head) == 0
    by_hand = value.replace(b"r:9:7:", b"r:9:8:")
    changed = unpack(by_hand, id=made.id, last_seen_at=0.0)
    assert not isinstance(changed, Tombstone)
    assert changed.generation == 8, "what scripts look at counts"
    assert Epoch.read(b"5 3 id with spaces") == Epoch("5 3 id with spaces", 5, 3, "id with spaces")
    assert Epoch.read(b"5") == Epoch("5", 5)
    for rubbish in (None, b"", b"x", b"5 x y", b"-1"):
        assert Epoch.read(rubbish) is None


def test_releases_that_are_too_old_are_refused_with_a_sentence() -> None:
    address = ("host", 6379)
    for facts, said in (
        ({"redis_version": "6.2.14"}, "host:6379 runs Redis 6.2.14, and the session store needs Redis 7.0 or later"),
        ({"redis_version": "7.2.4", "valkey_version": "7.2.6", "server_name": "valkey"}, "Valkey 7.2.6"),
        ({"redis_version": "7.2.4", "server_name": "valkey"}, "Valkey 0"),
    ):
        with pytest.raises(UsageError, match=said):
            _check_version(facts, address)
    _check_version({"redis_version": "7.0.15"}, address)
    _check_version({"redis_version": "8.2.1"}, address)
    _check_version({"redis_version": "7.2.4", "valkey_version": "8.1.0", "server_name": "valkey"}, address)


def test_a_clusters_view_is_read_with_its_odd_corners() -> None:
    def node(role: bytes, health: bytes, port: int, **more: bytes | int) -> list[object]:
        fields: dict[str, object] = {
            "id": b"x",
            "port": port,
            "ip": b"10.0.0.1",
            "role": role,
            "health": health,
            **more,
        }
        return [part for name, value in fields.items() for part in (name.replace("_", "-").encode(), value)]

    reply = [
        [b"slots", [0, 99, 200, 16383], b"nodes", [node(b"master", b"fail", 1, endpoint=b"a"), node(b"replica", b"online", 2)]],
        [b"slots", [100, 199], b"nodes", [node(b"master", b"online", 3, endpoint=b"?", tls_port=33)]],
        [b"slots", [], b"nodes", [node(b"master", b"online", 4, endpoint=b"", ip=b"")]],
        [b"slots", [], b"nodes", [node(b"master", b"fail", 5, endpoint=b"e")]],
    ]  # fmt: skip
    view = Shards.read(reply, asked=("asked", 9), tls=False)
    assert dict(view.primaries) == {("a", 1): ((0, 99), (200, 16383)), ("10.0.0.1", 3): ((100, 199),), ("asked", 4): ()}
    assert [view.owner(slot) for slot in (0, 150, 16383)] == [("a", 1), ("10.0.0.1", 3), ("a", 1)]
    assert view.tag_for(("asked", 4)) is None
    assert view.tag_for(("a", 1)) == view.tag_for(("a", 1))
    assert ("10.0.0.1", 33) in Shards.read(reply, asked=("asked", 9), tls=True).primaries
    assert Shards({}).owner(5) is None


def shard(*masters: tuple[int, bytes], slots: tuple[int, ...] = (0, 16383)) -> list[Any]:
    """A shard as CLUSTER SHARDS tells of it: its primaries by port and health."""
    nodes = [
        [
            b"id",
            b"x",
            b"port",
            port,
            b"ip",
            b"10.0.0.1",
            b"endpoint",
            b"10.0.0.1",
            b"role",
            b"master",
            b"health",
            health,
        ]
        for port, health in masters
    ]
    return [b"slots", list(slots), b"nodes", nodes]


@pytest.mark.parametrize("masters", [((1, b"fail"), (2, b"online")), ((2, b"online"), (1, b"fail"))])
def test_of_two_with_the_same_slots_the_one_that_has_failed_has_none(masters: tuple[tuple[int, bytes], ...]) -> None:
    view = Shards.read([shard(*masters)], asked=("asked", 9), tls=False)
    assert list(view.primaries) == [("10.0.0.1", 2)]
    assert view.owner(77) == ("10.0.0.1", 2)
    alone = Shards.read([shard((1, b"fail"))], asked=("asked", 9), tls=False)
    assert list(alone.primaries) == [("10.0.0.1", 1)], "nobody has taken them over yet"


def test_of_two_that_claim_the_same_slots_one_has_them_and_the_search_for_a_tag_of_the_other_ends() -> None:
    view = Shards.read([shard((1, b"online"), (2, b"online"))], asked=("asked", 9), tls=False)
    owner = view.owner(77)
    assert owner in view.primaries
    (other,) = set(view.primaries) - {owner}
    assert view.tag_for(owner) is not None
    assert view.tag_for(other) is None


def test_only_copies_that_may_be_of_the_noted_version_are_doubted() -> None:
    copies = Copies()
    with copies.of("long"):
        with copies.of("asked"), copies.of("asked"):
            copies.noted("asked", 3)
        copies.noted("never asked", 1)
        copies.noted("long", 2)
        assert copies.take() == {"asked": 3, "long": 2}
        assert copies.take() == {}
        copies.noted("asked", 4)
        assert copies.take() == {}, "who asked before the last look but one has been told"
    copies.noted("long", 5)
    copies.gone("long")
    assert copies.take() == {}
    copies.noted("long", 6)
    assert copies.take() == {"long": 6}, "its answer may have come before the message of the same turn"


def test_nothing_is_logged_when_a_store_is_made(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        RedisStore("redis://me:hunter2@host")
    assert caplog.text == ""
