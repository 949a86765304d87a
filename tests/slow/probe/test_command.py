"""The command `coatcheck probe` where it is interrupted, where it fails, and where a pipeline listens to it."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

from typer.testing import CliRunner

from coatcheck.cli import app
from tests.clients.odd_servers import OK, Asked, Then, http1
from tests.clients.serving import free_port

COMMAND = (sys.executable, "-c", "from coatcheck.cli import main; main()", "probe")


async def start(*arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *COMMAND, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )


async def run(*arguments: str) -> tuple[int, str, str]:
    """In a thread of this process: starting another one takes a second."""
    result = await asyncio.to_thread(CliRunner().invoke, app, ["probe", *arguments], env={"COLUMNS": "100"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


async def test_ctrl_c_gives_what_is_known_so_far() -> None:
    async with http1() as site:
        process = await start(site.url, "--requests", "3", "--only", "h1.1", "--idle", "60", "--json")
        while len(site.asked) < 6:  # three in turn, three at once: from now on it idles
            await asyncio.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, err = await process.communicate()
    assert (process.returncode, err) == (130, b"")
    found = json.loads(out)
    assert found["complete"] is False
    assert (found["versions"]["h1.1"]["requests"], found["versions"]["h1.1"]["connections"]) == (3, 1)


async def test_ctrl_c_before_anything_is_known_says_that() -> None:
    async with http1(lambda asked: (b"", "hang")) as site:
        process = await start(site.url, "--only", "h1.1")
        while not site.asked:
            await asyncio.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, err = await process.communicate()
    assert process.returncode == 130
    assert b"Traceback" not in err
    assert b"came an answer" in out  # over none of the versions


async def test_a_failure_is_one_line_and_exit_status_1() -> None:
    port = free_port()
    code, out, err = await run(f"http://127.0.0.1:{port}/")
    assert (code, out) == (1, "")
    assert err == f"coatcheck: 127.0.0.1:{port}: 127.0.0.1:{port} refused the connection: nothing listens there\n"


async def test_fail_on_makes_a_pipeline_fail_by_level() -> None:
    def answer(asked: Asked) -> tuple[bytes, Then]:
        return OK.replace(b"\r\n", b"\r\nConnection: close\r\n", 1), "close"

    async with http1(answer) as site:
        options = (site.url, "--requests", "3", "--only", "h1.1", "--json")
        codes = [await run(*options), await run(*options, "--fail-on", "problem")]
    async with http1() as site:
        codes.append(await run(site.url, "--requests", "3", "--only", "h1.1", "--json", "--fail-on", "warn"))
    assert [code for code, _, _ in codes] == [0, 1, 0]
    assert all(json.loads(out)["schema"] == "coatcheck-probe/1" for _, out, _ in codes)


async def test_cookies_from_a_file_are_those_of_the_host_alone(tmp_path: Path) -> None:
    jar = tmp_path / "jar"
    jar.write_text(
        "# Netscape HTTP Cookie File\n"
        "#HttpOnly_127.0.0.1\tFALSE\t/\tFALSE\t0\tsid\tours\n"
        "other.example\tFALSE\t/\tFALSE\t0\tsid2\ttheirs\n"
    )
    async with http1() as site:
        code, _, err = await run(site.url, "--requests", "1", "--only", "h1.1", "--cookie", f"@{jar}")
    assert (code, err) == (0, "")
    assert site.asked[0].header("cookie") == "sid=ours"


async def test_a_terminal_is_shown_how_far_it_is() -> None:
    master, slave = os.openpty()
    async with http1() as site:
        process = await asyncio.create_subprocess_exec(
            *COMMAND,
            site.url,
            *("--requests", "2", "--only", "h1.1", "--idle", "0.5"),
            stdout=asyncio.subprocess.PIPE,
            stderr=slave,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
        )
        os.close(slave)
        shown = b""
        loop = asyncio.get_running_loop()
        while b"idle, for up to 0.5 s" not in shown:
            shown += await loop.run_in_executor(None, os.read, master, 4096)
        out, _ = await process.communicate()
    os.close(master)
    assert process.returncode == 0
    assert b"No: over HTTP/1.1 one connection carried all 2 requests." in out
