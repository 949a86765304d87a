"""The services that stores are tested on, one of each for each process that runs tests."""

from tests.clients.postgres_server import pgbouncer, postgres, postgres_template, schema, start_postgres

__all__ = ["pgbouncer", "postgres", "postgres_template", "schema", "start_postgres"]
