"""The services that are killed, stopped and filled."""

from tests.clients.postgres_server import pgbouncer, postgres, postgres_template, schema, start_postgres

__all__ = ["pgbouncer", "postgres", "postgres_template", "schema", "start_postgres"]
