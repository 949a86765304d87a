"""The certificate that is served: taken up anew when its files change, and kept when what came in its place is no use.

Promises that the edge only ever reads a pair that fits together: it is given copies, in a directory of mode 0700, so that
an edge that must start again finds what was served before, whatever has become of the originals. Leaves making
certificates to `certificates`, and serving to `edge_process`.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path

from coatcheck.errors import CoatcheckError
from coatcheck.server.certificates import CertificateFiles, check_certificate, local_certificate
from coatcheck.server.edge import ADDRESS_SECRET, EDGE_SECRET, secret_config
from coatcheck.server.errors import CertificateError
from coatcheck.server.settings import Settings

__all__ = ["LOOK_INTERVAL", "ServedCertificate"]

LOOK_INTERVAL = 1.0
"""Seconds between two looks at the files."""
_RENEWAL_LOOKS = 600
"""Looks between two questions whether our own certificate must be renewed."""

_Seen = tuple[tuple[str, int, int], ...]


class ServedCertificate:
    """The operator's certificate and key, or our own two. Raises CertificateError when there is none to begin with.

    Always two secrets are written: an edge that runs goes on reading both when, on a reload, the operator's certificate
    takes the place of ours. That one serves whoever comes, so both secrets name it.
    """

    def __init__(self, settings: Settings, directory: Path, log: Callable[[str], None]) -> None:
        self._settings = settings
        self._directory = directory
        self.secret_file: Path = directory / "secret.json"
        """The edge's, for clients that name a host."""
        self.address_secret_file: Path = directory / "address-secret.json"
        """The edge's, for clients that name none."""
        self._log = log
        self._copies: list[list[Path]] = []
        self._made = 0
        self._looks = 0
        self.files: CertificateFiles = _find(settings)
        """Where the certificate was found, and until when it is good."""
        self._judged: _Seen = _seen(self.files)
        self._changing: _Seen = self._judged
        self._serve(self.files)

    def look(self) -> None:
        """Take up what changed, once it has stopped changing: certificate and key are rarely replaced in one stroke."""
        self._looks += 1
        seen = _seen(self.files)
        settled, self._changing = seen == self._changing, seen
        if (settled and seen != self._judged) or self._looks % _RENEWAL_LOOKS == 0:
            self.refresh(self._settings)

    def refresh(self, settings: Settings) -> None:
        """Take up what changed now. What is no use is said in one line, and what was served before is served on."""
        self._settings = settings
        try:
            files = _find(settings)
            seen = _seen(files)
            if seen != self._judged:
                self._serve(files)
                self._log(f"the certificate was replaced; the new one is good until {files.expires_at:%Y-%m-%d}")
        except (CoatcheckError, OSError) as error:
            # Judged as it is now, so that it is said once.
            self._judged = _seen(self.files)
            self._log(f"{error}; still serving the certificate from before")
        else:
            self.files, self._judged = files, seen

    def _serve(self, files: CertificateFiles) -> None:
        self._made += 1
        copies = [self._copy(pair, f"{self._made}-{number}") for number, pair in enumerate(files.pairs(), 1)]
        secrets = (EDGE_SECRET, self.secret_file, copies[0]), (ADDRESS_SECRET, self.address_secret_file, copies[-1])
        partials: list[tuple[Path, Path]] = []
        for name, secret_file, (certificate, key) in secrets:
            partial = secret_file.with_suffix(".partial")
            partial.write_text(json.dumps(secret_config(name, str(certificate), str(key))))
            partials.append((partial, secret_file))
        # When all could be written. Moved into place, because that is what Envoy watches for.
        for partial, secret_file in partials:
            partial.replace(secret_file)
        self._copies.append([path for copy in copies for path in copy])
        # The last but one may still be being read.
        for old in self._copies[:-2]:
            for path in old:
                path.unlink(missing_ok=True)
        del self._copies[:-2]

    def _copy(self, pair: tuple[Path, Path], number: str) -> tuple[Path, Path]:
        copy = self._directory / f"certificate-{number}.pem", self._directory / f"key-{number}.pem"
        for original, target in zip(pair, copy, strict=True):
            descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(original.read_bytes())
        try:
            check_certificate(*copy)  # the originals may have changed since they were
        except CertificateError:
            raise CertificateError(f"{pair[0]} and {pair[1]} change too quickly to be read") from None
        return copy


def _find(settings: Settings) -> CertificateFiles:
    if settings.tls_cert is not None and settings.tls_key is not None:
        return check_certificate(settings.tls_cert, settings.tls_key)
    return local_certificate(settings.data_dir)


def _seen(files: CertificateFiles) -> _Seen:
    """What changes when other files are named, or the same ones are replaced or rewritten."""
    found: list[tuple[str, int, int]] = []
    for path in (path for pair in files.pairs() for path in pair):
        try:
            status = path.stat()
            found.append((str(path), status.st_mtime_ns, status.st_ino))
        except OSError:
            found.append((str(path), 0, 0))
    return tuple(found)
