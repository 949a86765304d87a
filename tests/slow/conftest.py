"""The services that are stopped for long and failed over."""

from tests.clients.postgres_server import postgres, postgres_template, start_postgres

__all__ = ["postgres", "postgres_template", "start_postgres"]
