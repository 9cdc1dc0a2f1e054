"""The way to a Neo4j server: transactions on worker threads, since its driver knows no Trio.

A transaction has a time of its own, within which the driver tries again what a busy server or a deadlock has
failed. A breaker leaves a server alone that cannot be reached. The driver is an extra
(``pip install caxton[neo4j]``) and is loaded when the memory is opened.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar

from node.breaker import Breaker, BreakerLimits
from node.environment import Environment
from node.errors import ConfigInvalid, MemoryBackendFailed

if TYPE_CHECKING:
    import neo4j

T = TypeVar("T")

LANE: Final = "graph"
"""Worker lane of all transactions."""
CONNECTIONS_LIMIT: Final = 8
"""Most connections to the server; more than the lane has threads."""
BREAKER: Final = BreakerLimits(failures=3, open_s=10.0, probes=1)
"""When a server is left alone."""


@dataclass(frozen=True, slots=True)
class GraphServer:
    """Where the memory is.

    Attributes:
        uri: Its address, such as ``neo4j+s://graph.example.org:7687``.
        username: Who this node is there; empty for a server that asks nobody.
        password: With this password.
        database: Where in it.
        timeout_s: For one connection, and for one transaction.
    """

    uri: str
    username: str
    password: str = field(repr=False)
    database: str = "neo4j"
    timeout_s: float = 10.0


class GraphClient:
    """Runs transactions on one server.

    Args:
        server: Where it is.
        environment: Time and workers.

    Raises:
        ConfigInvalid: the driver is not installed.
    """

    def __init__(self, server: GraphServer, environment: Environment) -> None:
        try:
            self._neo4j: Any = importlib.import_module("neo4j")
        except ImportError as error:
            raise ConfigInvalid(
                "the memory backend neo4j cannot be used",
                why="its driver is not installed",
                fix="pip install 'caxton[neo4j]'",
                details={"key": "memory.backend"},
            ) from error
        self._server = server
        self._environment = environment
        self._breaker = Breaker(BREAKER)
        self._driver: neo4j.Driver | None = None
        self._error = ""
        self._counts = {"transactions": 0, "failed_transactions": 0}

    async def read(self, job: Callable[[neo4j.ManagedTransaction], T]) -> T:
        """Run a job in a transaction that changes nothing; it may run more than once.

        Raises:
            MemoryBackendFailed: the server does not answer, or refuses.
        """
        return await self._run(lambda: self._transaction(job, writes=False))

    async def write(self, job: Callable[[neo4j.ManagedTransaction], T]) -> T:
        """Run a job in a transaction that is kept whole or not at all; it may run more than once.

        Raises:
            MemoryBackendFailed: the server does not answer, or refuses.
        """
        return await self._run(lambda: self._transaction(job, writes=True))

    async def prepare(self, statements: list[str]) -> None:
        """Make indexes and constraints, as far as they are not there, and wait until they can be used.

        Raises:
            MemoryBackendFailed: the server does not answer, or refuses.
        """
        await self._run(lambda: self._prepare(statements))

    def statistics(self) -> dict[str, Any]:
        """Counts of transactions, and whether the server is left alone."""
        return {
            "state": "failed" if self._error else "ok",
            "error": self._error or None,
            **self._counts,
            "connections_limit": CONNECTIONS_LIMIT,
            "breaker": self._breaker.statistics(self._environment.clock.now()),
        }

    async def aclose(self) -> None:
        """Close the connections; doing it twice is harmless."""
        driver, self._driver = self._driver, None
        if driver is not None:
            await self._environment.workers.run(LANE, driver.close)

    async def _run(self, job: Callable[[], T]) -> T:
        clock = self._environment.clock
        admission = self._breaker.admit(clock.now())
        if admission is None:
            raise self._failed("it has failed before and is left alone for a while")
        self._counts["transactions"] += 1
        try:
            found = await self._environment.workers.run(LANE, job)
        except (self._neo4j.exceptions.DriverError, self._neo4j.exceptions.Neo4jError, OSError) as error:
            self._counts["failed_transactions"] += 1
            self._breaker.failed(admission, clock.now())
            failure = self._failed(f"{type(error).__name__}: {str(error)[:300]}")
            self._error = str(failure)
            raise failure from error
        except BaseException:  # what a job itself raises says nothing of the server
            self._breaker.abandoned(admission)
            raise
        self._breaker.succeeded(admission)
        self._error = ""
        return found

    def _transaction(self, job: Callable[[neo4j.ManagedTransaction], T], *, writes: bool) -> T:
        timed = self._neo4j.unit_of_work(timeout=self._server.timeout_s)(job)
        with self._opened().session(database=self._server.database) as session:
            found: T = session.execute_write(timed) if writes else session.execute_read(timed)
            return found

    def _prepare(self, statements: list[str]) -> None:
        with self._opened().session(database=self._server.database) as session:
            for statement in statements:
                session.run(statement).consume()
            session.run("CALL db.awaitIndexes($s)", s=int(max(1, self._server.timeout_s))).consume()

    def _opened(self) -> neo4j.Driver:
        if self._driver is None:
            server = self._server
            auth = (server.username, server.password) if server.username else None
            self._driver = self._neo4j.GraphDatabase.driver(
                server.uri,
                auth=auth,
                connection_timeout=server.timeout_s,
                connection_acquisition_timeout=server.timeout_s,
                max_transaction_retry_time=server.timeout_s,
                max_connection_pool_size=CONNECTIONS_LIMIT,
                notifications_min_severity="OFF",
                user_agent="caxton",
            )
        driver: neo4j.Driver = self._driver
        return driver

    def _failed(self, why: str) -> MemoryBackendFailed:
        return MemoryBackendFailed(
            f"the Neo4j server {self._server.uri} failed",
            why=why,
            fix="Check that it is up, and memory.neo4j: uri, username, password, database.",
            details={"uri": self._server.uri},
        )
