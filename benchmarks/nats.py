# ruff: noqa: PLC0415 - its roles run with an interpreter that has nats-py and nothing else
"""Durable messages through two Caxton nodes and through NATS JetStream, in turn, on one machine.

    .venv/bin/python -m benchmarks.nats --nats-python VENV/bin/python --csv

It needs Debian's package ``nats-server`` and, in a virtual environment of its own, the package ``nats-py``.

Caxton: two processes, TLS 1.3 between them, messages signed, routed by capability, stored and deduplicated at
both, handled by a function and settled; counted when their end is on disk at their origin. NATS: one server
with file storage, a publisher that waits for the acknowledgement of each batch, and a consumer that pulls and
acknowledges each message, all at once and without TLS; counted are the messages consumed while both are at
work. Bodies are the same length as Caxton's sealed messages.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any, Final

BODY_BYTES: Final = 480
"""About the length of a sealed message of the other side."""
BATCH: Final = 100
"""Messages published, or fetched, at a time."""
STREAM: Final = "bench"
SUBJECT: Final = "bench.work"


def main() -> int:
    """Measure both in turn and print rates and their ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each run")
    parser.add_argument("--window", type=int, default=3_000, help="open messages of Caxton")
    parser.add_argument(
        "--nats-python", type=Path, default=Path(sys.executable), help="an interpreter with nats-py"
    )
    parser.add_argument("--csv", action="store_true", help="write the figures to results/")
    parser.add_argument("--role", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role:
        print(json.dumps(asyncio.run(ROLES[options.role](options.port, options.seconds))))
        return 0
    if shutil.which("nats-server") is None:
        raise SystemExit("nats-server is not installed; on Debian: apt-get install nats-server")
    from benchmarks.report import machine, show, write  # the roles run where Caxton is not installed

    facts, rows = machine(), []
    for run in range(options.runs):
        caxton = _caxton(options)
        nats = _nats(options)
        rows.append({"run": run, "caxton_per_s": caxton, **nats})
        print(rows[-1], file=sys.stderr)
    ratio = median(row["caxton_per_s"] / row["nats_consumed_per_s"] for row in rows)
    show(
        ("Caxton, settled/s", "NATS, published/s", "NATS, consumed/s", "ratio of each run, median"),
        [
            [
                *(f"{median(row[key] for row in rows):,.0f}" for key in list(rows[0])[1:]),
                f"{ratio:.2f}",
            ]
        ],
    )
    print(f"\n{facts}\nraw: {write('nats', facts, rows) if options.csv else 'not written'}")
    return 0


def _caxton(options: argparse.Namespace) -> float:
    import trio

    from benchmarks.messaging.loads import Origin
    from benchmarks.messaging.provider import provider
    from benchmarks.nodes import bundle, config, init, running

    async def run(directory: Path) -> float:
        async with (
            running(config(bundle(directory, "origin"))) as (node, gossip),
            provider(directory, gossip),
        ):
            origin = Origin(node)
            await origin.wait_for_provider()
            await origin.one_way("warm-up", window=options.window, duration_s=1.0)
            load = await origin.one_way("one way", window=options.window, duration_s=options.seconds)
            return load.settled / load.seconds

    with tempfile.TemporaryDirectory(prefix="caxton-nats-") as name:
        directory = Path(name)
        init(directory, ["origin", "provider"])
        return trio.run(run, directory)


def _nats(options: argparse.Namespace) -> dict[str, float]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="caxton-nats-") as directory:
        server = subprocess.Popen(
            ["nats-server", "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", directory],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _wait_for(port)
            _role("prepare", port, options).communicate()
            roles = {role: _role(role, port, options) for role in ("publish", "consume")}
            found = {role: json.loads(process.communicate()[0]) for role, process in roles.items()}
        finally:
            server.terminate()
            server.wait(10)
    return {"nats_published_per_s": found["publish"], "nats_consumed_per_s": found["consume"]}


def _role(role: str, port: int, options: argparse.Namespace) -> subprocess.Popen[str]:
    command = [options.nats_python, "-m", "benchmarks.nats", "--role", role, "--port", str(port)]
    return subprocess.Popen(
        [*map(str, command), "--seconds", str(options.seconds)], stdout=subprocess.PIPE, text=True
    )


def _wait_for(port: int) -> None:
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise SystemExit("nats-server does not answer")


async def _stream(port: int) -> tuple[Any, Any]:
    import nats

    connection = await nats.connect(f"nats://127.0.0.1:{port}")
    stream = connection.jetstream(publish_async_max_pending=4 * BATCH)
    return connection, stream


async def _prepare(port: int, seconds: float) -> float:
    """Make the stream that the others use."""
    from nats.js.api import StorageType

    connection, stream = await _stream(port)
    await stream.add_stream(name=STREAM, subjects=[SUBJECT], storage=StorageType.FILE)
    await connection.close()
    return seconds


async def _publish(port: int, seconds: float) -> float:
    """Publish, a batch in flight at a time; what is acknowledged per second."""
    connection, stream = await _stream(port)
    body, count = b"x" * BODY_BYTES, 0
    began = time.perf_counter()
    while (passed := time.perf_counter() - began) < seconds:
        await asyncio.gather(*[await stream.publish_async(SUBJECT, body) for _ in range(BATCH)])
        count += BATCH
    await connection.close()
    return count / passed


async def _consume(port: int, seconds: float) -> float:
    """Pull and acknowledge; what is consumed per second while there is something to consume."""
    from nats.errors import TimeoutError as NothingThere

    connection, stream = await _stream(port)
    subscription = await stream.pull_subscribe(SUBJECT, durable="worker")
    count, began, last = 0, 0.0, 0.0
    while True:
        try:
            messages = await subscription.fetch(BATCH, timeout=1.0 if began else 10.0)
        except NothingThere:
            break
        began = began or time.perf_counter()
        for message in messages:
            await message.ack()
        last = time.perf_counter()
        count += len(messages)
        if last - began >= seconds:
            break
    await connection.close()
    return count / (last - began)


ROLES: Final = {"prepare": _prepare, "publish": _publish, "consume": _consume}


if __name__ == "__main__":
    sys.exit(main())
