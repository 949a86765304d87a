"""Which certificate is served while its files change, come apart, and go."""

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from coatcheck.server.certificates import new_authority, new_certificate
from coatcheck.server.edge import ADDRESS_SECRET, EDGE_SECRET
from coatcheck.server.errors import CertificateError
from coatcheck.server.served_certificate import ServedCertificate
from coatcheck.server.settings import Settings

NOW = datetime.now(UTC)
AUTHORITY = new_authority(NOW)


class Operator:
    """An operator's two files, and what the edge is given."""

    def __init__(self, directory: Path) -> None:
        self.cert, self.key = directory / "cert.pem", directory / "key.pem"
        self.edge = directory / "edge"
        self.edge.mkdir()
        self.said: list[str] = []
        self._times = 0

    def issue(self, days: int = 0) -> tuple[bytes, bytes]:
        certificate, key = new_certificate(*AUTHORITY, NOW + timedelta(days=days))
        pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
        return certificate.public_bytes(pem), key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)

    def write(self, path: Path, content: bytes) -> None:
        path.write_bytes(content)
        # Clocks of file systems are coarse.
        self._times += 1
        os.utime(path, ns=(self._times * 10**9, self._times * 10**9))

    def serve(self) -> ServedCertificate:
        settings = Settings(data_dir=self.edge, tls_cert=self.cert, tls_key=self.key)
        return ServedCertificate(settings, self.edge, self.said.append)

    def given(self) -> tuple[bytes, bytes]:
        """The same whether a client names a host or not."""
        named, unnamed = given(self.edge)
        assert named == unnamed
        return named


def given(directory: Path) -> list[tuple[bytes, bytes]]:
    """What the edge is told to serve: certificate and key for clients that name a host, then for those that name none."""
    pairs: list[tuple[bytes, bytes]] = []
    for file, name in (("secret.json", EDGE_SECRET), ("address-secret.json", ADDRESS_SECRET)):
        (secret,) = json.loads((directory / file).read_text())["resources"]
        assert secret["name"] == name
        named = secret["tls_certificate"]
        chain, key = (Path(named[part]["filename"]).read_bytes() for part in ("certificate_chain", "private_key"))
        pairs.append((chain, key))
    return pairs


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    operator = Operator(tmp_path)
    for path, content in zip((operator.cert, operator.key), operator.issue(), strict=True):
        operator.write(path, content)
    return operator


def test_what_is_served_is_a_copy_that_only_its_owner_reads(operator: Operator) -> None:
    operator.serve()
    assert operator.given() == (operator.cert.read_bytes(), operator.key.read_bytes())
    assert {path.stat().st_mode & 0o777 for path in operator.edge.glob("key-*")} == {0o600}


def test_a_pair_that_was_replaced_is_taken_up_once_it_has_stopped_changing(operator: Operator) -> None:
    served = operator.serve()
    before = operator.given()
    cert, key = operator.issue(days=30)
    operator.write(operator.cert, cert)
    served.look()
    operator.write(operator.key, key)  # in between, the two do not belong together
    served.look()
    assert (operator.given(), operator.said) == (before, [])
    served.look()
    assert operator.given() == (cert, key)
    assert len(operator.said) == 1
    assert f"good until {served.files.expires_at:%Y-%m-%d}" in operator.said[0]
    for _ in range(5):
        served.look()
    assert len(operator.said) == 1


@pytest.mark.parametrize("broken", ["nonsense", "other-key", "gone"])
def test_a_replacement_that_is_no_use_is_said_once_and_the_old_one_served_on(operator: Operator, broken: str) -> None:
    served = operator.serve()
    before = operator.given()
    if broken == "nonsense":
        operator.write(operator.cert, b"nonsense")
    elif broken == "other-key":
        operator.write(operator.key, operator.issue()[1])
    else:
        operator.cert.unlink()
    for _ in range(5):
        served.look()
    assert operator.given() == before
    assert len(operator.said) == 1
    assert operator.said[0].endswith("still serving the certificate from before")
    assert "\n" not in operator.said[0]
    # And once it is mended, it is taken up.
    for path, content in zip((operator.cert, operator.key), operator.issue(days=9), strict=True):
        operator.write(path, content)
    for _ in range(3):
        served.look()
    assert operator.given() == (operator.cert.read_bytes(), operator.key.read_bytes()) != before


def test_links_that_point_elsewhere_are_noticed(operator: Operator, tmp_path: Path) -> None:
    """As ACME clients leave them."""
    (tmp_path / "live").mkdir()
    links = Operator(tmp_path / "live")
    links.cert.symlink_to(operator.cert)
    links.key.symlink_to(operator.key)
    served = links.serve()
    for name, content in zip(("cert2", "key2"), operator.issue(days=5), strict=True):
        operator.write(tmp_path / name, content)
    for link, name in ((links.cert, "cert2"), (links.key, "key2")):
        link.unlink()
        link.symlink_to(tmp_path / name)
    served.look()
    served.look()
    assert links.given() == ((tmp_path / "cert2").read_bytes(), (tmp_path / "key2").read_bytes())


def test_old_copies_are_thrown_away(operator: Operator) -> None:
    served = operator.serve()
    for days in range(1, 6):
        for path, content in zip((operator.cert, operator.key), operator.issue(days), strict=True):
            operator.write(path, content)
        served.refresh(Settings(data_dir=operator.edge, tls_cert=operator.cert, tls_key=operator.key))
    assert len(list(operator.edge.glob("key-*"))) == 2


def test_a_pair_of_no_use_keeps_a_server_from_starting(operator: Operator) -> None:
    operator.write(operator.key, b"nonsense")
    with pytest.raises(CertificateError, match=r"key\.pem is not a private key"):
        operator.serve()


@pytest.mark.parametrize("lost", ["localhost.pem", "address.pem", "address.key"])
def test_our_own_are_renewed_without_a_restart(tmp_path: Path, lost: str) -> None:
    said: list[str] = []
    served = ServedCertificate(Settings(data_dir=tmp_path), tmp_path, said.append)
    first = given(tmp_path)
    (tmp_path / "tls" / lost).unlink()
    served.look()
    served.look()
    renewed, kept = (0, 1) if lost.startswith("localhost") else (1, 0)
    now = given(tmp_path)
    assert now[renewed] != first[renewed]
    assert now[kept] == first[kept]
    own = [(tmp_path / "tls" / stem) for stem in ("localhost", "address")]
    assert now == [(path.with_suffix(".pem").read_bytes(), path.with_suffix(".key").read_bytes()) for path in own]
    assert len(said) == 1
    assert {path.stat().st_mode & 0o777 for path in tmp_path.glob("key-*")} == {0o600}


def test_the_operators_takes_the_place_of_both_of_ours_and_gives_it_back(operator: Operator) -> None:
    """As a reload may have it: the edge that runs reads the same two secrets before and after."""
    data_dir = operator.edge
    served = ServedCertificate(Settings(data_dir=data_dir), data_dir, operator.said.append)
    ours = given(data_dir)
    assert ours[0] != ours[1]
    served.refresh(Settings(data_dir=data_dir, tls_cert=operator.cert, tls_key=operator.key))
    assert operator.given() == (operator.cert.read_bytes(), operator.key.read_bytes())
    served.refresh(Settings(data_dir=data_dir))
    assert given(data_dir) == ours
    assert len(operator.said) == 2
