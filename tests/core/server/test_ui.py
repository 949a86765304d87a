"""The page's files as they are served: how they are kept by caches, what they may do, and that they bring all they need."""

import re
from importlib.resources import files

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from coatcheck.server.ui import page_routes
from coatcheck.server.ui.page import CONTENT_SECURITY_POLICY

STATIC = {entry.name: entry.read_text() for entry in files("coatcheck.server.ui").joinpath("static").iterdir()}
ASSET = re.compile(r"/assets/[\w-]{12}/[\w.]+")


@pytest.fixture
def client() -> TestClient:
    return TestClient(Starlette(routes=page_routes()))


@pytest.fixture
def assets(client: TestClient) -> list[str]:
    """The paths of what the document names."""
    return ASSET.findall(client.get("/").text)


FIRST = {"style.css", "app.js", "api.js", "dom.js", "forms.js", "favicon.svg"}
"""What is asked for by whoever is not logged in; the rest is fetched where it is first needed."""


def test_the_first_view_is_under_30_kilobytes_and_all_of_it_under_100(client: TestClient, assets: list[str]) -> None:
    sizes = {path: len(client.get(path).content) for path in ("/", *assets)}
    assert sum(sizes.values()) < 30_000 + 300, sizes  # the digest in the document's paths included
    # All of it but the words of the other languages, of which nobody reads two; and with these as it is sent.
    assert sum(len(text.encode()) for name, text in STATIC.items() if name != "ja.js") < 100_000
    paths = [f"/assets/000000000000/{name}" for name in STATIC if name != "index.html"]
    sent = [int(client.get(path).headers["content-length"]) for path in ("/", *paths)]
    assert sum(sent) < 50_000, sent


def test_every_file_of_the_first_view_is_named_by_the_document_so_that_none_waits_for_another(
    assets: list[str],
) -> None:
    assert {path.rpartition("/")[2] for path in assets} == FIRST
    statically = re.compile(r'^(?:import|export) .*from "\./([\w.]+)";$', re.MULTILINE)
    assert all(set(statically.findall(STATIC[name])) <= FIRST for name in FIRST if name.endswith(".js"))


@pytest.mark.parametrize("name", sorted(name for name in STATIC if name.endswith(".js")))
def test_every_module_that_one_asks_for_is_there(name: str) -> None:
    asked = re.findall(r'(?:from |import\()"\./([\w.]+)"', STATIC[name])
    assert set(asked) <= STATIC.keys()


def test_files_are_compressed_for_whoever_takes_that(client: TestClient, assets: list[str]) -> None:
    for path in ("/", *assets):
        plain = client.get(path, headers={"accept-encoding": "br, gzipped"})
        zipped = client.get(path, headers={"accept-encoding": "br, GZIP"})
        assert "content-encoding" not in plain.headers
        assert zipped.headers["content-encoding"] == "gzip"
        assert plain.headers["vary"] == zipped.headers["vary"] == "accept-encoding"
        assert plain.content == zipped.content
        assert plain.headers["etag"] != zipped.headers["etag"]


def test_assets_are_kept_for_good_and_the_document_is_asked_for_again(client: TestClient, assets: list[str]) -> None:
    assert client.get("/").headers["cache-control"] == "no-cache"
    for path in assets:
        assert client.get(path).headers["cache-control"] == "public, max-age=31536000, immutable"


def test_an_asset_of_another_release_is_served_but_not_kept(client: TestClient) -> None:
    other = client.get("/assets/000000000000/app.js")
    assert other.status_code == 200
    assert other.headers["cache-control"] == "no-cache"


def test_entity_tags_are_strong_and_the_same_at_every_start(client: TestClient, assets: list[str]) -> None:
    again = TestClient(Starlette(routes=page_routes()))
    for path in ("/", *assets):
        tag = client.get(path).headers["etag"]
        assert re.fullmatch(r'"[\w-]{22}-gz"', tag)
        assert again.get(path).headers["etag"] == tag


def test_what_a_cache_has_already_is_not_sent_again(client: TestClient) -> None:
    first = client.get("/")
    tag = first.headers["etag"]
    for asked in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        answer = client.get("/", headers={"if-none-match": asked})
        assert (answer.status_code, answer.content) == (304, b"")
        assert answer.headers["etag"] == tag
        assert answer.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
    assert client.get("/", headers={"if-none-match": '"other"'}).content == first.content


@pytest.mark.parametrize("name", ["nothing.js", "index.html", "..%2Fpage.py", "__init__.py"])
def test_only_the_pages_own_files_are_there(client: TestClient, name: str) -> None:
    assert client.get(f"/assets/000000000000/{name}").status_code == 404


def test_types_are_exact_and_head_is_answered(client: TestClient, assets: list[str]) -> None:
    types = {path.rpartition(".")[2]: client.head(path).headers["content-type"] for path in assets}
    assert types == {
        "css": "text/css; charset=utf-8",
        "js": "text/javascript; charset=utf-8",
        "svg": "image/svg+xml; charset=utf-8",
    }


def test_the_policy_lets_nothing_in_from_elsewhere_nor_from_the_document_itself() -> None:
    policy = dict(directive.split(" ", 1) for directive in CONTENT_SECURITY_POLICY.split("; "))
    assert policy["default-src"] == "'none'"
    assert set(policy.values()) <= {"'self'", "'none'", "'script'"}
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["trusted-types"] == "'none'"


@pytest.mark.parametrize("name", sorted(STATIC))
def test_files_name_no_other_origin_and_make_no_markup(name: str) -> None:
    text = STATIC[name].replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert not re.search(r"https?:|//\w+\.", text)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|setHTML|DOMParser", text)
    if name.endswith(".html"):
        assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*src=)", text)
