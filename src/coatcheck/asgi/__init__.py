"""ASGI: request in, response out, for HTTP and WebSockets. Leaves what credentials are worth to `credentials`."""

from coatcheck.asgi.middleware import SessionMiddleware

__all__ = ["SessionMiddleware"]
