"""`GET /v1/events` by server-sent events and by WebSocket: the same told in two forms. Leaves what is told to `activity`."""

from coatcheck.server.events.socket import EventsSocket

__all__ = ["EventsSocket"]
