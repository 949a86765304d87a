"""The README's console sessions, run as they are written, give the output that is written there."""

import os
import re
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.clients.serving import ROOT, RunningServer, start_server

README = (ROOT / "README.md").read_text()


def session(title: str) -> list[tuple[str, str]]:
    """Every command of the section, with the output that the README shows under it."""
    section = README.split(f"## {title}\n")[1].split("\n## ")[0]
    steps: list[tuple[str, str]] = []
    for block in re.findall(r"```console\n(.*?)```", section, re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            steps.append((command, output))
    return steps


def comparable(text: str) -> str:
    """The text with ids, which differ from run to run, named by the order in which they appear."""
    for pattern, name in ((r'(?<="id":")[\w-]{22}(?=")', "id"), (r'(?<="connection_id":")[^"]+(?=")', "connection")):
        seen: list[str] = []
        for match in re.findall(pattern, text):
            if match not in seen:
                seen.append(match)
        for number, found in enumerate(seen):
            text = text.replace(found, f"{name} {number}")
    return text.strip()


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> RunningServer:
    """A server of its own: the README registers a user that must not be there yet, and counts requests."""
    running = start_server(tmp_path_factory.mktemp("readme"), "--workers", "2")
    yield running  # type: ignore[misc]
    assert running.stop() == 0, running.said()


def test_the_console_session_is_what_a_newcomer_sees(fresh: RunningServer, tmp_path: Path) -> None:
    steps = session("One login, every HTTP version")
    assert len(steps) >= 10
    run(steps, fresh, tmp_path)


def test_the_tokens_are_what_a_newcomer_sees(fresh: RunningServer, tmp_path: Path) -> None:
    with httpx.Client(base_url=fresh.https, verify=fresh.tls()) as client:
        # Where the session before has not run, its user is not there.
        form = {"username": "ada", "password": "a long enough pass phrase", "name": "Ada"}
        assert client.post("/v1/users", json=form).status_code in (201, 409)
    steps = session("A token that can be taken back")
    assert len(steps) >= 9
    run(steps, fresh, tmp_path)


def test_what_is_open_ends_as_a_newcomer_sees(fresh: RunningServer, tmp_path: Path) -> None:
    with httpx.Client(base_url=fresh.https, verify=fresh.tls()) as client:
        form = {"username": "ada", "password": "a long enough pass phrase", "name": "Ada"}
        assert client.post("/v1/users", json=form).status_code in (201, 409)
    steps = session("One logout ends what is open")
    assert len(steps) == 5
    run(steps, fresh, tmp_path)


def run(steps: list[tuple[str, str]], fresh: RunningServer, tmp_path: Path) -> None:
    (tmp_path / ".data").symlink_to(fresh.data_dir)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    script = ["shopt -s expand_aliases"]
    for command, _ in steps:
        script += [command, "echo", "echo @@@@"]
    text = "\n".join(script).replace("localhost:8443", f"localhost:{fresh.https_port}")
    done = subprocess.run(
        ["bash", "-c", text], cwd=tmp_path, capture_output=True, text=True, timeout=60, env={**os.environ}, check=False
    )
    outputs = done.stdout.split("@@@@\n")[:-1]
    assert len(outputs) == len(steps), done.stderr
    shown = "\n".join(f"$ {command}\n{output.strip()}" for command, output in steps)
    seen = "\n".join(f"$ {command}\n{output.strip()}" for (command, _), output in zip(steps, outputs, strict=True))
    assert comparable(seen) == comparable(shown), done.stderr


def test_the_library_in_twenty_lines_is_twenty_lines_and_works() -> None:
    from tests.starlette_client import TestClient

    code = README.split("## The library in twenty lines")[1].split("```python\n")[1].split("```")[0]
    lines = [line for line in code.splitlines() if line.strip()]
    assert len(lines) <= 20
    names: dict[str, object] = {}
    exec(compile(code.replace("sqlite:///sessions.sqlite3", "memory://"), "README.md", "exec"), names)
    with TestClient(names["app"], base_url="https://testserver") as client:  # type: ignore[arg-type]
        assert client.get("/profile").status_code == 401
        client.post("/login")
        stolen = dict(client.cookies)
        assert client.get("/profile").json() == "Hello, user123"
        client.post("/logout")
        client.cookies.update(stolen)
        assert client.get("/profile").status_code == 401
