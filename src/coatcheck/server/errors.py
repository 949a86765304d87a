"""What can keep the server from starting, each as one line that says what to do; leaves the rest to `coatcheck.errors`.

CoatcheckError
└── ServerError          the operator's to mend: shown as one line, exit status 1
    ├── SettingsError    a setting is unknown, malformed, or contradicts another
    ├── CertificateError a certificate or key cannot be read, or they do not belong together
    └── StartError       a port is taken, a part is missing, a process would not come up
"""

from coatcheck.errors import CoatcheckError

__all__ = ["CertificateError", "ServerError", "SettingsError", "StartError"]


class ServerError(CoatcheckError):
    """The server cannot run as it was told to; the message names the thing and the mend."""


class SettingsError(ServerError):
    """A setting is unknown, malformed, or contradicts another."""


class CertificateError(ServerError):
    """A certificate or its key cannot be read, or they do not belong together."""


class StartError(ServerError):
    """A port is taken, a part is not installed, or a process would not come up."""
