"""An application that cannot be made: for the test of what a start then says."""

from typing import NoReturn

from coatcheck.errors import StoreUnavailable


def create_app(settings: object, worker: object) -> NoReturn:
    raise StoreUnavailable("the store cannot be opened")
