"""The server's own authority and certificates: what they vouch for, who can read them, and when they are renewed."""

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
    ADDRESSES,
    LOCALHOST,
    Subject,
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


def names_of(certificate: x509.Certificate) -> x509.SubjectAlternativeName:
    return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value


def test_only_the_owner_may_enter_and_read_keys(data_dir: Path) -> None:
    files = local_certificate(data_dir, NOW)
    assert mode(data_dir) == mode(data_dir / "tls") == 0o700
    keys = {data_dir / "tls" / "ca.key", *(key for _, key in files.pairs())}
    assert keys == set((data_dir / "tls").glob("*.key"))
    assert {mode(key) for key in keys} == {0o600}


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


def test_one_certificate_is_for_localhost_and_another_for_its_addresses(data_dir: Path) -> None:
    """None has names of both kinds: BoringSSL refuses addresses under an authority that is constrained to some."""
    named, unnamed = (load(certificate) for certificate, _ in local_certificate(data_dir, NOW).pairs())
    assert list(names_of(named)) == [x509.DNSName("localhost")]
    assert set(names_of(unnamed)) == {x509.IPAddress(ipaddress.ip_address(text)) for text in ("127.0.0.1", "::1")}
    # A common name that could be a host's is taken for one where there is no DNS name.
    (common,) = unnamed.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    assert " " in str(common.value)
    assert named.public_key() != unnamed.public_key()


@pytest.mark.parametrize(
    ("pair", "subject"),
    [
        (0, x509.DNSName("localhost")),
        (1, x509.IPAddress(ipaddress.ip_address("127.0.0.1"))),
        (1, x509.IPAddress(ipaddress.ip_address("::1"))),
    ],
    ids=["name", "IPv4", "IPv6"],
)
def test_a_strict_verifier_believes_it(data_dir: Path, pair: int, subject: x509.DNSName | x509.IPAddress) -> None:
    files = local_certificate(data_dir, NOW)
    assert files.authority is not None
    store = verification.Store([load(files.authority)])
    verifier = verification.PolicyBuilder().store(store).time(NOW).build_server_verifier(subject)
    assert len(verifier.verify(load(files.pairs()[pair][0]), [])) == 2
    with pytest.raises(verification.VerificationError):
        verifier.verify(load(files.pairs()[1 - pair][0]), [])


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
    for certificate, _ in second.pairs():
        assert load(certificate).not_valid_after_utc == second.expires_at
        load(certificate).verify_directly_issued_by(load(data_dir / "tls" / "ca.pem"))


def test_it_runs_out_when_the_first_of_the_two_does(data_dir: Path) -> None:
    first = local_certificate(data_dir, NOW)
    first.certificate.unlink()
    again = local_certificate(data_dir, NOW + timedelta(days=20))
    assert again.expires_at == first.expires_at
    assert load(again.certificate).not_valid_after_utc > first.expires_at


def test_the_one_certificate_of_earlier_servers_is_replaced_by_two_under_the_same_authority(data_dir: Path) -> None:
    first = local_certificate(data_dir, NOW)
    authority_file, authority_key_file = data_dir / "tls" / "ca.pem", data_dir / "tls" / "ca.key"
    authority, before = load(authority_file), (authority_file.read_bytes(), authority_key_file.read_bytes())
    signing = serialization.load_pem_private_key(before[1], None)
    assert isinstance(signing, ec.EllipticCurvePrivateKey)
    earlier = Subject("localhost", "localhost", (*LOCALHOST.names, *ADDRESSES.names))
    leaf, key = new_certificate(authority, signing, NOW, earlier)
    first.certificate.write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    first.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    for name in ("address.pem", "address.key"):
        (data_dir / "tls" / name).unlink()
    again = local_certificate(data_dir, NOW)
    assert [set(names_of(load(certificate))) for certificate, _ in again.pairs()] == [
        set(LOCALHOST.names),
        set(ADDRESSES.names),
    ]
    for pair in again.pairs():
        check_certificate(*pair)
        load(pair[0]).verify_directly_issued_by(authority)
    assert (authority_file.read_bytes(), authority_key_file.read_bytes()) == before


@pytest.mark.parametrize("pair", [0, 1], ids=["localhost", "addresses"])
@pytest.mark.parametrize("harm", ["lose the key", "cut the certificate", "another key"])
def test_a_damaged_certificate_is_made_anew_and_the_other_one_kept(
    data_dir: Path, tmp_path: Path, harm: str, pair: int
) -> None:
    """Another key is what a crash between the two writes leaves."""
    first = local_certificate(data_dir, NOW)
    certificate, key = first.pairs()[pair]
    kept = [path.read_bytes() for path in first.pairs()[1 - pair]]
    if harm == "lose the key":
        key.unlink()
    elif harm == "cut the certificate":
        certificate.write_bytes(certificate.read_bytes()[:100])
    else:
        ensure_data_dir(tmp_path / "other")
        key.write_bytes(local_certificate(tmp_path / "other", NOW).pairs()[pair][1].read_bytes())
    again = local_certificate(data_dir, NOW)
    check_certificate(*again.pairs()[pair])
    assert [path.read_bytes() for path in again.pairs()[1 - pair]] == kept


def test_a_certificate_without_names_is_made_anew(data_dir: Path) -> None:
    first = local_certificate(data_dir, NOW)
    authority = load(data_dir / "tls" / "ca.pem")
    signing = serialization.load_pem_private_key((data_dir / "tls" / "ca.key").read_bytes(), None)
    own = serialization.load_pem_private_key(first.key.read_bytes(), None)
    assert isinstance(signing, ec.EllipticCurvePrivateKey)
    assert isinstance(own, ec.EllipticCurvePrivateKey)
    leaf = load(first.certificate)
    builder = x509.CertificateBuilder().subject_name(leaf.subject).issuer_name(authority.subject)
    builder = builder.public_key(own.public_key()).serial_number(7)
    builder = builder.not_valid_before(leaf.not_valid_before_utc).not_valid_after(leaf.not_valid_after_utc)
    nameless = builder.sign(signing, hashes.SHA256())
    first.certificate.write_bytes(nameless.public_bytes(serialization.Encoding.PEM))
    assert list(names_of(load(local_certificate(data_dir, NOW).certificate))) == list(LOCALHOST.names)


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
    assert own.pairs() == ((files.certificate, files.key),)
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
