"""What long tests of the page share with those of the browser tier."""

from tests.browser.conftest import device, launch, new_device, playwright, server

__all__ = ["device", "launch", "new_device", "playwright", "server"]
