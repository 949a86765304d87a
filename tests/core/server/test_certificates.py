"""The server's own authority and certificate: what they vouch for, who can read them, and when they are renewed."""

import ipaddress
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509 import verification

from coatcheck.server.certificates import (
    check_certificate,
    ensure_data_dir,
    local_certificate,
    new_authority,
    new_certificate,
)
from coatcheck.server.errors import CertificateError, StartError

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    path = tmp_path / "deep" / "data"
    ensure_data_dir(path)
    return path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_only_the_owner_may_enter_and_read_keys(data_dir: Path) -> None:
    files = local_certificate(data_dir, NOW)
    assert mode(data_dir) == mode(data_dir / "tls") == 0o700
    assert mode(files.key) == mode(data_dir / "tls" / "ca.key") == 0o600


def test_the_authority_vouches_for_loopback_and_nothing_else(data_dir: Path) -> None:
    files = local_certificate(data_dir, NOW)
    assert files.authority is not None
    extension = load(files.authority).extensions.get_extension_for_class(x509.NameConstraints)
    assert extension.critical
    assert extension.value.excluded_subtrees is None
    assert {str(each.value) for each in extension.value.permitted_subtrees or []} == {
        "localhost",
        "127.0.0.0/8",
        "::1/128",
    }
    basic = load(files.authority).extensions.get_extension_for_class(x509.BasicConstraints)
    assert (basic.critical, basic.value.ca, basic.value.path_length) == (True, True, 0)


def test_the_certificate_is_for_localhost_by_name_and_address(data_dir: Path) -> None:
    leaf = load(local_certificate(data_dir, NOW).certificate)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert set(names.get_values_for_type(x509.IPAddress)) == {
        ipaddress.ip_address("127.0.0.1"),
        ipaddress.ip_address("::1"),
    }


@pytest.mark.parametrize(
    "subject", [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("::1"))], ids=["name", "address"]
)
def test_a_strict_verifier_believes_it(data_dir: Path, subject: x509.DNSName | x509.IPAddress) -> None:
    files = local_certificate(data_dir, NOW)
    assert files.authority is not None
    store = verification.Store([load(files.authority)])
    verifier = verification.PolicyBuilder().store(store).time(NOW).build_server_verifier(subject)
    assert len(verifier.verify(load(files.certificate), [])) == 2


def test_a_strict_verifier_believes_nothing_else_under_the_authority() -> None:
    authority, key = new_authority(NOW)
    leaf_key = ec.generate_private_key(ec.SECP256R1())
    names = x509.SubjectAlternativeName([x509.DNSName("bank.example")])
    template, _ = new_certificate(authority, key, NOW)
    builder = x509.CertificateBuilder().subject_name(template.subject).issuer_name(template.issuer)
    builder = builder.public_key(leaf_key.public_key()).serial_number(7)
    builder = builder.not_valid_before(template.not_valid_before_utc).not_valid_after(template.not_valid_after_utc)
    for extension in template.extensions:
        if isinstance(extension.value, x509.SubjectAlternativeName):
            builder = builder.add_extension(names, extension.critical)
        else:
            builder = builder.add_extension(extension.value, extension.critical)
    forged = builder.sign(key, hashes.SHA256())
    policy = verification.PolicyBuilder().store(verification.Store([authority])).time(NOW)
    with pytest.raises(verification.VerificationError):
        policy.build_server_verifier(x509.DNSName("bank.example")).verify(forged, [])


def test_a_second_start_changes_nothing(data_dir: Path) -> None:
    first = local_certificate(data_dir, NOW)
    before = {path: path.read_bytes() for path in (data_dir / "tls").iterdir()}
    assert local_certificate(data_dir, NOW + timedelta(days=1)) == first
    assert before == {path: path.read_bytes() for path in (data_dir / "tls").iterdir()}


def test_the_certificate_is_renewed_a_month_before_it_runs_out_under_the_same_authority(data_dir: Path) -> None:
    first = local_certificate(data_dir, NOW)
    authority = (data_dir / "tls" / "ca.pem").read_bytes()
    assert local_certificate(data_dir, first.expires_at - timedelta(days=31)) == first
    second = local_certificate(data_dir, first.expires_at - timedelta(days=29))
    assert second.expires_at > first.expires_at
    assert (data_dir / "tls" / "ca.pem").read_bytes() == authority
    load(second.certificate).verify_directly_issued_by(load(data_dir / "tls" / "ca.pem"))


@pytest.mark.parametrize("harm", ["lose the key", "cut the certificate", "another key"])
def test_a_damaged_certificate_is_made_anew(data_dir: Path, tmp_path: Path, harm: str) -> None:
    first = local_certificate(data_dir, NOW)
    if harm == "lose the key":
        first.key.unlink()
    elif harm == "cut the certificate":
        first.certificate.write_bytes(first.certificate.read_bytes()[:100])
    else:
        ensure_data_dir(tmp_path / "other")
        first.key.write_bytes(local_certificate(tmp_path / "other", NOW).key.read_bytes())
    again = local_certificate(data_dir, NOW)
    check_certificate(again.certificate, again.key)


@pytest.mark.parametrize("harm", ["lose its key", "cut it", "let it run out"])
def test_a_damaged_authority_is_never_replaced_silently(data_dir: Path, harm: str) -> None:
    local_certificate(data_dir, NOW)
    now = NOW
    if harm == "lose its key":
        (data_dir / "tls" / "ca.key").unlink()
    elif harm == "cut it":
        (data_dir / "tls" / "ca.pem").write_text("-----BEGIN CERTIFICATE-----\n")
    else:
        now = NOW + timedelta(days=3650)
    with pytest.raises(CertificateError, match=r"delete .*/tls to have a new one made") as caught:
        local_certificate(data_dir, now)
    assert "\n" not in str(caught.value)


def test_the_operators_own_pair_is_checked(data_dir: Path, tmp_path: Path) -> None:
    files = local_certificate(data_dir, NOW)
    own = check_certificate(files.certificate, files.key)
    assert own.authority is None
    assert own.expires_at == files.expires_at
    with pytest.raises(CertificateError, match="is not the key of"):
        check_certificate(files.certificate, data_dir / "tls" / "ca.key")
    with pytest.raises(CertificateError, match="cannot be read: No such file"):
        check_certificate(tmp_path / "absent.pem", files.key)
    with pytest.raises(CertificateError, match="not a certificate in PEM form"):
        check_certificate(files.key, files.key)
    with pytest.raises(CertificateError, match="not a private key in PEM form"):
        check_certificate(files.certificate, files.certificate)


def test_a_key_with_a_passphrase_or_of_a_kind_that_cannot_serve_is_said_so(data_dir: Path, tmp_path: Path) -> None:
    files = local_certificate(data_dir, NOW)
    key = serialization.load_pem_private_key(files.key.read_bytes(), None)
    locked = tmp_path / "locked.key"
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(CertificateError, match="encrypted; give a key without a passphrase"):
        check_certificate(files.certificate, locked)
    odd = ed25519.Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "odd")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(odd.public_key())
    builder = builder.serial_number(1).not_valid_before(NOW).not_valid_after(NOW + timedelta(days=1))
    (tmp_path / "odd.pem").write_bytes(builder.sign(odd, None).public_bytes(serialization.Encoding.PEM))
    (tmp_path / "odd.key").write_bytes(
        odd.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    with pytest.raises(CertificateError, match="of a kind that the edge cannot use"):
        check_certificate(tmp_path / "odd.pem", tmp_path / "odd.key")


def test_a_data_directory_that_others_may_enter_is_shut_if_empty_and_refused_if_not(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    empty = tmp_path / "empty"
    empty.mkdir(mode=0o755)
    ensure_data_dir(empty)
    assert mode(empty) == 0o700
    with pytest.raises(StartError, match="others may enter the data directory"):
        ensure_data_dir(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(StartError, match="cannot be used: File exists"):
        ensure_data_dir(tmp_path / "file")
