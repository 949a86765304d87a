"""docs/deploy.md, followed to the letter as far as one machine can: nginx in front, systemd's opinion, an installation."""

import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from coatcheck.server.certificates import local_certificate
from coatcheck.server.settings import load_settings
from tests.clients.serving import ROOT, RunningServer, free_port, start_server

DEPLOY = ROOT / "deploy"
ORIGIN = "https://login.example.com"


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    running = start_server(
        tmp_path_factory.mktemp("behind"), "--workers", "2", "--trusted-proxies", "1", "--public-origin", ORIGIN
    )
    yield running
    assert running.stop() == 0, running.said()


@pytest.fixture(scope="module")
def nginx(behind: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, ssl.SSLContext]]:
    """nginx as deploy/nginx.conf has it, but for ports and paths. The certificate is one that nobody checks."""
    directory = tmp_path_factory.mktemp("nginx")
    files = local_certificate(behind.data_dir)
    port = free_port()
    site = (DEPLOY / "nginx.conf").read_text()
    for old, new in (
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("127.0.0.1:8080", f"127.0.0.1:{behind.http_port}"),
        ("/etc/nginx/tls/fullchain.pem", str(files.certificate)),
        ("/etc/nginx/tls/privkey.pem", str(files.key)),
    ):
        assert site.count(old) == 1, f"deploy/nginx.conf no longer says {old!r}"
        site = site.replace(old, new)
    config = directory / "nginx.conf"
    user = "user root;" if os.geteuid() == 0 else ""
    config.write_text(
        f"{user} daemon off; master_process off; pid {directory}/pid; error_log stderr; events {{}}\n"
        f"http {{ access_log off; client_body_temp_path {directory}; proxy_temp_path {directory};\n"
        f"fastcgi_temp_path {directory}; uwsgi_temp_path {directory}; scgi_temp_path {directory};\n{site}}}"
    )
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    process = subprocess.Popen([program, "-p", str(directory), "-c", str(config)], stderr=subprocess.DEVNULL)
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        transport = httpx.HTTPTransport(retries=20, verify=context)
        with httpx.Client(transport=transport, headers={"host": "login.example.com"}) as client:
            assert client.get(f"https://127.0.0.1:{port}/readyz").status_code == 200
        yield port, context
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)


def client_of(nginx: tuple[int, ssl.SSLContext], **headers: str) -> httpx.Client:
    port, context = nginx
    return httpx.Client(
        verify=context, base_url=f"https://127.0.0.1:{port}", headers={"host": "login.example.com", **headers}
    )


def test_behind_nginx_a_login_has_the_strict_cookie_and_ends(nginx: tuple[int, ssl.SSLContext]) -> None:
    credentials = {"username": "ada", "password": "a long enough pass phrase"}
    with client_of(nginx) as client:
        assert client.post("/v1/users", json={**credentials, "name": "Ada"}).status_code == 201
        login = client.post("/v1/login", json=credentials)
        assert login.status_code == 200
        line = next(each for each in login.headers.get_list("set-cookie") if each.startswith("__Host-session="))
        assert "Secure" in line
        cookie = {"cookie": line.split(";")[0]}
        assert client.get("/v1/me", headers=cookie).json()["username"] == "ada"
        assert client.post("/v1/logout", headers=cookie).status_code == 204
        assert client.get("/v1/me", headers=cookie).status_code == 401


def test_behind_nginx_the_client_is_who_nginx_saw_and_not_who_it_says(nginx: tuple[int, ssl.SSLContext]) -> None:
    forged = {"x-forwarded-for": "203.0.113.9", "x-forwarded-proto": "http", "x-real-ip": "203.0.113.9"}
    with client_of(nginx, **forged) as client:
        facts = client.get("/v1/connection").json()
        assert facts["client_address"] == "127.0.0.1"
        assert facts["scheme"] == "https"


def test_behind_nginx_pages_of_other_sites_are_refused(nginx: tuple[int, ssl.SSLContext]) -> None:
    with client_of(nginx) as client:
        answers = [
            client.post("/v1/logout", headers={"origin": origin}).status_code
            for origin in (ORIGIN, "https://evil.example", "null")
        ]
    assert answers == [204, 403, 403]


def test_the_example_settings_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COATCHECK_CONFIG", str(DEPLOY / "coatcheck.toml"))
    settings = load_settings()
    assert settings.public_origins == (ORIGIN,)
    assert not settings.is_loopback()
    assert settings.store_url() == "sqlite:////var/lib/coatcheck/sessions.sqlite3"


def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    unit = (DEPLOY / "coatcheck.service").read_text()
    assert unit.count("/opt/coatcheck/bin/coatcheck") == 1
    path = tmp_path / "coatcheck.service"
    path.write_text(unit.replace("/opt/coatcheck/bin/coatcheck", sys.executable))
    done = subprocess.run(["systemd-analyze", "verify", str(path)], capture_output=True, text=True, check=False)
    # Other units of the machine may be found wanting; ours must not.
    ours = [line for line in (done.stdout + done.stderr).splitlines() if "coatcheck.service" in line]
    assert ours == []


def test_an_installation_as_in_the_container_file_has_the_command(tmp_path: Path) -> None:
    containerfile = (DEPLOY / "Containerfile").read_text()
    extra = re.search(r'pip install --no-cache-dir "/src\[(\w+)\]"', containerfile)
    assert extra is not None
    uv = [str(ROOT / "scripts" / "uv")]
    python = tmp_path / "venv"
    environment = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    subprocess.run([*uv, "venv", "--quiet", "--python", sys.executable, str(python)], check=True, env=environment)
    source = tmp_path / "src"
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, source / name)
    install = [*uv, "pip", "install", "--quiet", "--python", str(python / "bin" / "python"), f"{source}[{extra[1]}]"]
    subprocess.run(install, check=True, env=environment, timeout=300)
    command = python / "bin" / "coatcheck"
    shown = subprocess.run([command, "--version"], capture_output=True, text=True, check=True, env=environment)
    assert re.search(r"\d+\.\d+\.\d+", shown.stdout)
    helped = subprocess.run([command, "serve", "--help"], capture_output=True, text=True, check=True, env=environment)
    assert "--trusted-proxies" in helped.stdout


def test_every_option_that_the_page_names_is_there() -> None:
    page = (ROOT / "docs" / "deploy.md").read_text()
    told = subprocess.run(
        [sys.executable, "-c", "from coatcheck.cli import main; main()", "serve", "--help"],
        capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "200"},
    ).stdout  # fmt: skip
    for option in set(re.findall(r"(?<![\w-])--(?:metrics-port|trusted-proxies|public-origin|no-edge)\b", page)):
        assert option in told
    for name in ("drain_timeout", "keepalive_timeout"):
        assert name in type(load_settings().limits).model_fields
