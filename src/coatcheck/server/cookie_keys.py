"""The keys of sealed cookies, in a file that only its owner can read. Leaves what a good key is to `coatcheck.sealed`.

Promises that of several workers that start at once all get the same keys, and that a file is there whole or not at all.
"""

import base64
import binascii
import contextlib
import os
import stat
import tempfile
from pathlib import Path

from coatcheck.sealed import new_key
from coatcheck.server.errors import StartError

__all__ = ["cookie_keys"]

_HEAD = """\
# Keys of sealed cookies. The first one seals, all of them open. To rotate, put a new line before the others and reload:
#     openssl rand -base64 32
# An old key may go when its cookies are too old anyway, after a year. Without it their devices are unknown ones again.
"""


def cookie_keys(path: Path) -> list[bytes]:
    """Give the keys in the file, which is made with one key where there is none.

    Raises StartError, naming the file and the line, and never what is in it.
    """
    try:
        if not path.exists():
            _make(path)
        with path.open("rb") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise StartError(f"others may read the keys in {path}; chmod 600 it, and put a new key first")
            content = file.read()
    except OSError as error:
        raise StartError(f"the keys of sealed cookies in {path} cannot be used: {error.strerror}") from None
    lines = enumerate(content.splitlines(), 1)
    return [_key(path, number, line.strip()) for number, line in lines if line.strip() and not line.startswith(b"#")]


def _make(path: Path) -> None:
    content = _HEAD.encode() + base64.b64encode(new_key()) + b"\n"
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # Unlike a rename, a link does not take the place of what another worker made meanwhile.
        with contextlib.suppress(FileExistsError):
            os.link(name, path)
    finally:
        os.unlink(name)


def _key(path: Path, number: int, line: bytes) -> bytes:
    try:
        return base64.b64decode(line.translate(bytes.maketrans(b"-_", b"+/")) + b"=" * (-len(line) % 4), validate=True)
    except binascii.Error:
        # Without the cause, whose traceback shows the line.
        reason = f"line {number} of {path} is no key in base64; make one with: openssl rand -base64 32"
    raise StartError(reason)
