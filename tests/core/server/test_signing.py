"""Where the server's signing keys come from, the master secret of several machines, and upkeep that goes on."""

import asyncio
import base64
import hashlib
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from coatcheck.cli import app
from coatcheck.errors import UsageError
from coatcheck.sealed import new_key
from coatcheck.server import signing
from coatcheck.server.app import create_app
from coatcheck.server.context import WorkerContext
from coatcheck.server.errors import StartError
from coatcheck.server.settings import Settings
from coatcheck.server.signing import MASTER_SECRET, keep_maintained, master_secrets, open_key_ring
from coatcheck.tokens import KeyRing
from tests.core.server.test_logs import written  # noqa: F401  # a fixture: create_app sets up logging


def text(secret: bytes) -> str:
    return base64.b64encode(secret).decode()


RANDOM = hashlib.sha256(b"the same for each process that collects these tests").digest()
GOOD = text(RANDOM)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (None, f'keys = "database" needs the secret that seals them in {MASTER_SECRET}; '),
        (" ", f'keys = "database" needs the secret that seals them in {MASTER_SECRET}; '),
        ("not-base64!", f"{MASTER_SECRET} is not base64; "),
        ("short short", f"secret 1 in {MASTER_SECRET} is not base64; "),
        ("ünderstand", f"{MASTER_SECRET} is not base64; "),
        ("a", f"{MASTER_SECRET} is not base64; "),
        (text(RANDOM[:31]), f"{MASTER_SECRET} has 31 bytes, and 32 are needed; "),
        (text(b"correct horse battery staple, and more"), f"{MASTER_SECRET} is not random; "),
        (text(bytes(32)), f"{MASTER_SECRET} is not random; "),
        (text(bytes(range(32))), f"{MASTER_SECRET} is not random; "),
        (f"{GOOD} {text(bytes(64))}", f"secret 2 in {MASTER_SECRET} is not random; "),
    ],
)
def test_a_missing_or_weak_master_secret_keeps_the_server_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str | None, said: str
) -> None:
    if given is None:
        monkeypatch.delenv(MASTER_SECRET, raising=False)
    else:
        monkeypatch.setenv(MASTER_SECRET, given)
    with pytest.raises(StartError) as refused:
        open_key_ring(Settings(data_dir=tmp_path, keys="database"))
    assert str(refused.value) == said + "make one with: openssl rand -base64 32"
    assert list(tmp_path.iterdir()) == []


def test_secrets_are_read_in_either_alphabet_and_in_order() -> None:
    one, two = b"\xff\xfe" + new_key(), new_key()
    spelt = base64.urlsafe_b64encode(one).decode().rstrip("=")
    assert master_secrets({MASTER_SECRET: f"{spelt}\n {text(two)}"}) == [one, two]


@pytest.mark.usefixtures("written")
def test_an_application_without_its_master_secret_is_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(MASTER_SECRET, raising=False)
    with pytest.raises(StartError, match=MASTER_SECRET):
        create_app(Settings(data_dir=tmp_path, keys="database"), WorkerContext(runtime_dir=tmp_path))


def test_two_machines_with_one_database_and_secret_have_one_ring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(MASTER_SECRET, GOOD)
    monkeypatch.setenv("COATCHECK_KEYS", "database")
    url = f"sqlite:///{tmp_path}/shared.sqlite3"
    one, two = (
        open_key_ring(Settings(data_dir=tmp_path / name, accounts=url, keys="database")) for name in ("one", "two")
    )
    one.maintain()
    assert one.list() == two.list()
    result = CliRunner().invoke(app, ["keys", "rotate", "--accounts", url])
    assert result.exit_code == 0, result.stderr
    assert [key.kid for key, _ in one.list()] == [key.kid for key, _ in two.list()]
    listed = json.loads(CliRunner().invoke(app, ["keys", "list", "--json", "--accounts", url]).stdout)
    assert [key["kid"] for key in listed] == [key.kid for key, _ in one.list()]
    assert not (tmp_path / "one").exists()
    elsewhere = f"sqlite:///{tmp_path}/nowhere.sqlite3"
    refused = CliRunner().invoke(app, ["keys", "list", "--accounts", elsewhere])
    assert (refused.exit_code, refused.stderr.partition(";")[0]) == (
        1,
        f"coatcheck: there is no {tmp_path}/nowhere.sqlite3",
    )
    monkeypatch.setenv(MASTER_SECRET, text(new_key()))
    refused = CliRunner().invoke(app, ["keys", "list", "--accounts", url])
    assert refused.exit_code == 1
    assert "do not open under this master secret" in refused.stderr


async def test_upkeep_goes_on_after_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ring = open_key_ring(Settings(data_dir=tmp_path))
    failures: list[Exception] = [UsageError("the disk is full"), RuntimeError("nobody knows")]
    done = asyncio.Event()
    loop = asyncio.get_running_loop()

    def maintain(self: KeyRing) -> None:
        if failures:
            raise failures.pop(0)
        loop.call_soon_threadsafe(done.set)

    monkeypatch.setattr(KeyRing, "maintain", maintain)
    monkeypatch.setattr(signing, "_EVERY", 0.0)
    upkeep = asyncio.create_task(keep_maintained(ring))
    await asyncio.wait_for(done.wait(), 30)
    upkeep.cancel()
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
    assert "the disk is full" in caplog.text
    assert "nobody knows" in caplog.text
