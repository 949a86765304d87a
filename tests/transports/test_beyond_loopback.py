"""What others than this machine get: TLS, or the way to it. In a network of the test's own, where nobody else is."""

import json
import shutil
import subprocess
import sys
from typing import Any

import pytest

from tests.clients.serving import ROOT

ALONE = ["unshare", "--user", "--map-root-user", "--net"]
YEAR = "max-age=31536000"


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    if not shutil.which("ip") or subprocess.run([*ALONE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this system gives nobody a network of their own (unshare, ip)")
    directory = tmp_path_factory.mktemp("beyond")
    command = [*ALONE, sys.executable, "-m", "tests.transports.beyond_loopback", str(directory)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.parametrize("kind", ["edge", "bare"])
def test_plain_requests_from_outside_are_sent_to_tls_or_misdirected(answers: Any, kind: str) -> None:
    found = answers[kind]["plain from outside"]
    assert (found["status"], found["headers"]["location"]) == (308, "https://login.example.com:8443/a?b=c")
    assert "strict-transport-security" not in found["headers"]
    assert found["headers"]["x-content-type-options"] == "nosniff"
    for name in ("plain from outside for localhost", "plain from outside for the address"):
        assert answers[kind][name]["status"] == 421
        assert answers[kind][name]["headers"]["content-type"] == "application/problem+json"


@pytest.mark.parametrize("kind", ["edge", "bare"])
def test_this_machine_is_served_in_plain_under_loopbacks_names_only(answers: Any, kind: str) -> None:
    served = answers[kind]["plain from loopback"]
    assert served["status"] == 200
    assert json.loads(served["body"])["scheme"] == "http"
    assert "strict-transport-security" not in served["headers"]
    assert answers[kind]["plain from loopback for the public host"]["status"] == 308


def test_over_tls_the_public_host_is_served_and_browsers_are_told_to_stay(answers: Any) -> None:
    found = answers["edge"]["tls from outside"]
    assert found["status"] == 200
    seen = json.loads(found["body"])
    assert (seen["client"][0], seen["scheme"]) == ("192.0.2.1", "https")
    assert found["headers"]["strict-transport-security"] == YEAR


def test_the_edges_own_answers_carry_the_headers_of_security(answers: Any) -> None:
    for name, status in (("tls from outside, refused", 400), ("tls from outside for another host", 421)):
        found = answers["edge"][name]
        assert found["status"] == status
        assert found["headers"]["content-type"] == "application/problem+json"
        assert found["headers"]["x-frame-options"] == "DENY"
        assert found["headers"]["content-security-policy"].startswith("default-src 'none'")
        assert json.loads(found["body"])["status"] == status


def test_for_localhost_browsers_are_told_nothing(answers: Any) -> None:
    found = answers["edge"]["tls for localhost"]
    assert found["status"] == 200
    assert "strict-transport-security" not in found["headers"]
