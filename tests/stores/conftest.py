"""The services that stores are tested on, one of each for each process that runs tests."""

from tests.clients.postgres_server import pgbouncer, postgres, schema

__all__ = ["pgbouncer", "postgres", "schema"]
