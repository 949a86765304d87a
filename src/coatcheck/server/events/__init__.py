"""`GET /v1/events` over WebSocket, and what both its transports say. The one by server-sent events is a route of `rest`."""
