"""Where settings come from, and what is said about those that cannot be."""

import os
from pathlib import Path

import pytest

from coatcheck.server.errors import SettingsError
from coatcheck.server.settings import Limits, load_settings, restore_settings


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory, and nothing in the environment."""
    for name in [name for name in os.environ if name.startswith("COATCHECK_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_defaults_are_for_this_machine_alone() -> None:
    settings = load_settings()
    assert settings.is_loopback()
    assert (settings.http_port, settings.https_port) == (8080, 8443)
    assert settings.workers >= 2
    assert settings.listen_addresses() == ("127.0.0.1",)


def test_the_command_line_wins_then_the_environment_then_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "coatcheck.toml").write_text(
        "http_port = 1\nhttps_port = 1001\nworkers = 5\n[limits]\nconnections = 77\n"
    )
    monkeypatch.setenv("COATCHECK_HTTP_PORT", "2")
    monkeypatch.setenv("COATCHECK_HTTPS_PORT", "1002")
    settings = load_settings(http_port=3, workers=None)
    assert (settings.http_port, settings.https_port, settings.workers) == (3, 1002, 5)
    assert settings.limits == Limits(connections=77)


def test_the_file_may_be_named_and_must_then_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COATCHECK_CONFIG", str(tmp_path / "mine.toml"))
    with pytest.raises(SettingsError, match=r"COATCHECK_CONFIG names .*mine\.toml, which is not a file"):
        load_settings()
    (tmp_path / "mine.toml").write_text("workers = 4")
    assert load_settings().workers == 4


def test_an_unknown_key_is_refused_and_the_nearest_known_one_named(tmp_path: Path) -> None:
    (tmp_path / "coatcheck.toml").write_text("htp_port = 1\n[limits]\nconection = 3\n")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert str(caught.value).splitlines() == [
        "coatcheck.toml: limits.conection: there is no such setting; did you mean 'connections'?",
        "coatcheck.toml: htp_port: there is no such setting; did you mean 'http_port'?",
    ]


def test_a_file_that_is_not_toml_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "coatcheck.toml").write_text("http_port = = 1")
    with pytest.raises(SettingsError, match=r"coatcheck\.toml cannot be read: .*line 1"):
        load_settings()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"http_port": 0}, "--http-port: "),
        ({"http_port": 8443}, "both 8443"),
        ({"workers": 0}, "--workers: "),
        ({"host": "example.com"}, "not an IP address"),
        ({"registration": "perhaps"}, "--registration: "),
        ({"tls_key": "key.pem"}, "belong together"),
        ({"public_origins": ["example.com"]}, "is not an origin"),
        ({"public_origins": ["https://example.com/login"]}, "has a path"),
        ({"public_origins": ["ftp://example.com"]}, "is not an origin"),
        ({"public_origins": ["https://example.com:99999"]}, "is not an origin"),
        ({"public_origins": ["https://*.example.com"]}, "is not an origin"),
        ({"public_origins": ["null"]}, "is not an origin"),
        ({"issuer": "login.example.com"}, "is not a URL"),
        ({"issuer": "https://login.example.com/"}, "is not an issuer"),
        ({"issuer": "https://login.example.com?a=b"}, "is not an issuer"),
        ({"audiences": ["orders"]}, "is not a URL"),
        ({"audiences": ["https://user@orders.example.com"]}, "is not a URL"),
        ({"audiences": ["https://orders.example.com/#x"]}, "is not a URL"),
        ({"audiences": ["https://[::1"]}, "is not a URL"),
        ({"audiences": ["https://localhost:8443"]}, "which is this server itself"),
        ({"access_token_lifetime": 9}, "--access-token-lifetime: "),
        ({"access_token_lifetime": 3601}, "--access-token-lifetime: "),
        ({"signing_algorithm": "RS256"}, "--signing-algorithm: "),
        ({"keys": "memory"}, "--keys: "),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(given: dict[str, object], words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(**given)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_bad_variable_is_named_as_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COATCHECK_WORKERS", "many")
    with pytest.raises(SettingsError, match=r"^COATCHECK_WORKERS: "):
        load_settings()


def test_without_the_edge_the_tls_port_is_nobodys() -> None:
    settings = load_settings(http_port=8443, edge=False)
    assert all(origin.startswith("http://") for origin in settings.effective_public_origins())


def test_tokens_name_the_server_by_what_is_set_or_its_first_public_origin_or_loopback() -> None:
    origins = ("https://a.example", "https://b.example")
    assert (
        load_settings(issuer="https://c.example/x", public_origins=origins).effective_issuer() == "https://c.example/x"
    )
    assert load_settings(public_origins=origins).effective_issuer() == "https://a.example"
    assert load_settings(https_port=9443).effective_issuer() == "https://localhost:9443"
    assert load_settings(http_port=9080, edge=False).effective_issuer() == "http://localhost:9080"


def test_audiences_are_kept_as_they_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COATCHECK_AUDIENCES", "https://A.example/x, http://b.example:80")
    assert load_settings().audiences == ("https://A.example/x", "http://b.example:80")


def test_loopback_origins_are_our_own_and_configured_ones_are_added() -> None:
    settings = load_settings(http_port=80, https_port=9443, public_origins=("https://A.example:443/",))
    assert settings.effective_public_origins() == (
        "https://localhost:9443",
        "https://127.0.0.1:9443",
        "https://[::1]:9443",
        "http://localhost",
        "http://127.0.0.1",
        "http://[::1]",
        "https://a.example",
    )


def test_beyond_loopback_only_configured_origins_are_ours() -> None:
    settings = load_settings(host="192.0.2.1", public_origins=("https://a.example",))
    assert settings.effective_public_origins() == ("https://a.example",)
    assert "https://localhost:8443" in load_settings(host="0.0.0.0").effective_public_origins()


def test_origins_in_the_environment_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COATCHECK_PUBLIC_ORIGINS", "https://a.example, https://b.example")
    assert load_settings().public_origins == ("https://a.example", "https://b.example")


def test_databases_are_two_files_in_the_data_directory_unless_told(tmp_path: Path) -> None:
    settings = load_settings(data_dir="data")
    assert settings.data_dir == tmp_path / "data"
    assert settings.store_url() == f"sqlite:///{tmp_path}/data/sessions.sqlite3"
    assert settings.accounts_url() == f"sqlite+aiosqlite:///{tmp_path}/data/accounts.sqlite3"
    assert load_settings(store="memory://").store_url() == "memory://"


def test_the_data_directory_follows_xdg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "/xdg")
    assert load_settings().data_dir == Path("/xdg/coatcheck")
    monkeypatch.setenv("XDG_DATA_HOME", "relative/is/to/be/ignored")
    assert load_settings().data_dir == Path.home() / ".local/share/coatcheck"


def test_localhost_means_both_loopback_addresses() -> None:
    assert load_settings(host="localhost").listen_addresses() == ("127.0.0.1", "::1")
    assert load_settings(host="::1").is_loopback()
    assert not load_settings(host="0.0.0.0").is_loopback()


def test_workers_get_exactly_the_supervisors_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings(http_port=3, public_origins=("https://a.example",), limits={"connections": 50})
    (tmp_path / "coatcheck.toml").write_text("nonsense = 1")
    monkeypatch.setenv("COATCHECK_WORKERS", "many")
    restored = restore_settings(settings.model_dump_json())
    assert restored.model_dump() == settings.model_dump()
