"""Work on the messages of one topic until SIGTERM or Ctrl-C, then drain: finish what was begun, give the rest back.

    PUSHWIRE_URL=ws://127.0.0.1:8080 PUSHWIRE_TOKEN=... python worker.py orders --group billing

Owns the shape of a worker: a handler that may fail, retry or reject; a drain on a signal. `--count N` stops after N
messages; `--work-s S` is how long one keeps it busy.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys

from pushwire import Client, Message, PushwireError, Reject, Retry


class Worker:
    """One handler and when to stop."""

    def __init__(self, count: int | None, work_s: float) -> None:
        self.left = count
        self.work_s = work_s
        self.stop = asyncio.Event()

    async def handle(self, message: Message) -> None:
        """Act on a message idempotently, by its id: it may come more than once."""
        if message.encoding != "json":
            raise Reject(f"a {message.encoding} body is not for this worker")
        value = message.json()
        if isinstance(value, dict) and value.get("fail") == "retry" and message.attempt == 1:
            raise Retry(delay_s=0.1, error="asked to")
        again = " again" if message.redelivered else ""
        print(f"begin {message.seq} attempt {message.attempt}{again}: {message.text}", flush=True)
        await asyncio.sleep(self.work_s)  # your work goes here
        print(f"done {message.seq}", flush=True)
        if self.left is not None:
            self.left -= 1
            if self.left <= 0:
                self.stop.set()


async def main() -> None:
    """Run until a signal, the count, or an error that ends the client."""
    parser = argparse.ArgumentParser(description="print and ack the messages of one topic")
    parser.add_argument("topic")
    parser.add_argument("--group", default="default")
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--count", type=int)
    parser.add_argument("--work-s", type=float, default=0.0)
    parser.add_argument("--url", default=os.environ.get("PUSHWIRE_URL", "ws://127.0.0.1:8080"))
    given = parser.parse_args()
    if not (token := os.environ.get("PUSHWIRE_TOKEN")):
        parser.error("PUSHWIRE_TOKEN is not set: it takes a token, as `pushwire token` makes")
    worker = Worker(given.count, given.work_s)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, worker.stop.set)
    async with (
        Client(given.url, token, name="example worker") as client,
        client.subscribe(given.topic, given.group, extend=True) as subscription,
        asyncio.TaskGroup() as tasks,
    ):
        running = tasks.create_task(subscription.run(worker.handle, given.concurrency))
        stopping = tasks.create_task(worker.stop.wait())
        await asyncio.wait([running, stopping], return_when=asyncio.FIRST_COMPLETED)
        await subscription.drain()
        worker.stop.set()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    try:
        asyncio.run(main())
    except* PushwireError as group:
        sys.exit("; ".join(f"{exc.code}: {exc}" for exc in group.exceptions if isinstance(exc, PushwireError)))
    except* ValueError as group:
        sys.exit("; ".join(str(exc) for exc in group.exceptions))
