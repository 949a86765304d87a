"""What each HTTP version does with connections, through the real edge."""

import asyncio

import httpx

from tests.clients.h3 import connect_h3
from tests.clients.raw import RawConnection
from tests.clients.serving import RunningServer


async def test_http_1_0_closes_after_each_response(echo: RunningServer) -> None:
    seen: set[str] = set()
    for _ in range(2):
        async with await RawConnection.open(echo.https_port, echo.tls()) as connection:
            answer = await connection.request("GET", "/", version="1.0")
            assert answer.status == 200
            assert answer.json()["protocol"] == "HTTP/1.0"
            seen.add(answer.json()["connection_id"])
            assert await connection.closed_by_server()
    assert len(seen) == 2


async def test_http_1_0_keeps_the_connection_for_a_client_that_asks(echo: RunningServer) -> None:
    async with await RawConnection.open(echo.http_port) as connection:
        answers = [
            (await connection.request("GET", "/", [("connection", "keep-alive")], version="1.0")).json()
            for _ in range(3)
        ]
    assert len({answer["connection_id"] for answer in answers}) == 1
    assert [answer["requests"] for answer in answers] == [1, 2, 3]


async def test_http_1_0_needs_no_host(echo: RunningServer) -> None:
    async with await RawConnection.open(echo.http_port) as connection:
        assert (await connection.request("GET", "/", version="1.0", host=None)).status == 200


async def test_http_1_1_uses_one_connection_for_many_requests(echo: RunningServer) -> None:
    async with await RawConnection.open(echo.https_port, echo.tls()) as connection:
        answers = [(await connection.request("POST", "/", body=b"x" * n)).json() for n in (1, 60_000, 3)]
    assert {answer["protocol"] for answer in answers} == {"HTTP/1.1"}
    assert len({answer["connection_id"] for answer in answers}) == 1
    assert [answer["requests"] for answer in answers] == [1, 2, 3]
    assert [answer["body_bytes"] for answer in answers] == [1, 60_000, 3]


async def test_requests_of_one_connection_are_counted_over_all_workers(echo: RunningServer) -> None:
    async with await RawConnection.open(echo.http_port) as connection:
        answers = [(await connection.request("GET", "/")).json() for _ in range(40)]
    assert {answer["worker"] for answer in answers} == {0, 1}
    assert [answer["requests"] for answer in answers] == list(range(1, 41))


async def test_http_2_carries_many_streams_at_once_on_one_connection(echo: RunningServer) -> None:
    async with httpx.AsyncClient(http2=True, verify=echo.tls()) as client:
        first = await client.get(echo.https)
        loop = asyncio.get_running_loop()
        began = loop.time()
        answers = await asyncio.gather(*(client.get(f"{echo.https}/slow?seconds=0.5") for _ in range(10)))
        took = loop.time() - began
    assert took < 2.5, "ten waits of half a second, one after the other, take five"
    known = [first.json(), *(answer.json() for answer in answers)]
    assert {answer["protocol"] for answer in known} == {"HTTP/2"}
    assert len({answer["connection_id"] for answer in known}) == 1
    assert max(answer["requests"] for answer in known) == 11


async def test_http_3_carries_many_streams_at_once_on_one_connection(echo: RunningServer) -> None:
    async with connect_h3(echo.https_port, echo.ca) as client:
        loop = asyncio.get_running_loop()
        began = loop.time()
        answers = await asyncio.gather(*(client.request("GET", "/slow?seconds=0.5") for _ in range(10)))
        took = loop.time() - began
        posted = (await client.request("POST", "/", body=b"y" * 50_000)).json()
    assert took < 2.5
    known = [answer.json() for answer in answers]
    assert {answer["protocol"] for answer in known} == {"HTTP/3"}
    assert len({answer["connection_id"] for answer in (*known, posted)}) == 1
    assert posted["body_bytes"] == 50_000
    assert posted["requests"] == 11
    assert {known[0]["tls_version"], known[0]["server_name"]} == {"TLSv1.3", "localhost"}


async def test_a_quic_connection_survives_a_change_of_port(echo: RunningServer) -> None:
    async with connect_h3(echo.https_port, echo.ca) as client:
        before = (await client.request("GET", "/")).json()
        old_port = client.local_port
        under_way = client.begin("GET", "/slow?seconds=0.3")
        new_port = await client.rebind()
        assert new_port != old_port
        during = (await under_way.finish()).json()
        after = (await client.request("GET", "/")).json()
    assert before["connection_id"] == during["connection_id"] == after["connection_id"]
    assert after["requests"] == 3


async def test_tls_answers_advertise_http_3_and_plain_ones_do_not(echo: RunningServer) -> None:
    async with httpx.AsyncClient(verify=echo.tls()) as client:
        assert (await client.get(echo.https)).headers["alt-svc"].startswith(f'h3=":{echo.https_port}"')
        assert "alt-svc" not in (await client.get(echo.http)).headers


async def test_the_plain_port_speaks_http_2_to_clients_that_know_it(echo: RunningServer) -> None:
    async with httpx.AsyncClient(http1=False, http2=True) as client:
        answer = (await client.get(echo.http)).json()
    assert (answer["protocol"], answer["scheme"], answer["tls_version"]) == ("HTTP/2", "http", None)


async def test_facts_name_the_clients_own_address_and_tls(echo: RunningServer) -> None:
    async with await RawConnection.open(echo.https_port, echo.tls()) as connection:
        address = list(connection.writer.get_extra_info("sockname"))
        answer = (await connection.request("GET", "/")).json()
        cipher, version, _ = connection.writer.get_extra_info("cipher")
        await asyncio.sleep(0.02)
        later = (await connection.request("GET", "/")).json()
    assert answer["client"] == answer["asgi_client"] == address
    assert (answer["tls_version"], answer["tls_cipher"]) == (version, cipher)
    assert answer["scheme"] == "https"
    assert later["age_ms"] >= answer["age_ms"] + 20
