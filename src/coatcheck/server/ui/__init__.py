"""The web page: its files and the routes that serve them. What it shows it asks of the REST API, like any other client.

Promises that nothing comes from another origin, and that the page can run only what is in this package: a strict
Content-Security-Policy without `unsafe-inline`, Trusted Types, and no framing.
"""

from coatcheck.server.ui.page import page_routes

__all__ = ["page_routes"]
