"""What `coatcheck.probe` raises and what it notes as a failure, each as one line for a person; the tree's root is elsewhere.

CoatcheckError
└── ProbeError
    ├── ProbeUsageError    the URL or an option is wrong; the message says what to change (also a UsageError)
    ├── Unreachable        nothing could be measured at all: no such name, refused, a certificate, silence
    └── Failure            one connection or request came to nothing; caught within the probe and put into the report
"""

from typing import Literal, TypeAlias

from coatcheck.errors import CoatcheckError, UsageError

__all__ = ["Failure", "FailureKind", "ProbeError", "ProbeUsageError", "Unreachable"]

FailureKind: TypeAlias = Literal[
    "refused", "unreachable", "timeout", "certificate", "tls", "reset", "closed", "garbage", "not-spoken", "local"
]
"""What came between: refused; no route; silence; a certificate; TLS itself; RST; an early end; bytes that are no HTTP;
another protocol than was asked for; something on this machine."""


class ProbeError(CoatcheckError):
    """The probe could not do what was asked of it. The message is one line, fit to be shown."""


class ProbeUsageError(ProbeError, UsageError, ValueError):
    """The URL or an option is wrong. The message says what to change."""


class Unreachable(ProbeError):
    """Nothing could be measured: over none of the versions came an answer. `kind` says what came between."""

    def __init__(self, message: str, kind: FailureKind | Literal["name"]) -> None:
        super().__init__(message)
        self.kind: FailureKind | Literal["name"] = kind


class Failure(ProbeError):
    """One connection or request came to nothing. `kind` is for programs, the message for people.

    `retry` is true where the server cannot have begun to answer, so that a client may send the request again on another
    connection (RFC 9110, section 9.2.2; RFC 9113, section 8.7).
    """

    def __init__(self, message: str, kind: FailureKind, *, retry: bool = False) -> None:
        super().__init__(message)
        self.kind: FailureKind = kind
        self.retry: bool = retry
