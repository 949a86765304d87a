"""A software authenticator: makes and uses passkeys as a browser and a device do together, and can lie in each part.

By Web Authentication Level 3: section 6.1 (authenticator data), 5.8.1 (client data), ES256 keys, no attestation.
"""

import base64
import hashlib
import json
import secrets
from dataclasses import dataclass, field
from typing import Any

import cbor2
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

USER_PRESENT, USER_VERIFIED, ATTESTED = 0x01, 0x04, 0x40


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@dataclass
class Authenticator:
    """One passkey. `make` answers creation options, `show` request options."""

    origin: str = "https://localhost:8443"
    verified: bool = True
    counts: bool = True
    credential_id: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    count: int = 0
    handle: str = ""

    def make(self, options: dict[str, Any], **lies: Any) -> dict[str, Any]:
        self.handle = options["user"]["id"]
        numbers = self.key.public_key().public_numbers()
        cose = {1: 2, 3: -7, -1: 1, -2: numbers.x.to_bytes(32, "big"), -3: numbers.y.to_bytes(32, "big")}
        attested = bytes(16) + len(self.credential_id).to_bytes(2, "big") + self.credential_id + cbor2.dumps(cose)
        data = self._data(lies.get("rp_id", options["rp"]["id"]), ATTESTED) + attested
        client = self._client("webauthn.create", options["challenge"], lies)
        statement = {"fmt": "none", "attStmt": {}, "authData": data}
        response = {
            "clientDataJSON": b64(client),
            "attestationObject": b64(cbor2.dumps(statement)),
            "transports": ["internal"],
        }
        return self._credential(response)

    def show(self, options: dict[str, Any], **lies: Any) -> dict[str, Any]:
        if self.counts:
            self.count += 1
        data = self._data(lies.get("rp_id", options["rpId"]), 0)
        client = self._client("webauthn.get", options["challenge"], lies)
        signature = self.key.sign(data + hashlib.sha256(client).digest(), ec.ECDSA(SHA256()))
        response = {
            "clientDataJSON": b64(client),
            "authenticatorData": b64(data),
            "signature": b64(signature),
            "userHandle": lies.get("handle", self.handle),
        }
        return self._credential(response)

    def _data(self, rp_id: str, flags: int) -> bytes:
        flags |= USER_PRESENT | (USER_VERIFIED if self.verified else 0)
        return hashlib.sha256(rp_id.encode()).digest() + bytes([flags]) + self.count.to_bytes(4, "big")

    def _client(self, kind: str, challenge: str, lies: dict[str, Any]) -> bytes:
        told = {"type": lies.get("type", kind), "challenge": challenge, "origin": lies.get("origin", self.origin)}
        return json.dumps({**told, "crossOrigin": False}).encode()

    def _credential(self, response: dict[str, Any]) -> dict[str, Any]:
        identifier = b64(self.credential_id)
        return {
            "id": identifier,
            "rawId": identifier,
            "type": "public-key",
            "authenticatorAttachment": "platform",
            "clientExtensionResults": {},
            "response": response,
        }
