"""`coatcheck keys` on the ring of a server that may be running."""

import json
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from coatcheck.cli import app
from coatcheck.ids import encode
from coatcheck.record import SessionRecord
from coatcheck.server.settings import LONGEST_ACCESS_TOKEN, Settings
from coatcheck.server.signing import open_access_tokens, open_key_ring
from coatcheck.tokens import AccessTokens, KeyState, TokenRefused
from coatcheck.tokens.key_file import KeyFile
from coatcheck.tokens.keys import JWKS_MAX_AGE, KeyRing, SigningKey

Run = Callable[..., Result]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)  # away from anybody's coatcheck.toml
    for name in ("COATCHECK_DATA_DIR", "COATCHECK_SIGNING_ALGORITHM"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "data").mkdir(mode=0o700)
    return tmp_path / "data"


@pytest.fixture
def run(data: Path) -> Run:
    def run(*arguments: str) -> Result:
        argv = ["keys", *arguments, "--data-dir", str(data)]
        return CliRunner().invoke(app, argv, env={"COLUMNS": "200"})

    return run


@pytest.fixture
def server(data: Path) -> AccessTokens:
    """What the server has open, with its first key."""
    tokens = open_access_tokens(Settings(data_dir=data))
    tokens.keys.maintain()
    return tokens


def record() -> SessionRecord:
    now = time.time()
    return SessionRecord(
        id=encode(bytes(16)),
        secret_hash=b"",
        created_at=now,
        expires_at=now + 3600,
        last_seen_at=now,
        user_id="user",
    )


def listed(run: Run) -> list[dict[str, Any]]:
    result = run("list", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    found: list[dict[str, Any]] = json.loads(result.stdout)
    return found


def assert_refused(result: Result, sentence: str) -> None:
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", f"coatcheck: {sentence}\n")


def test_the_list_says_what_each_key_does_and_never_shows_one(run: Run, server: AccessTokens, data: Path) -> None:
    server.keys.rotate()
    (first, _), (second, _) = server.keys.list()
    shown = run("list")
    assert shown.exit_code == 0
    head, *rows = shown.stdout.splitlines()
    assert head.split() == ["Key", "Algorithm", "State", "Signs", "from", "Signs", "until", "Verifies", "until"]
    assert [row.split()[:3] for row in rows] == [[first.kid, "ES256", "signing"], [second.kid, "ES256", "announced"]]
    assert [key["state"] for key in listed(run)] == ["signing", "announced"]
    for secret in (first.jwk["d"], second.jwk["d"]):
        assert secret not in shown.stdout + run("list", "--json").stdout
    assert stat.S_IMODE((data / "signing-keys.json").stat().st_mode) == 0o600


def test_a_rotated_key_is_announced_before_it_signs_and_the_old_one_verifies_on(run: Run, server: AccessTokens) -> None:
    before = server.issue(record())[0]
    ((old, _),) = server.keys.list()
    result = run("rotate")
    assert (result.exit_code, result.stderr) == (0, "")
    server.keys.look(at_once=True)
    (first, was), (second, is_) = server.keys.list()
    assert first.kid == old.kid
    assert (was, is_) == (KeyState.SIGNING, KeyState.ANNOUNCED)
    assert result.stdout.startswith(f"Announced {second.kid}. It signs from ")
    assert second.signs_from - second.created_at > JWKS_MAX_AGE
    assert first.retires_at == second.signs_from
    # However long tokens live by the server's settings, which this command need not know.
    assert (first.gone_at or 0) - second.signs_from >= LONGEST_ACCESS_TOKEN
    assert server.keys.signing()[0].kid == old.kid
    assert {key["kid"] for key in server.keys.jwks()["keys"]} == {first.kid, second.kid}
    for token in (before, server.issue(record())[0]):
        server.verify(token)


def test_the_new_keys_algorithm_may_be_chosen(run: Run, server: AccessTokens) -> None:
    assert run("rotate", "--algorithm", "Ed25519").exit_code == 0
    assert [key["alg"] for key in listed(run)] == ["ES256", "Ed25519"]
    assert run("rotate", "--algorithm", "HS256").exit_code == 2


def test_a_retired_key_is_over_at_once_and_another_signs(run: Run, server: AccessTokens) -> None:
    stolen = server.issue(record())[0]
    ((old, _),) = server.keys.list()
    result = run("retire", old.kid)
    said = f"Retired {old.kid}. Others who verify its tokens by the JWKS may do so for 5 minutes more.\n"
    assert (result.exit_code, result.stdout, result.stderr) == (0, said, "")
    server.keys.look(at_once=True)
    with pytest.raises(TokenRefused):
        server.verify(stolen)
    server.verify(server.issue(record())[0])
    assert [key["state"] for key in listed(run)] == ["gone", "signing"]


def test_a_key_that_begins_with_a_hyphen_can_be_retired(run: Run, data: Path) -> None:
    def made() -> SigningKey:
        ring = KeyRing()
        ring.maintain()
        return ring.list()[0][0]

    key = next(key for key in iter(made, None) if key.kid.startswith("-"))
    KeyFile(data / "signing-keys.json").update(lambda _: [key])
    assert run("retire", key.kid).exit_code == 0
    assert [key["state"] for key in listed(run)] == ["gone", "signing"]


def test_a_key_that_is_not_there_is_refused_by_name(run: Run, server: AccessTokens) -> None:
    for kid in ("nothing", "-x", "\x1b[2J"):
        shown = kid.replace("\x1b", "\\x1b")
        assert_refused(run("retire", kid), f"there is no key {shown}; `coatcheck keys list` names those that are there")
    assert [key["state"] for key in listed(run)] == ["signing"]


@pytest.mark.parametrize("arguments", [("list",), ("rotate",), ("retire", "x")])
def test_a_directory_without_keys_is_an_error_and_nothing_is_made(
    run: Run, data: Path, arguments: tuple[str, ...]
) -> None:
    path = data / "signing-keys.json"
    assert_refused(run(*arguments), f"there is no {path}; name the server's data directory with --data-dir")
    assert list(data.iterdir()) == []


@pytest.mark.parametrize("arguments", [("list",), ("rotate",), ("retire", "x")])
def test_a_ring_that_others_may_read_or_that_is_none_is_one_line(
    run: Run, server: AccessTokens, data: Path, arguments: tuple[str, ...]
) -> None:
    path = data / "signing-keys.json"
    path.chmod(0o640)
    assert_refused(run(*arguments), f"others may read the signing keys in {path}: chmod 600, and rotate them")
    path.chmod(0o600)
    path.write_text('{"canary":')
    assert_refused(run(*arguments), f"{path} holds no signing keys: restore it from a backup, or remove it")


def test_too_many_keys_are_refused(run: Run, server: AccessTokens, data: Path) -> None:
    while (result := run("rotate")).exit_code == 0:
        pass
    assert result.stderr.startswith("coatcheck: the ring has 16 keys already")
    assert len(KeyFile(data / "signing-keys.json").load()) == 16


def test_the_settings_choose_the_algorithm_of_the_first_key(data: Path) -> None:
    ring = open_key_ring(Settings(data_dir=data, signing_algorithm="Ed25519"))
    ring.maintain()
    assert [key.alg for key, _ in ring.list()] == ["Ed25519"]
