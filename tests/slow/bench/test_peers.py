"""The comparison runs as it is written: each peer in its own locked environment, behind real servers, and really logged in."""

import pytest

from bench import comparison, page, servers

READ = comparison.READ


def test_every_peer_runs_in_process_and_coatcheck_on_each_store() -> None:
    found = comparison.compare(rounds=20, seed=1, tell=lambda item: None)
    summary = {item["item"]: item for item in comparison.summarise(found)}
    read = summary[READ]["contenders"]
    stores = {f"Coatcheck, {store}" for store in ("memory", "SQLite", "Redis", "PostgreSQL")}
    assert {name.partition(",")[0] for name in read if not name.startswith("bare")} == {
        "Coatcheck",
        "Django",
        "Flask-Session",
        "Litestar",
        "PyJWT by hand",
        "Starlette",
        "starsessions",
    }
    assert stores <= read.keys()
    for name, entry in read.items():
        if "microseconds_over_bare" in entry:
            over = entry["microseconds_over_bare"]
            assert over["low"] <= over["median"] <= over["high"], name
    # What each asks of Redis is more than a signed cookie costs; what a near cache asks is less.
    over = {name: entry["microseconds_over_bare"]["median"] for name, entry in read.items() if name in READ_BY}
    assert over["Coatcheck, Redis"] < over["Starlette, signed cookie"] < over["starsessions, Redis"]
    assert {one["contender"] for one in summary[READ]["judged"]} == stores


READ_BY = ("Coatcheck, Redis", "Starlette, signed cookie", "starsessions, Redis")


def test_servers_of_each_kind_are_loaded_over_each_version() -> None:
    names = (
        servers.BARE,
        "uvicorn, Coatcheck on Redis",
        "uvicorn, starsessions on Redis",
        "Express, express-session on Redis",
        f"{servers.OURS}, HTTP/1.1",
        f"{servers.OURS}, HTTP/2",
        f"{servers.OURS}, HTTP/3",
    )
    found = servers.run(rounds=1, seconds=1.0, seed=1, tell=lambda item: None, names=names)
    summary = servers.summarise(found)
    assert tuple(summary) == names
    for name, entry in summary.items():
        assert entry["per_second"]["median"] > servers.RATE, name
        assert entry["processor_seconds"]["median"] > 0, name
        assert 0 < entry["p50"] <= entry["p99"] < 5, name
        assert entry["requests_at_rate"] >= servers.RATE / 2 * 0.9, name  # for half a second
        assert entry["memory_bytes"] > 2**22, name
    assert summary["uvicorn, starsessions on Redis"]["store_seconds"]["median"] > 0
    text = servers.table(summary)
    assert all(name in text for name in names)
    assert "Through a server" in page.markdown({"about": {}, "servers": summary})
    assert text.count("<svg") == 0
    assert page.html_page({"about": {}, "servers": summary}).count("<svg") == 2


def test_whoever_is_let_in_without_a_session_or_fails_under_load_spoils_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "uvicorn, starsessions on Redis"
    monkeypatch.setattr(servers, "SUBJECTS", {name: ("uvicorn", "bare ASGI application")})
    with pytest.raises(RuntimeError, match="starsessions on Redis"):
        servers.run(rounds=1, seconds=1.0, seed=1, tell=lambda item: None, names=(name,))
