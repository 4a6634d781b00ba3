"""What a service tells Prometheus of its database, by one query that its own role may ask.

So it is told of whichever server the service uses, and no other program or role has access to it.
"""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily
from prometheus_client.metrics_core import Metric
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from voservice import database
from voservice.metrics import Collect, gauge

# Of the connections those of all databases count, since the server limits them together.
_ASKED = text(
    """
    SELECT pg_database_size(d.datid) AS size, d.xact_commit, d.xact_rollback,
           (SELECT sum(numbackends) FROM pg_stat_database) AS connections,
           current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int AS most,
           (SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0) FROM pg_stat_activity
             WHERE datid = d.datid) AS oldest
      FROM pg_stat_database AS d WHERE d.datname = current_database()
    """
)


def of(engine: AsyncEngine) -> Collect:
    """Return the collector for the database of *engine*."""
    reader = database.reader(engine)
    server = f"{engine.url.host or ''}:{engine.url.port or 5432}"
    own = (server, engine.url.database or "")

    async def collect() -> Iterable[Metric]:
        async with reader.connect() as connection:
            found = (await connection.execute(_ASKED)).one()
        labels = ("server", "database")
        transactions = CounterMetricFamily(
            "database_transactions", "Transactions by their end", labels=[*labels, "outcome"]
        )
        transactions.add_metric([*own, "committed"], found.xact_commit)
        transactions.add_metric([*own, "rolled_back"], found.xact_rollback)
        return [
            gauge(
                "database_connections",
                "Connections to the server",
                {(server,): found.connections},
                ["server"],
            ),
            gauge("database_connections_most", "Connections it accepts", {(server,): found.most}, ["server"]),
            gauge("database_size_bytes", "Size of the database", {own: found.size}, labels),
            gauge(
                "database_oldest_transaction_seconds",
                "Age of the service's oldest transaction that is not yet over",
                {own: found.oldest},
                labels,
            ),
            transactions,
        ]

    return collect
