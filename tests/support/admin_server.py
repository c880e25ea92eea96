"""The admin API on loopback, small enough to see through: topics, groups, dead letters and connections in memory, with
the routes, shapes and refusals of docs/http.md.

Owns a server in a thread of its own, so that blocking commands and asyncio clients can both be its client. `faults`
may answer a request with bytes of a test's choice.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

CONFIG: dict[str, Any] = {
    "ack_timeout_ms": None, "max_failures": None, "max_deliveries": None, "weights": [1, 2, 4, 8], "strict": False,
    "retain_ms": 0, "max_age_ms": 0, "retain_bytes": None,
    "quota_messages": None, "quota_bytes": None, "expired": "dead", "ledger": "off",
    "dedupe": True,
}  # fmt: skip
STATS = (
    "at_ms", "topics", "groups", "messages", "bytes", "scheduled", "dead_letters", "connections", "sessions",
    "sessions_away", "subscriptions", "tails", "in_flight", "ready", "published", "refused", "delivered", "redelivered",
    "acked", "nacked", "rejected", "released", "extended", "stale",
)  # fmt: skip
TOKEN = "good-token"
PAGE = 2
"""Rows of one page: small, so that every list has several."""

Answer = tuple[int, Any]


class Refused(Exception):
    """A problem document."""

    def __init__(self, status: int, code: str, detail: str = "", **fields: Any) -> None:
        super().__init__(code)
        self.status = status
        self.document = {"title": code, "status": status, "code": code, "retryable": status in (429, 503), **fields}
        if detail:
            self.document["detail"] = detail


class FakeAdmin:
    """What the server remembers."""

    def __init__(self) -> None:
        self.topics: dict[str, dict[str, Any]] = {}
        self.groups: dict[str, dict[str, dict[str, Any]]] = {}
        self.dead: dict[str, list[dict[str, Any]]] = {}
        self.connections: dict[str, dict[str, Any]] = {}
        self.revoked: list[dict[str, Any]] = []
        self.backups: set[str] = set()
        self.requests: list[tuple[str, str, dict[str, str], Any]] = []
        """(method, path, query, body), in the order in which they came."""
        self.tokens = {TOKEN}
        self.faults: Callable[[str, str], bytes | None] = lambda _method, _path: None
        """May answer a request with raw bytes, after which the connection is closed; empty: without a word."""
        self.opened = 0
        """TCP connections."""
        self.redrive_max = 3
        """Dead letters one request puts back."""

    # --- what a test puts in -----------------------------------------------------------------------------------

    def add_topic(self, name: str, **fields: Any) -> None:
        self.topics[name] = {
            "name": name, "last_seq": 9, "messages": 5, "bytes": 500, "scheduled": 1, "dead_letters": 0,
            "group_count": 0, "member_count": 0, "in_flight": 0, "config": dict(CONFIG), **fields,
        }  # fmt: skip
        self.groups[name] = {}
        self.dead[name] = []

    def add_group(self, topic: str, name: str, **fields: Any) -> None:
        self.groups[topic][name] = {
            "name": name, "topic": topic, "start_seq": 0, "paused": False, "owner": None, "inactive_ttl_ms": 0,
            "member_count": 0, "in_flight": 0, "ready": 0, **fields,
        }  # fmt: skip

    def add_dead(self, topic: str, count: int, **fields: Any) -> None:
        letters = self.dead[topic]
        for id in range(len(letters) + 1, len(letters) + count + 1):
            message = {"seq": 100 + id, "id": f"m{id}", "priority": 1, "published_at_ms": 1000, "size_bytes": 7}
            letters.append(
                {"id": id, "topic": topic, "group": "billing", "reason": "failures", "error": "boom", "deliveries": 10,
                 "failures": 10, "at_ms": 2000, "message": message, **fields}
            )  # fmt: skip

    def add_connection(self, id: str) -> None:
        self.connections[id] = {
            "id": id, "subject": "ann", "ip": "127.0.0.1", "opened_at_ms": 1000, "expires_in_ms": 9,
            "subscriptions": [], "tails": 0, "refused": 0, "in_flight": 3, "in_flight_bytes": 30, "unsent_bytes": 0,
            "resume_grace_ms": 0,
        }  # fmt: skip

    # --- routes ------------------------------------------------------------------------------------------------

    def handle(self, method: str, path: str, query: dict[str, str], body: Any, headers: Any) -> Answer:
        if headers.get("Authorization", "").removeprefix("Bearer ") not in self.tokens:
            raise Refused(401, "unauthorized")
        for pattern, name in ROUTES:
            found = re.fullmatch(pattern, path)
            if found is not None:
                args = [unquote(part) for part in found.groups()]
                only_new = headers.get("If-None-Match") == "*"
                handler = getattr(self, f"{method.lower()}_{name}", None)
                if handler is None:
                    raise Refused(405, "method_not_allowed")
                answer: Answer = handler(*args, query=query, body=body, only_new=only_new)
                return answer
        raise Refused(404, "not_found")

    def _topic(self, name: str) -> dict[str, Any]:
        if name not in self.topics:
            raise Refused(404, "topic_not_found")
        return self.topics[name] | {"group_count": len(self.groups[name])}

    def _group(self, topic: str, name: str) -> dict[str, Any]:
        self._topic(topic)
        if name not in self.groups[topic]:
            raise Refused(404, "group_not_found")
        return self.groups[topic][name]

    def _configure(self, name: str, config: dict[str, Any]) -> None:
        unknown = config.keys() - CONFIG.keys()
        if unknown:
            raise Refused(400, "bad_config", f"'{min(unknown)}' is no field of it")
        self.topics[name]["config"] |= config

    def get_topics(self, query: dict[str, str], **_: Any) -> Answer:
        return 200, _page("topics", [self._topic(name) for name in sorted(self.topics)], "name", query.get("after", ""))

    def get_topic(self, name: str, **_: Any) -> Answer:
        return 200, self._topic(name) | {"groups": list(self.groups[name].values())}

    def put_topic(self, name: str, body: dict[str, Any], only_new: bool, **_: Any) -> Answer:
        known = name in self.topics
        if known and only_new:
            raise Refused(412, "conflict", "the topic is there already")
        if not known:
            self.add_topic(name)
        self.topics[name]["config"] = dict(CONFIG)
        self._configure(name, body)
        return 200 if known else 201, self._topic(name)

    def patch_topic(self, name: str, body: dict[str, Any], **_: Any) -> Answer:
        self._topic(name)
        self._configure(name, body)
        return 200, self._topic(name)

    def delete_topic(self, name: str, **_: Any) -> Answer:
        self._topic(name)
        del self.topics[name]
        return 204, None

    def post_purge(self, name: str, body: dict[str, Any], **_: Any) -> Answer:
        topic = self._topic(name)
        removed = min(topic["messages"], body.get("through_seq", 10**9))
        self.topics[name]["messages"] -= removed
        return 200, {"removed": removed}

    def get_messages(self, name: str, query: dict[str, str], **_: Any) -> Answer:
        after = int(query["after_seq"])
        self._topic(name)
        message = {"seq": after + 1, "id": "m", "priority": 1, "published_at_ms": 1, "size_bytes": 1, "data": 1}
        return 200, {"messages": [message], "gaps": [{"from": 1, "to": 2}], "through": after + 1}

    def get_history(self, name: str, seq: str, **_: Any) -> Answer:
        self._topic(name)
        event = {
            "at_ms": 1, "event": "acked", "group": "billing", "subject": "ann", "attempt": 1, "detail": None,
        }  # fmt: skip
        return 200, {"seq": int(seq), "ledger": "full", "events": [event]}

    def get_groups(self, topic: str, **_: Any) -> Answer:
        self._topic(topic)
        return 200, {"groups": [self.groups[topic][name] for name in sorted(self.groups[topic])]}

    def get_group(self, topic: str, name: str, **_: Any) -> Answer:
        member = {
            "sub": "s1", "subject": "ann", "connection": "n1.a", "prefetch": 32, "in_flight": 1, "ack_timeout_ms": 1000,
            "timeouts_in_a_row": 0, "away": False,
        }  # fmt: skip
        return 200, self._group(topic, name) | {"members": [member]}

    def put_group(self, topic: str, name: str, body: dict[str, Any], only_new: bool, **_: Any) -> Answer:
        self._topic(topic)
        known = name in self.groups[topic]
        if known and only_new:
            raise Refused(412, "conflict", "the group is there already")
        if not known:
            self.add_group(topic, name, inactive_ttl_ms=body.get("inactive_ttl_ms", 0))
        return 200 if known else 201, self.groups[topic][name]

    def delete_group(self, topic: str, name: str, **_: Any) -> Answer:
        self._group(topic, name)
        del self.groups[topic][name]
        return 204, None

    def post_pause(self, topic: str, name: str, **_: Any) -> Answer:
        self._group(topic, name)["paused"] = True
        return 200, self._group(topic, name)

    def post_resume(self, topic: str, name: str, **_: Any) -> Answer:
        self._group(topic, name)["paused"] = False
        return 200, self._group(topic, name)

    def post_seek(self, topic: str, name: str, body: dict[str, Any], **_: Any) -> Answer:
        start = body["start"]
        self._group(topic, name)["start_seq"] = start["seq"] - 1 if isinstance(start, dict) and "seq" in start else 0
        return 200, self._group(topic, name)

    def _matching(self, topic: str, match: dict[str, Any]) -> list[dict[str, Any]]:
        self._topic(topic)
        wanted = {name: match[name] for name in ("group", "reason") if name in match}
        return [
            letter
            for letter in self.dead[topic]
            if letter["id"] > int(match.get("after_id", 0)) and wanted.items() <= letter.items()
        ]

    def get_dead(self, topic: str, query: dict[str, str], **_: Any) -> Answer:
        return 200, _page("dead_letters", self._matching(topic, query), "id", 0)

    def get_letter(self, topic: str, id: str, **_: Any) -> Answer:
        for letter in self._matching(topic, {}):
            if letter["id"] == int(id):
                attempt = {"at_ms": 1, "how": "nacked", "subject": "ann", "error": "boom"}
                return 200, letter | {"message": letter["message"] | {"data": {"n": 1}}, "attempts": [attempt]}
        raise Refused(404, "not_found")

    def _take(self, topic: str, body: dict[str, Any]) -> dict[str, Any]:
        if ("ids" in body) == ("match" in body):
            raise Refused(400, "bad_request", "ids or match")
        found = self._matching(topic, body.get("match", {}))
        if "ids" in body:
            found = [letter for letter in found if letter["id"] in body["ids"]]
        taken, more = found[: self.redrive_max], len(found) > self.redrive_max
        self.dead[topic] = [letter for letter in self.dead[topic] if letter not in taken]
        after = taken[-1]["id"] if taken else body.get("match", {}).get("after_id", 0)
        return {"count": len(taken), "more": more, "after_id": after, "before_ms": body.get("before_ms", 5000)}

    def post_redrive(self, topic: str, body: dict[str, Any], **_: Any) -> Answer:
        taken = self._take(topic, body)
        return 200, {"redriven": taken.pop("count"), **taken}

    def post_discard(self, topic: str, body: dict[str, Any], **_: Any) -> Answer:
        taken = self._take(topic, body)
        return 200, {"discarded": taken.pop("count"), **taken}

    def get_connections(self, query: dict[str, str], **_: Any) -> Answer:
        rows = [self.connections[id] for id in sorted(self.connections)]
        return 200, _page("connections", rows, "id", query.get("after", ""))

    def delete_connection(self, id: str, **_: Any) -> Answer:
        if self.connections.pop(id, None) is None:
            raise Refused(404, "not_found")
        return 204, None

    def get_stats(self, **_: Any) -> Answer:
        return 200, dict.fromkeys(STATS, 0) | {"at_ms": 1, "topics": len(self.topics), "by_topic": {}, "push_ms": []}

    def get_revocations(self, **_: Any) -> Answer:
        return 200, {"revocations": self.revoked}

    def post_revocations(self, body: dict[str, Any], **_: Any) -> Answer:
        made = body | {"expires_at_ms": 9000}
        if "subject" in body:
            made.setdefault("issued_before_s", 77)
        self.revoked.append(made)
        return 201, made

    def post_backup(self, body: dict[str, Any], **_: Any) -> Answer:
        if body["path"] in self.backups:
            raise Refused(409, "conflict", "the file is there already")
        self.backups.add(body["path"])
        return 201, {"path": f"backups/{body['path']}", "bytes": 4096}


NAME = "([^/]+)"
TOPIC = f"/v1/admin/topics/{NAME}"
GROUP = f"{TOPIC}/groups/{NAME}"
ROUTES = (
    ("/v1/admin/topics", "topics"),
    (TOPIC, "topic"),
    (f"{TOPIC}/purge", "purge"),
    (f"{TOPIC}/messages", "messages"),
    (f"{TOPIC}/messages/{NAME}/history", "history"),
    (f"{TOPIC}/groups", "groups"),
    (GROUP, "group"),
    (f"{GROUP}/pause", "pause"),
    (f"{GROUP}/resume", "resume"),
    (f"{GROUP}/seek", "seek"),
    (f"{TOPIC}/dead", "dead"),
    (f"{TOPIC}/dead/redrive", "redrive"),
    (f"{TOPIC}/dead/discard", "discard"),
    (f"{TOPIC}/dead/{NAME}", "letter"),
    ("/v1/admin/connections", "connections"),
    (f"/v1/admin/connections/{NAME}", "connection"),
    ("/v1/admin/stats", "stats"),
    ("/v1/admin/revocations", "revocations"),
    ("/v1/admin/backup", "backup"),
)


def _page(field: str, rows: list[dict[str, Any]], mark: str, after: Any) -> dict[str, Any]:
    rest = [row for row in rows if row[mark] > after]
    return {field: rest[:PAGE], "more": len(rest) > PAGE}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def setup(self) -> None:
        super().setup()
        self.server.admin.opened += 1

    def handle_request_of(self, method: str) -> None:
        admin, parts = self.server.admin, urlsplit(self.path)
        length = int(self.headers.get("Content-Length", 0))
        raw = self.rfile.read(length)
        body = json.loads(raw) if raw else {}
        query = dict(parse_qsl(parts.query))
        admin.requests.append((method, parts.path, query, body))
        fault = admin.faults(method, parts.path)
        if fault is not None:
            self.wfile.write(fault)
            self.close_connection = True
            return
        try:
            status, answer = admin.handle(method, parts.path, query, body, self.headers)
        except Refused as exc:
            status, answer = exc.status, exc.document
        self.send_response(status)
        if status != 204:
            content = json.dumps(answer).encode()
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if status != 204:
            self.wfile.write(content)

    def do_GET(self) -> None:
        self.handle_request_of("GET")

    def do_PUT(self) -> None:
        self.handle_request_of("PUT")

    def do_PATCH(self) -> None:
        self.handle_request_of("PATCH")

    def do_POST(self) -> None:
        self.handle_request_of("POST")

    def do_DELETE(self) -> None:
        self.handle_request_of("DELETE")

    def log_message(self, *_: Any) -> None:
        """Tests look at `requests`."""


class Server(ThreadingHTTPServer):
    """The socket of one FakeAdmin."""

    daemon_threads = True

    def __init__(self, admin: FakeAdmin) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.admin = admin

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # a client may go before its answer
            super().handle_error(request, client_address)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextlib.contextmanager
def admin_server(admin: FakeAdmin | None = None) -> Iterator[Server]:
    server = Server(admin or FakeAdmin())
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join(5)
        server.server_close()
