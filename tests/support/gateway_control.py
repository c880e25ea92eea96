"""A gateway that a test in another language commands: killed, started again, asked for tokens, over HTTP on loopback.

Owns the small server and the rule that one command at a time is carried out. The gateway itself is `GatewayProcess`'s.
"""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from .gateway_process import GatewayFailed, GatewayProcess


@contextmanager
def controlled(gateway: GatewayProcess, rights: Sequence[str]) -> Iterator[str]:
    """The address that takes `POST /kill`, `POST /start`, and `POST /token` (`{"subject", "ttl_s", "age_s"?}`), which
    makes one of these `rights`."""

    def obey(verb: str, body: dict[str, Any]) -> dict[str, str]:
        if verb == "kill":
            gateway.kill()
        elif verb == "start":
            gateway.start()
        elif verb == "token":
            made_at = time.time() - body.get("age_s", 0)
            return {"token": gateway.token(body["subject"], rights, ttl_s=body["ttl_s"], now=made_at)}
        else:
            raise ValueError(verb)
        return {}

    class Handler(BaseHTTPRequestHandler):
        """One command; what it raises is the answer's text."""

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            try:
                status, answer = 200, obey(self.path.strip("/"), json.loads(body or b"{}"))
            except (GatewayFailed, TimeoutError, subprocess.TimeoutExpired, ValueError, KeyError) as error:
                status, answer = 500, {"error": repr(error)}
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_args: Any) -> None:
            """Nothing: the test says what went wrong."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, name="gateway-control")
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
