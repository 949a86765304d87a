"""Services: their credentials, and who is not let in."""

import hmac
import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from coatcheck.accounts import Accounts, AccountsUnavailable, ServiceAccounts, ServiceRefused, UnknownService
from coatcheck.ids import SECRET_BYTES, encode, hash_secret, is_id

Make = Callable[..., Accounts]

URL = "https://orders.example.com"


async def test_a_service_is_let_in_by_its_id_and_secret_and_by_nothing_else(make_accounts: Make) -> None:
    async with make_accounts() as accounts:
        services = ServiceAccounts(accounts)
        orders, secret = await services.add("orders", [URL, "http://localhost:9000/a?b=c"])
        mail, other = await services.add("mail", [URL])
        assert await services.authenticate(orders.id, secret) == orders
        assert await services.authenticate(mail.id, other) == mail
        for service_id, given in (
            (orders.id, other),
            (mail.id, secret),
            (orders.id, ""),
            (orders.id, secret[:-1]),
            (orders.id, secret + "A"),
            (orders.id, secret.swapcase()),
            (orders.id, "\ud800"),
            ("orders", secret),
            ("", secret),
            ("-", secret),
            (orders.id.swapcase(), secret),
            (encode(bytes(16)), secret),
        ):
            assert await services.authenticate(service_id, given) is None, (service_id, given)


async def test_a_service_is_what_the_operator_said_of_it(make_accounts: Make) -> None:
    async with make_accounts() as accounts:
        services = ServiceAccounts(accounts)
        orders, _ = await services.add("orders", [URL, URL, "https://other.example.com/"])
        assert (orders.name, orders.audiences) == ("orders", (URL, "https://other.example.com/"))
        assert is_id(orders.id)
        assert orders.created_at > 1_700_000_000
        mail, _ = await services.add("mail", [URL])
        assert await services.list() == [mail, orders]


async def test_secrets_are_256_random_bits_of_which_only_the_sha_256_is_kept(make_accounts: Make, path: Path) -> None:
    async with make_accounts() as accounts:
        services = ServiceAccounts(accounts)
        secrets = {(await services.add(f"service-{number}", [URL]))[1] for number in range(8)}
    assert len(secrets) == 8
    assert {len(secret) for secret in secrets} == {len(encode(bytes(SECRET_BYTES)))}
    connection = sqlite3.connect(path)
    kept = {row[0] for row in connection.execute("SELECT secret_hash FROM coatcheck_services")}
    connection.close()
    assert kept == {encode(hash_secret(secret.encode())) for secret in secrets}
    everything = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert not [secret for secret in secrets if secret.encode() in everything]


async def test_a_wrong_id_takes_the_steps_of_a_wrong_secret(
    make_accounts: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with make_accounts() as accounts:
        services = ServiceAccounts(accounts)
        orders, _ = await services.add("orders", [URL])
        steps: list[object] = []
        run, compare = accounts.database.run, hmac.compare_digest

        def comparing(stored: str, given: str) -> bool:
            steps.append((len(stored), len(given)))
            return compare(stored, given)

        async def running(work: object) -> object:
            steps.append("asked")
            return await run(work)  # type: ignore[arg-type]

        monkeypatch.setattr(hmac, "compare_digest", comparing)
        monkeypatch.setattr(accounts.database, "run", running)
        for service_id in (orders.id, encode(bytes(16)), "nonsense", ""):
            steps.clear()
            assert await services.authenticate(service_id, "x" * 43) is None
            assert steps == ["asked", (43, 43)], service_id


async def test_a_removed_service_is_let_in_nowhere(make_accounts: Make) -> None:
    async with make_accounts() as here, make_accounts() as there:
        orders, secret = await ServiceAccounts(here).add("orders", [URL])
        assert await ServiceAccounts(there).authenticate(orders.id, secret) == orders
        await ServiceAccounts(here).remove("orders")
        assert await ServiceAccounts(there).authenticate(orders.id, secret) is None
        assert await ServiceAccounts(there).list() == []
        again, fresh = await ServiceAccounts(there).add("orders", [URL])
        assert again.id != orders.id
        assert await ServiceAccounts(here).authenticate(again.id, fresh) == again
        for service_id, given in ((orders.id, secret), (again.id, secret), (orders.id, fresh)):
            assert await ServiceAccounts(here).authenticate(service_id, given) is None
        with pytest.raises(UnknownService):
            await ServiceAccounts(here).remove("nobody")


@pytest.mark.parametrize(
    "name", ["", "a b", "Orders", "-orders", ".orders", "ørders", "a" * 65, "a\n", "a:b", "\x1b[2J", "orders\u202e"]
)
async def test_a_name_that_cannot_be_is_one_sentence(make_accounts: Make, name: str) -> None:
    async with make_accounts() as accounts:
        with pytest.raises(ServiceRefused, match="small letters of ASCII"):
            await ServiceAccounts(accounts).add(name, [URL])


@pytest.mark.parametrize(
    "audience",
    [
        "", "orders", "orders.example.com", "ftp://orders.example.com", "https://", "https:///path", "//orders",
        "https://ada:secret@orders", "https://orders#part", "https://orders/ x", "https://orders/\n", "https://ørders",
        "https://orders:port", "https://[::1", "https://" + "x" * 300,
    ],
)  # fmt: skip
async def test_what_is_no_url_is_no_audience(make_accounts: Make, audience: str) -> None:
    async with make_accounts() as accounts:
        with pytest.raises(ServiceRefused, match="is not an audience"):
            await ServiceAccounts(accounts).add("orders", [URL, audience])
        assert await ServiceAccounts(accounts).list() == []


async def test_a_service_has_an_audience_but_not_any_number_of_them(make_accounts: Make) -> None:
    async with make_accounts() as accounts:
        for audiences in ([], [f"{URL}/{number}" for number in range(17)]):
            with pytest.raises(ServiceRefused, match="one audience at least, and 16 at most"):
                await ServiceAccounts(accounts).add("orders", audiences)


async def test_a_name_that_is_taken_leaves_the_service_that_has_it(make_accounts: Make) -> None:
    async with make_accounts() as accounts:
        services = ServiceAccounts(accounts)
        orders, secret = await services.add("orders", [URL])
        with pytest.raises(ServiceRefused, match="There is a service orders already"):
            await services.add("orders", ["https://other.example.com"])
        assert await services.authenticate(orders.id, secret) == orders


async def test_ids_never_begin_with_a_hyphen(make_accounts: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter([b"\xfb" * 16, b"\xf8" * 16, b"\x00" * 16, b"\x01" * 32])
    async with make_accounts() as accounts:
        monkeypatch.setattr("coatcheck.accounts.services.secrets.token_bytes", lambda size: next(drawn))
        assert (await ServiceAccounts(accounts).add("orders", [URL]))[0].id == "A" * 22


async def test_no_log_and_no_repr_shows_a_secret_or_its_hash(
    make_accounts: Make, caplog: pytest.LogCaptureFixture, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coatcheck.accounts.database.BUSY_TIMEOUT", 0.01)
    caplog.set_level(logging.DEBUG)
    for name in ("sqlalchemy.engine", "aiosqlite"):
        caplog.set_level(logging.DEBUG, logger=name)
    async with make_accounts() as accounts:
        services = ServiceAccounts(accounts)
        orders, secret = await services.add("orders", [URL])
        await services.authenticate(orders.id, secret)
        writer = sqlite3.connect(path, isolation_level=None)
        writer.execute("BEGIN IMMEDIATE")
        with pytest.raises(AccountsUnavailable) as failure:
            await services.add("mail", [URL])
        writer.close()
        said = f"{orders!r} {services!r} {vars(services)!r} {failure.value!r}"
    assert any(record.name == "aiosqlite" for record in caplog.records)  # it was listened to
    said += "".join(f"{record.getMessage()} {record.args!r} {record.exc_text}" for record in caplog.records)
    assert secret not in said
    assert encode(hash_secret(secret.encode())) not in said
