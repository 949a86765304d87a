"""Real PostgreSQL servers and PgBouncers for tests: on free ports, in temporary directories, of Debian's packages.

Both programs refuse to run as root; then they run as the package's user. They end with the process that started them.
"""

import contextlib
import fcntl
import glob
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

_USER = "postgres"
_STARTS_WITHIN = 30.0
_QUICK = {"fsync": "off", "synchronous_commit": "on", "full_page_writes": "off"}
_ALWAYS = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "120",
    "shared_buffers": "16MB",
    "max_wal_size": "128MB",
    "deadlock_timeout": "100ms",
    "dynamic_shared_memory_type": "mmap",  # so that a server that was killed leaves nothing outside of its directory
    "log_min_messages": "warning",
}


def program(name: str) -> str:
    """The newest installed version of one of PostgreSQL's programs."""
    found = sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{name}"), key=lambda path: int(path.split("/")[4]))
    assert found, f"there is no {name}: install the Debian package postgresql"
    return found[-1]


def _as_nobody(command: list[str]) -> list[str]:
    """The command as an ordinary user, and not outliving whoever started it."""
    run = ["setpriv", "--pdeathsig", "QUIT"]
    if os.geteuid() == 0:
        run += [f"--reuid={_USER}", f"--regid={_USER}", "--clear-groups"]
    return [*run, *command]


_MEMORY = Path("/dev/shm")
_ROOMY = 2**30


def _directory(on_disk: bool = False) -> Path:
    """A directory of the package's user's. In memory, where there is room: kill -9 is survived by what was written there
    just as by what was written to a disk, and no test cuts the power.
    """
    in_memory = not on_disk and _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK)
    where = _MEMORY if in_memory and shutil.disk_usage(_MEMORY).free > _ROOMY else None
    path = Path(tempfile.mkdtemp(prefix="coatcheck-postgres-", dir=where))
    if os.geteuid() == 0:
        user = pwd.getpwnam(_USER)
        os.chown(path, user.pw_uid, user.pw_gid)
    return path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def make_template(home: Path) -> Path:
    """A fresh data directory to be copied for each server, made once however many processes run tests."""
    template = home / "postgres-template"
    with (home / "postgres-template.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not template.exists():
            made = _directory()
            command = [program("initdb"), "-D", str(made / "data"), "-A", "trust", "-U", "postgres", "-E", "UTF8"]
            command += ["--locale=C", "--no-sync", "--no-instructions"]
            subprocess.run(_as_nobody(command), check=True, capture_output=True)
            subprocess.run(["cp", "-a", str(made / "data"), f"{template}.new"], check=True)
            os.rename(f"{template}.new", template)
            shutil.rmtree(made)
    return template


class PostgresServer:
    """One server. `durable`: with fsync, for tests about what is left after a crash; `on_disk`: on a real one, to be measured."""

    def __init__(
        self,
        template: Path,
        *,
        durable: bool = False,
        on_disk: bool = False,
        limit_file_size: int | None = None,
        follows: "PostgresServer | None" = None,
        tls: bool = False,
        **settings: str,
    ) -> None:
        self.directory = _directory(on_disk)
        self.port = free_port()
        self._settings = {**_ALWAYS, **({} if durable else _QUICK), **settings}
        if tls:
            self._settings |= {"ssl": "on", **self._make_certificate()}
        self._limit = limit_file_size
        self._process: subprocess.Popen[bytes] | None = None
        data = str(self.directory / "data")
        if follows is None:
            subprocess.run(["cp", "-a", "--reflink=auto", str(template), data], check=True)
        else:  # a standby, by streaming
            copy = [program("pg_basebackup"), "-h", "127.0.0.1", "-p", str(follows.port), "-U", "postgres", "-D", data]
            subprocess.run(_as_nobody([*copy, "-R", "-X", "stream", "-c", "fast", "--no-sync"]), check=True)
        self.start()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        data = self.directory / "data"
        command = [program("postgres"), "-D", str(data), "-p", str(self.port), "-k", str(self.directory)]
        for name, value in self._settings.items():
            command += ["-c", f"{name}={value}"]
        command = _as_nobody(command)
        if self._limit is not None:
            command = ["prlimit", f"--fsize={self._limit}:unlimited", *command]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        self._await_ready(data / "postmaster.pid")

    @property
    def certificate(self) -> Path:
        """With `tls`: its own certificate, for the address by which tests reach it."""
        return self.directory / "cert.pem"

    def _make_certificate(self) -> dict[str, str]:
        key = self.directory / "key.pem"
        command = [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "1",
        ]
        command += ["-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key)]
        subprocess.run(_as_nobody([*command, "-out", str(self.certificate)]), check=True, capture_output=True)
        return {"ssl_cert_file": str(self.certificate), "ssl_key_file": str(key)}

    def _await_ready(self, pid_file: Path) -> None:
        # The last line of the file says how far it is, as pg_ctl reads it.
        deadline = time.monotonic() + _STARTS_WITHIN
        while time.monotonic() < deadline:
            assert self._process is not None
            assert self._process.poll() is None, self.said()
            with contextlib.suppress(OSError):
                lines = pid_file.read_text().splitlines()
                if lines and lines[0] == str(self._process.pid) and lines[-1].strip() == "ready":
                    return
            time.sleep(0.01)
        raise AssertionError(f"the server did not start:\n{self.said()}")

    def stop(self) -> None:
        """Stop in an orderly way: sessions are ended, nothing is lost."""
        self._end(signal.SIGINT)

    def crash(self) -> None:
        """Stop as in a power cut, as far as one process can: kill -9 to the server and all that it has started."""
        children = self.backends()
        self._end(signal.SIGKILL)
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 10
        # Shared memory must be free of them before it starts again.
        while any(os.path.exists(f"/proc/{pid}") for pid in children) and time.monotonic() < deadline:
            time.sleep(0.005)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(how)
            process.wait(30)

    def backends(self) -> list[int]:
        """The server's other processes: backends, writers and the like."""
        found: list[int] = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == self.pid:
                        found.append(int(entry.name))
        return found

    def limit(self, size: int) -> None:
        """Let no file become longer than so many bytes, in what runs now and in what it starts."""
        self._limit_files(f"{size}:unlimited")

    def lift_limit(self) -> None:
        """Let files become as long as they like."""
        self._limit_files("unlimited")

    def _limit_files(self, size: str) -> None:
        for pid in (self.pid, *self.backends()):
            subprocess.run(_as_nobody(["prlimit", f"--pid={pid}", f"--fsize={size}"]), check=True)

    def promote(self) -> None:
        """Make a primary of a standby."""
        self.by_hand("SELECT pg_promote(true, 30)")

    def freeze(self) -> None:
        for pid in (self.pid, *self.backends()):
            os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        for pid in (self.pid, *self.backends()):
            os.kill(pid, signal.SIGCONT)

    def close(self) -> None:
        if self._process is None:
            # What was killed has left its 56 bytes of System V shared memory, which the file names by key and id.
            with contextlib.suppress(OSError, IndexError):
                lines = (self.directory / "data" / "postmaster.pid").read_text().splitlines()
                subprocess.run(_as_nobody(["ipcrm", "-m", lines[6].split()[1]]), check=False, capture_output=True)
        self._end(signal.SIGQUIT)  # at once: nothing of it is wanted any more
        shutil.rmtree(self.directory, ignore_errors=True)

    def url(self, *, user: str = "postgres", database: str = "postgres", **options: object) -> str:
        query = f"?{urlencode(options)}" if options else ""
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}{query}"

    def by_hand(self, *statements: str, user: str = "postgres", database: str = "postgres") -> str:
        """Type statements into psql; give what it printed. They must succeed."""
        command = [program("psql"), "-h", "127.0.0.1", "-p", str(self.port), "-U", user, "-X", "-q", "-A", "-t"]
        for statement in statements:
            command += ["-c", statement]
        done = subprocess.run(
            [*command, "-v", "ON_ERROR_STOP=1", database], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def said(self) -> str:
        with contextlib.suppress(OSError):
            return (self.directory / "log").read_text()
        return ""


class PgBouncer:
    """A PgBouncer in front of a server, in transaction mode, with few connections so that clients share them."""

    def __init__(
        self, server: PostgresServer, *, pool_mode: str = "transaction", pool_size: int = 4, ignores: str = ""
    ) -> None:
        self.directory = _directory()
        self.port = free_port()
        (self.directory / "users").write_text("".join(f'"{name}" ""\n' for name in ("postgres", "app")))
        (self.directory / "ini").write_text(
            f"[databases]\n* = host=127.0.0.1 port={server.port}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {self.port}\nunix_socket_dir =\nauth_type = trust\n"
            f"auth_file = {self.directory}/users\npool_mode = {pool_mode}\ndefault_pool_size = {pool_size}\n"
            "max_client_conn = 500\nserver_login_retry = 0.1\nserver_fast_close = 1\n"
            f"ignore_startup_parameters = {ignores}\n"
        )
        for path in self.directory.iterdir():
            path.chmod(0o644)
        self.start()

    def start(self) -> None:
        with (self.directory / "log").open("wb") as log:
            self._process = subprocess.Popen(
                _as_nobody(["/usr/sbin/pgbouncer", str(self.directory / "ini")]),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        deadline = time.monotonic() + _STARTS_WITHIN
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            assert self._process.poll() is None, self.said()
            time.sleep(0.01)
        raise AssertionError(f"PgBouncer did not start:\n{self.said()}")

    def restart(self) -> None:
        """Drop every client and server at once, and begin anew on the same port."""
        self._process.kill()
        self._process.wait(10)
        self.start()

    def url(self, *, user: str = "postgres", database: str = "postgres", **options: object) -> str:
        query = f"?{urlencode(options)}" if options else ""
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}{query}"

    def said(self) -> str:
        return (self.directory / "log").read_text()

    def close(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(10)
        shutil.rmtree(self.directory, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.getbasetemp()
    # What the processes of one run have in common, where several run tests.
    return make_template(base.parent if "PYTEST_XDIST_WORKER" in os.environ else base)


@pytest.fixture(scope="session")
def postgres(postgres_template: Path) -> Iterator[PostgresServer]:
    """The server that tests share which do not harm it. Quick, and nothing that it does is durable."""
    server = PostgresServer(postgres_template)
    yield server
    server.close()


@pytest.fixture
def start_postgres(postgres_template: Path) -> Iterator[Callable[..., PostgresServer]]:
    """Start a server of one's own, to do to it what one likes."""
    servers: list[PostgresServer] = []

    def start(**options: Any) -> PostgresServer:
        servers.append(PostgresServer(postgres_template, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture(scope="session")
def pgbouncer(postgres: PostgresServer) -> Iterator[PgBouncer]:
    """PgBouncer in transaction mode in front of the shared server."""
    bouncer = PgBouncer(postgres)
    yield bouncer
    bouncer.close()


@pytest.fixture
def schema() -> str:
    """A schema's name that no other test uses. Nobody drops it: the server will be gone."""
    return f"s{os.urandom(6).hex()}"
