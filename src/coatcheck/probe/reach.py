"""Finds out whether anybody is there at all: the first connection, the address to use from then on, and the certificate.

Sends no request. A certificate that is not to be trusted ends the probe, unless the user said otherwise or nothing leaves
the machine, where it is a finding instead.
"""

import ssl

import msgspec

from coatcheck.probe.errors import Failure
from coatcheck.probe.link import Link, TlsClient, open_link
from coatcheck.probe.options import Options
from coatcheck.probe.target import Endpoint, Target, is_loopback
from coatcheck.probe.tls import Certificate, Distrust, certificate_of, client_context, distrust_of
from coatcheck.probe.trace import Trace

__all__ = ["Reached", "TlsReport", "may_be_let_off", "reach"]

_PREFERRED = ("h2", "http/1.1")
_NEXT_ADDRESS_AFTER = 3.0
"""Seconds for an address that is not the last to be tried."""


class TlsReport(msgspec.Struct, frozen=True, kw_only=True):
    """What the server says of itself in TLS over TCP."""

    version: str | None
    cipher: str | None
    alpn: str | None
    """What it chooses from h2 and http/1.1."""
    certificate: Certificate | None
    checked: bool
    """Whether the certificate was checked in what followed."""


class Reached(msgspec.Struct, frozen=True, kw_only=True):
    """Who answered."""

    address: str
    verify: bool
    """Whether certificates are to be checked from now on."""
    tls: TlsReport | None


async def reach(trace: Trace, target: Target, addresses: tuple[str, ...], options: Options) -> Reached:
    """Connect to the first address that answers. Raises Failure, of the last address."""
    failure: Failure | None = None
    for address in addresses:
        last = address == addresses[-1]
        timeout = options.timeout if last else min(options.timeout, _NEXT_ADDRESS_AFTER)
        try:
            return await _reach_one(trace, target, address, options, timeout)
        except Failure as error:
            failure = error
            if error.kind not in ("refused", "unreachable", "timeout", "local"):
                break  # somebody is there
    assert failure is not None
    raise failure


def may_be_let_off(address: str, options: Options) -> bool:
    """Whether to measure although the certificate is not trusted: if the user says so, or if nothing leaves the machine.

    On loopback nobody can stand in between; who names an authority wants it to count all the same.
    """
    return options.insecure or (options.ca is None and is_loopback(address))


async def _reach_one(trace: Trace, target: Target, address: str, options: Options, timeout: float) -> Reached:
    endpoint = Endpoint(address, target.port)
    if not target.tls:
        link = await open_link(trace, trace.connection("tcp", "reach"), endpoint, tls=None, timeout=timeout)
        link.close()
        return Reached(address=address, verify=False, tls=None)
    try:
        link = await _open(trace, target, endpoint, options, timeout, verify=True)
        distrust = None
    except Failure as failure:
        cause = failure.__cause__
        if not isinstance(cause, ssl.SSLCertVerificationError):
            raise
        if not may_be_let_off(address, options):
            mend = "give its authority with --ca FILE, or measure without checking with --insecure"
            raise Failure(f"{failure}; {mend}", "certificate") from cause
        distrust = distrust_of(cause)
        link = await _open(trace, target, endpoint, options, timeout, verify=False)
    report = _report(link, distrust)
    link.close()
    return Reached(address=address, verify=distrust is None, tls=report)


async def _open(
    trace: Trace, target: Target, endpoint: Endpoint, options: Options, timeout: float, *, verify: bool
) -> Link:
    context = client_context(_PREFERRED, verify=verify, ca=options.ca)
    record = trace.connection("tls", "reach")
    return await open_link(trace, record, endpoint, tls=TlsClient(context, target.host), timeout=timeout)


def _report(link: Link, distrust: Distrust | None) -> TlsReport:
    assert link.tls is not None
    der = link.tls.getpeercert(binary_form=True)
    cipher = link.tls.cipher()
    return TlsReport(
        version=link.tls.version(),
        cipher=cipher[0] if cipher else None,
        alpn=link.tls.selected_alpn_protocol(),
        certificate=certificate_of(der, distrust) if der else None,
        checked=distrust is None,
    )
