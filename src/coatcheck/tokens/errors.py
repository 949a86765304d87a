"""What `coatcheck.tokens` raises beside the errors that everybody knows; both belong to the tree in `coatcheck.errors`."""

from coatcheck.errors import CoatcheckError

__all__ = ["IssuerUnavailable"]


class IssuerUnavailable(CoatcheckError):
    """Whether a token is still good cannot be told, since its issuer cannot be asked. For clients that is 503, not 401.

    `retry_after` is the number of seconds after which trying again makes sense (RFC 9110, section 10.2.3).
    """

    def __init__(self, message: str, *, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after: int = retry_after
