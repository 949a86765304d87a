"""How often one may try: over HTTP, by account, by device and by address, and where the keys of the devices' cookies are."""

import asyncio
import base64
import os
import stat
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from coatcheck.accounts import PasswordHasher
from coatcheck.sealed import new_key
from coatcheck.server.app import create_app
from coatcheck.server.context import WorkerContext
from coatcheck.server.cookie_keys import cookie_keys
from coatcheck.server.errors import SettingsError, StartError
from coatcheck.server.settings import Settings, Throttling, load_settings
from tests.core.server.house import CHEAP, COOKIE, ORIGIN, PASSWORD, PLAIN_ORIGIN, House
from tests.core.server.test_logs import written  # noqa: F401  # a fixture: create_app sets up logging

WRONG = "incorrect horse"
DEVICE = "__Host-device"
TIGHT = {
    "account_attempts": 5,
    "account_period": 300,
    "device_attempts": 3,
    "device_period": 300,
    "address_attempts": 12,
    "address_period": 300,
    "registrations": 3,
    "registration_period": 300,
}


class Counting(PasswordHasher):
    verified = 0

    def _compare(self, encoded: str, password: bytes) -> None:
        self.verified += 1
        super()._compare(encoded, password)


def tight(path: Path, **more: Any) -> House:
    return House(path, throttling=TIGHT, **more)


def at(house: House, address: str, **options: Any) -> httpx.AsyncClient:
    """A client with an address of its own."""
    transport = httpx.ASGITransport(house.app, client=(address, 50000))
    return httpx.AsyncClient(transport=transport, base_url=ORIGIN, **options)


async def login(client: httpx.AsyncClient, username: str = "ada", password: str = PASSWORD) -> httpx.Response:
    return await client.post("/v1/login", json={"username": username, "password": password})


async def burn(client: httpx.AsyncClient, username: str = "ada") -> int:
    """Guess until it is refused; give how many guesses were looked at."""
    for number in range(1000):
        answer = await login(client, username, WRONG)
        if answer.status_code == 429:
            return number
        assert answer.status_code == 401
    raise AssertionError("nothing stops it")


def only_device(client: httpx.AsyncClient) -> dict[str, str]:
    """The headers of a browser that has lost its session but not its device cookie."""
    return {"cookie": f"{DEVICE}={client.cookies[DEVICE]}"}


async def test_after_too_many_wrong_passwords_the_answer_is_429_with_the_time_of_the_next_attempt(
    tmp_path: Path,
) -> None:
    async with tight(tmp_path) as house:
        await house.register("ada")
        client = house.client()
        assert await burn(client) == TIGHT["account_attempts"]
        answer = await login(client)
        assert answer.status_code == 429
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["retry-after"] == "60"
        assert answer.json() == {
            "title": "Too Many Requests",
            "status": 429,
            "detail": "Too many attempts. Try again in 60 seconds.",
        }
        assert "set-cookie" not in answer.headers
        house.clock.advance(59)
        assert (await login(client)).headers["retry-after"] == "1"
        house.clock.advance(1)
        assert (await login(client)).status_code == 200


async def test_a_refused_attempt_reaches_no_hasher_and_no_store(tmp_path: Path) -> None:
    hasher = Counting(CHEAP)
    async with tight(tmp_path, hasher=hasher) as house:
        await house.register("ada")
        await burn(house.client())
        house.store.calls.clear()
        hasher.verified = 0
        assert (await login(house.client())).status_code == 429
        assert (dict(house.store.calls), hasher.verified) == ({}, 0)


async def test_unknown_disabled_and_impossible_usernames_are_answered_as_known_ones_are(tmp_path: Path) -> None:
    async with tight(tmp_path) as house:
        await house.register("ada")
        await house.accounts.set_disabled(await house.register("bob"), True)
        answers = set()
        for number, username in enumerate(["ada", "bob", "nobody", "not a username"]):
            client = at(house, f"198.51.100.{number}")
            assert await burn(client, username) == TIGHT["account_attempts"]
            answer = await login(client, username)
            answers.add((answer.status_code, answer.content, tuple(answer.headers.items())))
        assert len(answers) == 1


async def test_a_right_password_weighs_nothing_however_often(tmp_path: Path) -> None:
    async with tight(tmp_path) as house:
        await house.register("ada")
        for _ in range(2 * TIGHT["address_attempts"]):
            assert (await login(house.client())).status_code == 200
        assert await burn(house.client()) == TIGHT["account_attempts"]


async def test_a_right_password_does_not_forgive_the_wrong_ones(tmp_path: Path) -> None:
    async with tight(tmp_path) as house:
        await house.register("ada")
        for _ in range(TIGHT["account_attempts"] - 1):
            assert (await login(house.client(), "ada", WRONG)).status_code == 401
        assert (await login(house.client())).status_code == 200
        assert await burn(house.client()) == 1


async def test_of_fifty_wrong_passwords_at_once_on_two_workers_as_many_as_are_allowed_are_looked_at(
    tmp_path: Path,
) -> None:
    hashers = [Counting(CHEAP, queue=100) for _ in range(2)]
    throttling = {"account_attempts": 10, "address_attempts": 1000}
    async with AsyncExitStack() as stack:
        houses = [
            await stack.enter_async_context(House(tmp_path, hasher=hasher, throttling=throttling)) for hasher in hashers
        ]
        await houses[0].register("ada")
        clients = [await stack.enter_async_context(house.client()) for house in houses]
        answers = await asyncio.gather(*(login(clients[number % 2], "ada", WRONG) for number in range(50)))
        statuses = [answer.status_code for answer in answers]
        assert (statuses.count(401), statuses.count(429)) == (10, 40)
        assert sum(hasher.verified for hasher in hashers) == 10


async def test_a_login_makes_the_device_known_by_a_cookie_that_gives_no_access(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        await house.register("ada")
        answer = await login(house.client())
        (line,) = [line for line in answer.headers.get_list("set-cookie") if line.startswith(f"{DEVICE}=")]
        assert line.split("; ")[1:] == ["Max-Age=31536000", "Path=/", "Secure", "HttpOnly", "SameSite=Lax"]
        thief = house.client(headers={"cookie": line.split(";")[0]})
        assert (await thief.get("/v1/me")).status_code == 401
        plain = await login(house.client(PLAIN_ORIGIN))
        (line,) = [line for line in plain.headers.get_list("set-cookie") if line.startswith("device=")]
        assert line.split("; ")[1:] == ["Max-Age=31536000", "Path=/", "HttpOnly", "SameSite=Lax"]


async def test_nothing_else_sets_the_devices_cookie_and_logging_out_leaves_it(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client = await house.log_in("ada")
        before = client.cookies[DEVICE]
        answers = [
            await client.get("/v1/me"),
            await login(client, "ada", WRONG),
            await client.post("/v1/reauthenticate", json={"password": PASSWORD}),
            await client.post("/v1/users", json={"username": "bob", "password": PASSWORD}),
            await client.post("/v1/logout"),
        ]
        assert not any(DEVICE in line for answer in answers for line in answer.headers.get_list("set-cookie"))
        assert client.cookies[DEVICE] == before


async def test_a_login_that_is_overtaken_by_log_out_everywhere_makes_no_device_known(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        client, other = house.client(), await house.log_in("ada")
        gate = house.store.hold("epoch", "after")
        pending = asyncio.create_task(login(client))
        await gate.arrived.wait()
        await other.delete("/v1/sessions")
        gate.release()
        answer = await pending
        assert answer.status_code == 401
        assert "set-cookie" not in answer.headers


async def test_the_owners_device_gets_in_while_the_account_and_the_address_are_burnt(tmp_path: Path) -> None:
    async with tight(tmp_path) as house:
        owner = await house.log_in("ada")
        await burn(house.client())
        number = 0
        while (await login(house.client(), f"user{number}", WRONG)).status_code != 429:
            number += 1
        assert (await login(house.client(), "anybody")).status_code == 429
        assert (await login(house.client())).status_code == 429
        at_home = house.client(headers=only_device(owner))
        assert (await login(at_home)).status_code == 200
        assert (await login(at_home, "ADA")).status_code == 200


async def test_a_stolen_device_cookie_gives_its_own_small_allowance_and_no_more(tmp_path: Path) -> None:
    async with tight(tmp_path) as house:
        owner, phone = await house.log_in("ada"), await house.log_in("ada")
        stolen = only_device(owner)
        assert await burn(house.client(headers=stolen)) == TIGHT["device_attempts"]
        assert (await login(at(house, "198.51.100.1", headers=stolen))).headers["retry-after"] == "100"
        # Neither the owner's other devices nor strange ones are any worse for it.
        assert (await login(house.client(headers=only_device(phone)))).status_code == 200
        assert await burn(house.client()) == TIGHT["account_attempts"]


async def test_after_the_next_login_a_copy_of_the_old_cookie_cannot_keep_the_device_out(tmp_path: Path) -> None:
    async with tight(tmp_path) as house:
        owner = await house.log_in("ada")
        stolen = only_device(owner)
        assert (await login(owner)).status_code == 200
        assert owner.cookies[DEVICE] != stolen["cookie"].partition("=")[2]
        await burn(house.client(headers=stolen))
        assert (await login(owner)).status_code == 200


async def test_a_device_is_known_to_one_account_over_one_scheme_with_its_seal_unbroken(tmp_path: Path) -> None:
    async with tight(tmp_path) as house:
        owner, eve = await house.log_in("ada"), await house.log_in("eve")
        plain = await house.log_in("ada", PLAIN_ORIGIN)
        await burn(house.client())
        good = owner.cookies[DEVICE]
        for cookie in (
            eve.cookies[DEVICE],
            plain.cookies["device"],
            good[:-2] + ("A" if good[-2] != "A" else "B") + good[-1],
            "nonsense",
            f"{good}; {DEVICE}={good}",
        ):
            client = house.client(headers={"cookie": f"{DEVICE}={cookie}"})
            assert (await login(client)).status_code == 429, cookie
        assert (await login(house.client(PLAIN_ORIGIN, headers={"cookie": f"device={good}"}))).status_code == 429
        house.clock.advance(365 * 86400)
        await burn(house.client())
        assert (await login(house.client(headers=only_device(owner)))).status_code == 429


@pytest.mark.parametrize(
    ("path", "form"),
    [
        ("/v1/reauthenticate", {"password": WRONG}),
        ("/v1/me/password", {"current_password": WRONG, "new_password": "another horse"}),
    ],
)
async def test_giving_the_password_again_is_throttled_as_logins_are(
    tmp_path: Path, path: str, form: dict[str, str]
) -> None:
    async with tight(tmp_path) as house:
        owner = await house.log_in("ada")
        right = {name: PASSWORD if value == WRONG else value for name, value in form.items()}
        # A stolen session, without the device's cookie, shares the account's allowance with all who are strange.
        thief = house.client(headers={"cookie": f"{COOKIE}={owner.cookies[COOKIE]}"})
        for _ in range(TIGHT["account_attempts"]):
            assert (await thief.post(path, json=form)).status_code == 403
        refused = await thief.post(path, json=right)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "60")
        assert (await login(house.client())).status_code == 429
        # The owner's own device does not, and has its own.
        for _ in range(TIGHT["device_attempts"]):
            assert (await owner.post(path, json=form)).status_code == 403
        assert (await owner.post(path, json=form)).headers["retry-after"] == "100"
        house.clock.advance(100)
        assert (await owner.post(path, json=right)).status_code == 200


async def test_a_password_that_is_refused_as_too_weak_was_no_wrong_guess(tmp_path: Path) -> None:
    async with tight(tmp_path) as house:
        owner = await house.log_in("ada")
        form = {"current_password": PASSWORD, "new_password": "short"}
        for _ in range(2 * TIGHT["device_attempts"]):
            assert (await owner.post("/v1/me/password", json=form)).status_code == 422


async def test_registrations_are_throttled_by_address(tmp_path: Path) -> None:
    async with tight(tmp_path) as house:
        client = house.client()

        async def register(name: str, password: str = PASSWORD, by: httpx.AsyncClient = client) -> httpx.Response:
            return await by.post("/v1/users", json={"username": name, "password": password})

        assert (await register("ada")).status_code == 201
        for _ in range(5):
            assert (await register("bob", "short")).status_code == 422
            assert (await register("bob bob")).status_code == 422
        assert (await register("ada")).status_code == 409
        assert (await register("bob")).status_code == 201
        refused = await register("cy")
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "100")
        assert refused.headers["content-type"] == "application/problem+json"
        assert (await register("cy", by=at(house, "198.51.100.1"))).status_code == 201
        assert (await login(client, "ada")).status_code == 200
        house.clock.advance(100)
        assert (await register("dee")).status_code == 201


async def test_closed_registration_is_403_however_often(tmp_path: Path) -> None:
    async with tight(tmp_path, registration="closed") as house, house.client() as client:
        for number in range(2 * TIGHT["registrations"]):
            form = {"username": f"user{number}", "password": PASSWORD}
            assert (await client.post("/v1/users", json=form)).status_code == 403


async def test_an_address_is_its_64_network_and_the_ipv4_address_in_an_ipv6_one(tmp_path: Path) -> None:
    async with tight(tmp_path) as house:
        for addresses, neighbour in (
            ([f"2001:db8::{number:x}" for number in range(1, 20)], "2001:db8:0:1::1"),
            (["192.0.2.50", "::ffff:192.0.2.50"] * 10, "192.0.2.51"),
        ):
            statuses = [
                (await login(at(house, address), f"user{number}{address[-1]}", WRONG)).status_code
                for number, address in enumerate(addresses)
            ]
            assert statuses.count(401) == TIGHT["address_attempts"]
            assert statuses[TIGHT["address_attempts"] :] == [429] * (len(addresses) - TIGHT["address_attempts"])
            assert (await login(at(house, neighbour), "somebody", WRONG)).status_code == 401


async def test_a_client_cannot_give_itself_another_address(tmp_path: Path) -> None:
    async with tight(tmp_path) as house:
        statuses = []
        for number in range(TIGHT["address_attempts"] + 1):
            names = ("x-forwarded-for", "x-real-ip", "x-coatcheck-client", "x_forwarded_for")
            forged = dict.fromkeys(names, f"203.0.113.{number}")
            statuses.append((await login(house.client(headers=forged), f"user{number}", WRONG)).status_code)
        assert statuses[-1] == 429


async def test_when_nobody_can_look_at_a_password_it_was_no_guess(tmp_path: Path) -> None:
    async with tight(tmp_path) as house:
        await house.register("ada")
        house.store.down = True
        for _ in range(2 * TIGHT["account_attempts"]):
            assert (await login(house.client(), "ada", WRONG)).status_code == 503
        house.store.down = False
        assert await burn(house.client()) == TIGHT["account_attempts"]


async def test_workers_share_what_was_counted_and_which_devices_they_know(tmp_path: Path) -> None:
    keys = [new_key()]
    async with tight(tmp_path, keys=keys) as one, tight(tmp_path, keys=keys) as other:
        owner = await one.log_in("ada")
        await burn(one.client())
        assert (await login(other.client())).status_code == 429
        assert (await login(other.client(headers=only_device(owner)))).status_code == 200


@pytest.mark.usefixtures("written")
def test_the_server_keeps_the_keys_in_its_data_directory_and_goes_on_with_them(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data", workers=2)
    create_app(settings, WorkerContext(runtime_dir=tmp_path))
    file = settings.cookie_keys_file()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    content = file.read_bytes()
    create_app(settings, WorkerContext(runtime_dir=tmp_path))
    assert file.read_bytes() == content
    file.write_bytes(content + content.splitlines()[-1])
    with pytest.raises(StartError, match=r"cookie\.keys: key 2 is given twice"):
        create_app(settings, WorkerContext(runtime_dir=tmp_path))


MAKE_KEYS = """
import sys
from pathlib import Path
from coatcheck.server.cookie_keys import cookie_keys
print("ready", flush=True)
sys.stdin.readline()
print([key.hex() for key in cookie_keys(Path(sys.argv[1]))])
"""


def test_workers_that_start_at_once_get_the_same_key(tmp_path: Path) -> None:
    file = tmp_path / "cookie.keys"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", MAKE_KEYS, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        outputs = {process.communicate(timeout=30)[0] for process in processes}
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert outputs == {f"{[cookie_keys(file)[0].hex()]}\n"}
    assert list(tmp_path.iterdir()) == [file]


def test_of_two_that_make_the_file_the_second_takes_what_the_first_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "cookie.keys"
    link, made = os.link, []

    def overtaken(source: str, target: Path) -> None:
        monkeypatch.setattr("os.link", link)
        made.extend(cookie_keys(file))
        link(source, target)

    monkeypatch.setattr("os.link", overtaken)
    assert cookie_keys(file) == made
    assert list(tmp_path.iterdir()) == [file]


def test_keys_are_read_in_order_in_both_spellings_of_base64(tmp_path: Path) -> None:
    file = tmp_path / "cookie.keys"
    keys = [new_key(), bytes(range(224, 256))]
    (first,) = cookie_keys(file)
    lines = [base64.b64encode(keys[0]), b"", base64.urlsafe_b64encode(keys[1]).rstrip(b"="), file.read_bytes()]
    file.write_bytes(b"\r\n".join(lines))
    assert cookie_keys(file) == [keys[0], keys[1], first]


@pytest.mark.parametrize("line", ["hunter2 hunter2", "AAAAA", "=", "päss"])
def test_a_line_that_is_no_key_is_named_and_not_shown(tmp_path: Path, line: str) -> None:
    file = tmp_path / "cookie.keys"
    cookie_keys(file)
    file.write_text(f"# mine\n{line}\n")
    with pytest.raises(StartError) as refusal:
        cookie_keys(file)
    assert str(refusal.value) == f"line 2 of {file} is no key in base64; make one with: openssl rand -base64 32"
    assert refusal.value.__context__ is None


def test_keys_that_others_may_read_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "cookie.keys"
    cookie_keys(file)
    file.chmod(0o640)
    with pytest.raises(StartError, match=r"others may read the keys in .*; chmod 600 it, and put a new key first"):
        cookie_keys(file)


def test_a_place_where_no_keys_can_be_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="cannot be used: No such file or directory"):
        cookie_keys(tmp_path / "nowhere" / "cookie.keys")
    with pytest.raises(StartError, match="cannot be used: Is a directory"):
        cookie_keys(tmp_path)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory, and nothing in the environment."""
    for name in [name for name in os.environ if name.startswith("COATCHECK_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_each_allowance_can_be_set_in_the_file_and_in_the_environment(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (elsewhere / "coatcheck.toml").write_text(
        'cookie_keys = "shared.keys"\n[throttling]\nregistrations = 7\naddress_attempts = 8\n'
    )
    monkeypatch.setenv("COATCHECK_THROTTLING__ADDRESS_ATTEMPTS", "9")
    settings = load_settings()
    assert settings.throttling == Throttling(registrations=7, address_attempts=9)
    assert settings.cookie_keys_file() == elsewhere / "shared.keys"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            "acount_attempts = 3",
            "throttling.acount_attempts: there is no such setting; did you mean 'account_attempts'?",
        ),
        ("account_attempts = 0", "throttling.account_attempts: Input should be greater than or equal to 1"),
        ("account_period = 0.5", "throttling.account_period: Input should be greater than or equal to 1"),
        ("registrations = 100001", "throttling.registrations: Input should be less than or equal to 100000"),
    ],
)
@pytest.mark.usefixtures("elsewhere")
def test_an_allowance_that_cannot_be_is_refused_in_one_line(line: str, words: str) -> None:
    Path("coatcheck.toml").write_text(f"[throttling]\n{line}\n")
    with pytest.raises(SettingsError) as refusal:
        load_settings()
    assert str(refusal.value) == f"coatcheck.toml: {words}"
