"""What long tests share with those of the other tiers: services that are stopped for long and failed over, and the server."""

from tests.clients.postgres_server import pgbouncer, postgres, postgres_template, schema, start_postgres
from tests.stores.conftest import redis_server
from tests.transports.conftest import server

__all__ = ["pgbouncer", "postgres", "postgres_template", "redis_server", "schema", "server", "start_postgres"]
