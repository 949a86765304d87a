"""Finds out before anything starts whether the ports are free, and says in one line which is not."""

import errno
import socket

from coatcheck.server.errors import StartError
from coatcheck.server.settings import Settings

__all__ = ["addresses", "check_ports", "listen"]


def addresses(settings: Settings) -> tuple[str, ...]:
    """Where to listen; of localhost's two addresses only those that this machine has."""
    wanted = settings.listen_addresses()
    return tuple(each for each in wanted if len(wanted) == 1 or _has(each))


def check_ports(settings: Settings) -> None:
    """Raises StartError when a port that the edge will use cannot be had.

    Needed because two servers can share a port without an error (SO_REUSEPORT), each getting half of the requests.
    """
    for address in addresses(settings):
        for kind, port, option in (
            (socket.SOCK_STREAM, settings.http_port, "--http-port"),
            (socket.SOCK_STREAM, settings.https_port, "--https-port"),
            (socket.SOCK_DGRAM, settings.https_port, "--https-port"),
        ):
            _bind(address, port, kind, option).close()


def listen(settings: Settings) -> list[socket.socket]:
    """Sockets that listen on the plain port, for workers to inherit. Raises StartError."""
    sockets = [_bind(address, settings.http_port, socket.SOCK_STREAM, "--http-port") for address in addresses(settings)]
    for each in sockets:
        each.listen(1024)
        each.setblocking(False)
    return sockets


def _has(address: str) -> bool:
    try:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def _bind(address: str, port: int, kind: socket.SocketKind, option: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    bound = socket.socket(family, kind)
    try:
        if kind == socket.SOCK_STREAM:
            # Connections that have just ended do not keep the port; a listener does.
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind((address, port))
        if kind == socket.SOCK_STREAM:
            bound.listen(1)
    except OSError as error:
        bound.close()
        name = f"{'TCP' if kind == socket.SOCK_STREAM else 'UDP'} port {port} on {address}"
        if error.errno == errno.EADDRINUSE:
            raise StartError(f"{name} is taken; stop what uses it, or choose another with {option}") from None
        if error.errno == errno.EACCES:
            raise StartError(
                f"{name} needs more rights than this user has; choose one above 1023 with {option}"
            ) from None
        if error.errno == errno.EADDRNOTAVAIL:
            raise StartError(f"this machine has no address {address}; correct --host") from None
        raise StartError(f"{name} cannot be used: {error.strerror}") from None
    return bound
