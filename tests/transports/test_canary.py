"""Secrets never leave: a whole life of a server that says all it can, and a search for every secret in all it gave away.

The search itself is tested in `tests/core/tools/test_leaks.py`.
"""

import asyncio
import base64
import hashlib
import json
import re
import secrets
import sqlite3
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from typer.testing import CliRunner

from coatcheck.cli import app
from tests.clients.authenticator import Authenticator
from tests.clients.leaks import Secrets
from tests.clients.raw import RawConnection
from tests.clients.serving import RunningServer, free_port, start_server

CANARY = "tests.transports.canary_app:create_app"
# Control characters by one byte and by three, and what a page could take for markup.
AGENT = "evil/1 \x9b31m<script>alert(1)</script>".encode("latin-1") + b"\xe2\x80\xae"


@dataclass
class Given:
    """Something that was given away, and the secrets that belong in it."""

    what: str
    content: bytes
    belongs: set[str] = field(default_factory=set)


class Life:
    """What one server does from start to end, with every secret of it."""

    def __init__(self, server: RunningServer, metrics_port: int) -> None:
        self.server = server
        self.metrics_port = metrics_port
        self.secrets = Secrets()
        self.never_at_rest = Secrets()
        self.given: list[Given] = []
        self.tokens: dict[str, str] = {}
        """Cookies and tokens, each with a name to say instead."""

    # secrets

    def password(self, name: str) -> str:
        # What programs escape, each in its own way, is in every part of it that is long enough to be found.
        made = f"{secrets.token_hex(4)}ä\"\\<&{secrets.token_hex(4)}>%'+ {secrets.token_hex(4)}"
        self.secret(f"the password {name}", made)
        return made

    def secret(self, name: str, secret: str | bytes, *, at_rest: bool = False) -> None:
        self.secrets.add(name, secret)
        if not at_rest:
            self.never_at_rest.add(name, secret)

    def keys_of_the_server(self) -> None:
        for file in self.server.data_dir.rglob("*key*"):
            if not file.is_file() or not file.stat().st_size:
                continue
            found = _keys_in(file.read_bytes())
            assert found, f"what is in {file.name} must be looked for, too"
            for number, key in enumerate(found):
                self.secret(f"key {number} of {file.name}", key, at_rest=True)
        with closing(sqlite3.connect(self.server.data_dir / "accounts.sqlite3")) as accounts:
            for username, stored in accounts.execute("SELECT username, password_hash FROM coatcheck_users"):
                self.secret(f"the password hash of {username}", stored.split("$", 4)[4], at_rest=True)
            for name, stored in accounts.execute("SELECT name, secret_hash FROM coatcheck_services"):
                self.secret(f"the secret's hash of {name}", stored, at_rest=True)
            for number, (stored,) in enumerate(accounts.execute("SELECT hash FROM coatcheck_recovery_codes")):
                self.secret(f"the hash of recovery code {number}", stored, at_rest=True)

    # doing

    def ask(self, client: httpx.Client, method: str, path: str, **options: Any) -> httpx.Response:
        """Send a request; what it answers is given away, but for the cookies and tokens that are new in it."""
        answer = client.request(method, path, **options)
        headers = [f"{name}: {value}" for name, value in answer.headers.multi_items() if name != "set-cookie"]
        belongs = set[str]().union(*(self.token(kind, value) for kind, value in _tokens_in(answer)))
        self.give(f"the answer to {method} {path}", "\n".join(headers).encode() + b"\n\n" + answer.content, belongs)
        for line in answer.headers.get_list("set-cookie"):
            cookie, _, attributes = line.partition(";")
            name, _, value = cookie.partition("=")
            self.give(f"the attributes of the cookie {name}", attributes.encode())
            if value:
                assert value.rpartition(".")[2] not in self.tokens, "a secret is given once"
                self.give(f"a new value of the cookie {name}", value.encode(), self.token(name, value))
        return answer

    def token(self, kind: str, value: str) -> set[str]:
        """Have a cookie or token looked for, of one with a public part only what is secret; give the names of its parts."""
        secret = value.rpartition(".")[2]  # of a JWT that is the signature
        parts = [secret]
        if kind == "refresh_token":
            parts = [secret[:43], secret[43:]]  # the first stays the same while the session lives
        for part in parts:
            if part not in self.tokens:
                said = self.tokens[part] = f"{kind} {len(self.tokens)}"
                self.secret(said, part)
                self.secret(f"the hash of {said}", hashlib.sha256(part.encode()).digest(), at_rest=True)
        return {self.tokens[part] for part in parts}

    def give(self, what: str, content: bytes, belongs: set[str] | None = None) -> None:
        self.given.append(Given(what, content, belongs or set()))

    def command(self, *arguments: str, stdin: str = "") -> str:
        """What a command writes to stdout; the secret of a new service belongs there."""
        argv = [*arguments, "--data-dir", str(self.server.data_dir)]
        done = CliRunner().invoke(app, argv, input=stdin, env={"COLUMNS": "240"})
        for name, shown in (("stdout", done.stdout), ("stderr", done.stderr), ("a traceback", repr(done.exc_info))):
            if arguments[:2] != ("services", "add") or name != "stdout":
                self.give(f"what coatcheck {' '.join(arguments[:2])} wrote to {name}", shown.encode())
        return done.stdout

    def fail(self, how: str) -> None:
        (self.server.data_dir / "fail").write_text(how)

    # looking

    def outside(self) -> None:
        """What anybody on this machine may see of the processes, and what stands in files beside the databases."""
        directories = runtime_dirs(self.server)
        for pid in (self.server.process.pid, *self.server.children()):
            process = Path("/proc") / str(pid)
            for name in ("cmdline", "environ"):
                self.give(f"{name} of {pid}", (process / name).read_bytes())
            for thread in (process / "task").iterdir():
                self.give(f"the name of a thread of {pid}", (thread / "comm").read_bytes())
        for path in (path for top in (self.server.data_dir.parent, *directories) for path in top.rglob("*")):
            self.give("the name of a file", str(path).encode())
        for path in (path for top in directories for path in top.rglob("*") if path.is_file()):
            # What the edge serves with, where nobody else can read it.
            served = path.match("key-*.pem") and not path.stat().st_mode & 0o077
            served_keys = {"key 0 of localhost.key", "key 0 of address.key"}
            self.give(f"the file {path.name}", path.read_bytes(), served_keys if served else None)
        (admin,) = (path for top in directories for path in top.rglob("admin.sock"))
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(admin)), base_url="http://edge") as edge:
            for address in ("/config_dump?include_eds", "/certs", "/clusters", "/stats"):
                self.give(f"the edge's {address}", edge.get(address).content)
        with httpx.Client(base_url=f"http://127.0.0.1:{self.metrics_port}") as metrics:
            self.ask(metrics, "GET", "/metrics")

    def leaks(self) -> list[str]:
        found: list[str] = []
        for given in self.given:
            found += [f"{name} in {given.what}" for name in self.secrets.found_in(given.content) - given.belongs]
        for file in self.server.data_dir.rglob("*"):
            if file.is_file():
                found += [f"{name} in {file.name}" for name in self.never_at_rest.found_in(file.read_bytes())]
        return found


def _tokens_in(answer: httpx.Response) -> list[tuple[str, str]]:
    if answer.headers.get("content-type") != "application/json":
        return []
    body = answer.json()
    return [(kind, body[kind]) for kind in ("access_token", "refresh_token") if kind in body]


def _keys_in(content: bytes) -> list[bytes | str]:
    """The secret parts of private keys in PEM, of sealed cookies' keys, and of JSON Web Keys."""
    if b"PRIVATE KEY" in content:
        key = load_pem_private_key(content, None)
        assert isinstance(key, EllipticCurvePrivateKey)
        return [key.private_numbers().private_value.to_bytes(32, "big")]
    if jwks := re.findall(rb'"[dk]"\s*:\s*"([A-Za-z0-9_-]+)"', content):
        return [key.decode() for key in jwks]
    return [base64.b64decode(line) for line in content.splitlines() if line and not line.startswith(b"#")]


def runtime_dirs(server: RunningServer) -> set[Path]:
    """Where the processes keep sockets and what they tell each other: directories that their command lines name."""
    commands = " ".join(server.children().values())
    return {Path(found) for found in re.findall(r"(/\S*/coatcheck-[^/\s]+)", commands) if Path(found).is_dir()}


def live(life: Life, clients: ExitStack) -> None:
    """Everything that has to do with secrets, right and wrong."""
    server = life.server
    by_tls = [
        httpx.Client(base_url=server.https, verify=server.tls(), http2=version == 2, trust_env=False, timeout=20)
        for version in (1, 2, 2)
    ]
    plain = httpx.Client(base_url=server.http, trust_env=False, timeout=20)
    for client in (*by_tls, plain):
        clients.enter_context(client)
    ada, bob = life.password("of ada"), life.password("of bob")
    first, second, third = by_tls
    assert life.ask(first, "POST", "/v1/users", json=form("ada", ada, name="Ada")).status_code == 201
    assert life.ask(first, "POST", "/v1/users", json=form("bob", bob)).status_code == 201
    for client in (first, second, plain):
        assert life.ask(client, "POST", "/v1/login", json=form("ada", ada)).status_code == 200
    evil = {"user-agent": AGENT}
    assert life.ask(third, "POST", "/v1/login", json=form("ada", ada), headers=evil).status_code == 200

    # Passwords where they belong, and are wrong, or are none at all.
    assert life.ask(second, "POST", "/v1/login", json=form("bob", life.password("mistyped"))).status_code == 401
    assert life.ask(second, "POST", "/v1/login", json=form(life.password("typed as username"), ada)).status_code == 401
    new = life.password("of ada, new")
    change = {"current_password": ada, "new_password": new}
    assert life.ask(first, "POST", "/v1/me/password", json={**change, "new_password": "short"}).status_code == 422
    assert life.ask(first, "POST", "/v1/me/password", json={**change, "current_password": bob}).status_code == 403
    assert life.ask(first, "POST", "/v1/me/password", json=change).status_code == 200
    assert life.ask(second, "GET", "/v1/me").status_code == 401
    assert life.ask(first, "POST", "/v1/reauthenticate", json={"password": ada}).status_code == 403
    assert life.ask(first, "POST", "/v1/reauthenticate", json={"password": new}).status_code == 200

    # Recovery codes and a passkey.
    codes = first.post("/v1/recovery-codes").json()["codes"]
    for number, code in enumerate(codes):
        life.secret(f"recovery code {number}", code)
        life.secret(f"recovery code {number} without dashes", code.replace("-", ""))
    for status in (200, 401):
        recovery = {"username": "ada", "code": codes[0]}
        assert life.ask(second, "POST", "/v1/login/recovery", json=recovery).status_code == status
    passkey = Authenticator(server.https)
    made = passkey.make(life.ask(first, "POST", "/v1/passkeys/options").json())
    assert life.ask(first, "POST", "/v1/passkeys", json={"name": "desk", "credential": made}).status_code == 201
    for lies, status in (({}, 200), ({"origin": "https://evil.example"}, 401)):
        shown = passkey.show(life.ask(second, "POST", "/v1/login/passkey/options").json(), **lies)
        assert life.ask(second, "POST", "/v1/login/passkey", json={"credential": shown}).status_code == status
    assert life.ask(first, "GET", "/v1/activity").status_code == 200

    # Sessions.
    for client in (second, third, plain):
        assert (
            life.ask(client, "POST", "/v1/login", json=form("ada", new, remember=True), headers=evil).status_code == 200
        )
    listed = life.ask(first, "GET", "/v1/sessions").json()["sessions"]
    assert len(listed) == 4
    session_token = first.cookies["__Host-session"]
    other = next(one["id"] for one in listed if not one["current"])
    assert life.ask(first, "DELETE", f"/v1/sessions/{other}").status_code == 204
    assert life.ask(first, "DELETE", f"/v1/sessions/{session_token}").status_code == 404  # a secret for an id
    for path in ("/v1/verify", "/v1/verify?max_age=x", "/v1/me", "/v1/connection", "/", "/docs", "/readyz"):
        life.ask(first, "GET", path)
    forge(life, first, second)

    # Bodies that are none, with a password in them.
    for body in (
        '{"username": "ada", "password": "' + new,
        json.dumps({"username": "ada", "password": [new]}),
        json.dumps({"username": "ada", "password": {"password": new}}),
        json.dumps({"username": {"password": new}, new: new}),
        json.dumps(new),
        f"username=ada&password={new}",
        json.dumps({"username": "ada", "password": new, "padding": new * 2000}),
    ):
        answer = life.ask(
            second, "POST", "/v1/login", content=body.encode(), headers={"content-type": "application/json"}
        )
        assert answer.status_code in (400, 413, 422), answer.text
    assert life.ask(second, "POST", "/v1/login", data={"username": "ada", "password": new}).status_code == 422
    life.ask(second, "POST", "/v1/login", params={"password": new}, json=form("ada", new))

    # What fails inside.
    for how, status in (("accounts", 500), ("store", 503), ("broken-store", 500)):
        life.fail(how)
        assert life.ask(second, "POST", "/v1/login", json=form("ada", new)).status_code == status, how
        life.ask(first, "POST", "/v1/reauthenticate", json={"password": new})
        life.ask(first, "POST", "/v1/me/password", json={"current_password": new, "new_password": new})
        life.ask(first, "GET", "/v1/sessions")
    life.fail("")

    operate(life, first)
    hand_out_tokens(life, first, second, new)
    life.keys_of_the_server()
    life.outside()
    assert life.ask(first, "POST", "/v1/logout").status_code == 204
    assert life.ask(plain, "DELETE", "/v1/sessions").status_code == 200


def form(username: str, password: str, **more: Any) -> dict[str, Any]:
    return {"username": username, "password": password, **more}


def forge(life: Life, client: httpx.Client, nobody: httpx.Client) -> None:
    """Cookies and other credentials that are nobody's, or somebody's at the wrong place."""
    right = client.cookies["__Host-session"]
    wrong = secrets.token_urlsafe(32)
    life.secret("a forged secret", wrong)
    session_id = right.partition(".")[0]
    for cookie in (
        f"__Host-session={session_id}.{wrong}",
        f"__Host-session={right}; __Host-session={session_id}.{wrong}",
        f"__Host-session={right}x",
        f"__Host-session={wrong * 200}",
        f"session={right}",
        f"__Host-device={wrong}",
        f"{right}={right}",
    ):
        answer = life.ask(nobody, "GET", "/v1/me", headers={"cookie": cookie})
        assert answer.status_code == 401, answer.text
        life.ask(nobody, "POST", "/v1/logout", headers={"cookie": cookie})
    for credential in (
        f"Bearer {right}",
        f"Basic {wrong}",
        f"Basic {base64.b64encode(right.encode()).decode()}",
        right,
    ):
        for path in ("/v1/service", "/v1/me", "/v1/verify"):
            life.ask(nobody, "GET", path, headers={"authorization": credential, "cookie": ""})
    with httpx.Client(base_url=life.server.https, verify=life.server.tls(), trust_env=False) as by_http_1:
        too_much = {"cookie": f"session={wrong * 2000}"}
        assert life.ask(by_http_1, "GET", "/v1/me", headers=too_much).status_code == 431
        handshake = {
            "connection": "upgrade",
            "upgrade": "websocket",
            "sec-websocket-version": "13",
            "sec-websocket-key": base64.b64encode(bytes(16)).decode(),
            "cookie": f"__Host-session={right}",
        }
        assert life.ask(by_http_1, "GET", "/v1/me", headers=handshake).status_code >= 400


def hand_out_tokens(life: Life, client: httpx.Client, nobody: httpx.Client, password: str) -> None:
    """Access and refresh tokens, right, used twice, and at the wrong places."""
    assert life.ask(client, "POST", "/v1/token", json={"audience": "https://orders.example"}).status_code == 200
    answer = life.ask(nobody, "POST", "/v1/login", json=form("ada", password, mode="token"))
    assert answer.status_code == 200, answer.text
    got = answer.json()
    bearer = {"authorization": f"Bearer {got['access_token']}", "cookie": ""}
    assert life.ask(nobody, "GET", "/v1/me", headers=bearer).status_code == 200
    for wrong in (got["refresh_token"], got["access_token"][:-8], got["access_token"].rpartition(".")[2]):
        headers = {"authorization": f"Bearer {wrong}", "cookie": ""}
        assert life.ask(nobody, "GET", "/v1/me", headers=headers).status_code == 401
    life.ask(nobody, "GET", "/v1/me", params={"access_token": got["access_token"]}, headers={"cookie": ""})
    for token in (got["access_token"], got["refresh_token"]):
        life.ask(nobody, "GET", f"/v1/users/{token}", headers=bearer)
        life.ask(nobody, "POST", "/v1/token", json={"audience": token}, headers=bearer)
        life.ask(nobody, "POST", "/v1/token/refresh", json={"refresh_token": [token]}, headers={"cookie": ""})
    fresh = life.ask(nobody, "POST", "/v1/token/refresh", json={"refresh_token": got["refresh_token"]}).json()
    life.ask(nobody, "POST", "/v1/token/refresh", json={"refresh_token": got["refresh_token"]})
    again = life.ask(nobody, "POST", "/v1/token/refresh", json={"refresh_token": fresh["refresh_token"]}).json()
    stolen = life.ask(nobody, "POST", "/v1/token/refresh", json={"refresh_token": got["refresh_token"]})
    assert stolen.status_code == 400
    for token in (again["access_token"], again["refresh_token"]):
        assert life.ask(nobody, "POST", "/v1/token/revoke", json={"token": token}).status_code == 200
    life.ask(nobody, "GET", "/.well-known/jwks.json")


def operate(life: Life, client: httpx.Client) -> None:
    """What an operator types."""
    bob, root = life.password("of bob, by the operator"), life.password("of root")
    assert life.command("users", "add", "root", "--admin", "--password-stdin", stdin=root).startswith("Added root")
    assert life.command("users", "passwd", "bob", "--password-stdin", stdin=f"{bob}\n").startswith(
        "The password of bob"
    )
    assert life.command("users", "add", "bob", "--password-stdin", stdin=bob) == ""
    added = json.loads(life.command("services", "add", "orders", "--audience", "https://orders.example", "--json"))
    life.secret("the secret of the service orders", added["secret"])
    assert life.ask(client, "GET", "/v1/service", auth=(added["id"], added["secret"])).status_code == 200
    assert life.ask(client, "GET", "/v1/service", auth=(added["id"], bob)).status_code == 401
    for command in (("users", "list", "--json"), ("services", "list"), ("keys", "rotate"), ("keys", "list")):
        life.command(*command)


@dataclass
class Lived:
    life: Life
    table: str
    as_json: str
    said: str


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Lived:
    port = free_port()
    server = start_server(tmp_path_factory.mktemp("canary"), "--workers", "2", "--metrics-port", str(port), app=CANARY)
    life = Life(server, port)
    try:
        asyncio.run(send_an_escape(life))
        with ExitStack() as clients:
            live(life, clients)
        table, as_json = life.command("sessions", "list"), life.command("sessions", "list", "--json")
    finally:
        assert server.stop() == 0, server.said()
    life.give("what the server's processes wrote", server.output.read_bytes())
    return Lived(life, table, as_json, server.said())


async def send_an_escape(life: Life) -> None:
    """Clients with good manners do not send this."""
    async with await RawConnection.open(life.server.http_port) as connection:
        await connection.request("GET", "/v1/me", [("user-agent", "\x1b[2J"), ("cookie", "session=\x1b[2J")])


def test_no_secret_of_a_whole_life_is_in_anything_that_was_given_away(lived: Lived) -> None:
    assert lived.life.leaks() == []


def test_all_was_said_that_could_be_said(lived: Lived) -> None:
    """Else nothing found would mean nothing."""
    for words in ("Traceback", "a bug beside", "the store has a bug", "aiosqlite", "root", "executing", "asyncio"):
        assert words in lived.said, words
    answers = [given for given in lived.life.given if given.what.startswith("the answer to")]
    assert len(answers) > 50
    kinds = {given.what.split()[0] for given in lived.life.given}
    assert {"cmdline", "environ"} <= kinds
    assert any(given.content.startswith(b"# HELP") or b"coatcheck_requests_total" in given.content for given in answers)


def test_a_secret_that_is_given_away_would_be_found(lived: Lived) -> None:
    life = lived.life
    end = lived.said[-1000:]
    assert life.secrets.found_in(end) == set()
    for part, name in life.tokens.items():
        assert life.secrets.found_in(end + json.dumps({"event": f"seen: {part!r}"})) == {name}


def test_every_line_is_of_one_form_or_the_other_and_no_client_moves_a_cursor(lived: Lived) -> None:
    lines = lived.said.splitlines()
    assert [line for line in lines if not line.isprintable()] == []
    for_programs = [json.loads(line) for line in lines if line.startswith("{")]
    assert len(for_programs) > 100
    assert all({"event", "level", "logger", "timestamp"} <= set(line) for line in for_programs)
    for_people = [
        line for line in lines if re.match(r"\d{4}-\d\d-\d\dT[\d:.]+Z \[(debug|info|warning|error) *\] ", line)
    ]
    assert len(for_people) == len(for_programs)


def test_user_agents_are_shown_and_do_nothing(lived: Lived) -> None:
    assert all(line.isprintable() for line in lived.table.splitlines())
    assert r"evil/1 \x9b31m<script>alert(1)</script>" in lived.table
    assert lived.as_json.replace("\n", "").isprintable()
    assert lived.as_json.isascii()
    assert "evil/1" in json.loads(lived.as_json)[0]["user_agent"]
