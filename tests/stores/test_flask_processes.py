"""Flask's sessions in processes that fork and end: each child its own, nothing lost at the exit, and not a word said."""

import subprocess
import sys
import textwrap
from pathlib import Path

HEAD = """
import asyncio, os, sys
from flask import Flask
from coatcheck import Sessions, UsageError
from coatcheck.integrations.flask import Coatcheck, session

def make(sessions):
    app = Flask("site")
    coatcheck = Coatcheck(app, sessions)
    app.add_url_rule("/login", "login", lambda: session.sync.log_in("user") or "", methods=["POST"])
    app.add_url_rule("/who", "who", lambda: str(session.user_id))
    return app, coatcheck

def in_child(function):
    child = os.fork()
    if child == 0:
        function()
        sys.exit()
    assert os.waitpid(child, 0)[1] == 0

url = f"sqlite:///{sys.argv[1]}"
"""


def run_python(program: str, path: Path) -> str:
    """Run a program to its end; whatever it says on stderr is an error."""
    run = subprocess.run(
        # Warnings of fork in a process with threads are Python's own, from 3.12 on; others are errors.
        [sys.executable, "-W", "error", "-W", "ignore:This process", "-c", HEAD + textwrap.dedent(program), path],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, ""), run.stderr
    return run.stdout


def test_applications_made_before_the_fork_serve_in_every_child_on_one_store(tmp_path: Path) -> None:
    printed = run_python(
        """
        made = [make(url), make(Sessions(url, idle_timeout=500.0))]

        def log_in():
            for app, coatcheck in made:
                assert app.test_client().post("/login").status_code == 200

        in_child(log_in)
        in_child(log_in)
        for app, coatcheck in made:
            assert not coatcheck.sessions.started
            print(len(coatcheck.run(coatcheck.sessions.list_user("user"))))
        """,
        tmp_path / "s.db",
    )
    assert printed.split() == ["4", "4"]


def test_a_child_of_a_process_that_has_used_the_store_by_url_makes_its_own(tmp_path: Path) -> None:
    printed = run_python(
        """
        app, coatcheck = make(url)
        client = app.test_client()
        client.post("/login")
        before = coatcheck.sessions

        def serve():
            print(client.get("/who").text, coatcheck.sessions is not before, flush=True)
            client.post("/login")

        in_child(serve)
        print(client.get("/who").text, coatcheck.sessions is before)
        print(len(coatcheck.run(before.list_user("user"))))
        """,
        tmp_path / "s.db",
    )
    # The child has changed the secret, so the parent's cookie is an old one.
    assert printed.split() == ["user", "True", "None", "True", "1"]


def test_a_child_of_a_process_that_has_used_its_sessions_is_told_what_to_do(tmp_path: Path) -> None:
    printed = run_python(
        """
        app, coatcheck = make(Sessions(url))
        app.testing = True
        client = app.test_client()
        client.post("/login")

        def serve():
            for call in (lambda: client.post("/login"), lambda: coatcheck.run(coatcheck.sessions.epoch("user"))):
                try:
                    call()
                except UsageError as error:
                    assert "give the store's URL" in str(error)
                    print("told", flush=True)

        in_child(serve)
        print(client.get("/who").text)
        """,
        tmp_path / "s.db",
    )
    assert printed.split() == ["told", "told", "user"]


def test_what_was_heard_of_users_is_written_when_the_process_ends(tmp_path: Path) -> None:
    """Not a thread may be begun then (Python 3.12 and later), and the store's own thread must still be there."""
    printed = run_python(
        """
        from coatcheck.clock import SystemClock

        class Clock(SystemClock):
            ahead = 0.0

            def time(self):
                return super().time() + self.ahead

        clock = Clock()
        app, coatcheck = make(Sessions(url, clock=clock))
        client = app.test_client()
        client.post("/login")
        clock.ahead = 30.0
        client.get("/who")
        print(client.get_cookie("__Host-session").value)
        """,
        tmp_path / "s.db",
    )
    told = run_python(
        f"""
        from coatcheck.stores.sqlite import SQLiteStore

        async def read():
            store = SQLiteStore(sys.argv[1])
            await store.start()
            record = await store.read("{printed.partition(".")[0]}")
            print(record.last_seen_at - record.created_at)
            await store.close()

        asyncio.run(read())
        """,
        tmp_path / "s.db",
    )
    assert 29.0 < float(told) < 60.0


def test_a_process_whose_thread_never_opened_a_store_ends_without_a_word(tmp_path: Path) -> None:
    run_python(
        """
        from coatcheck import StoreUnavailable
        app, coatcheck = make(f"sqlite:///{sys.argv[1]}/is/nowhere")
        app.testing = True
        try:
            app.test_client().post("/login")
        except UsageError:
            pass
        make("memory://")
        """,
        tmp_path / "missing",
    )


def test_whoever_asks_while_the_process_ends_is_told_to_ask_another(tmp_path: Path) -> None:
    printed = run_python(
        """
        import atexit
        from coatcheck import StoreUnavailable
        app, coatcheck = make(url)

        @atexit.register  # before the store's, so it runs after it
        def late():
            try:
                coatcheck.run(coatcheck.sessions.epoch("user"))
            except StoreUnavailable as error:
                print(error)

        app.test_client().post("/login")
        """,
        tmp_path / "s.db",
    )
    assert printed.strip() == "this process is ending: ask another"
