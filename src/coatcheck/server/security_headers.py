"""The headers that every answer carries, whoever gives it: the application, or the edge itself. Leaves pages' own to `ui`."""

__all__ = ["SECURITY_HEADERS", "strict_transport_security"]

SECURITY_HEADERS: tuple[tuple[str, str], ...] = (
    # For whatever is no page of ours; pages bring their own.
    ("content-security-policy", "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    # `no-referrer` would make the Origin of a form's POST null.
    ("referrer-policy", "same-origin"),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("permissions-policy", "camera=(), geolocation=(), microphone=()"),
)


def strict_transport_security(max_age: int) -> tuple[str, str]:
    """RFC 6797, section 6.1: for so many seconds, browsers use nothing but TLS for this host; 0 takes that back."""
    return "strict-transport-security", f"max-age={max_age}"
