"""A web application beside the gateway: it publishes orders, and gives tokens to who is signed in. Owns no delivery.

    pip install fastapi 'uvicorn[standard]' pushwire 'python-jose[cryptography]'
    SIGNING_KEY_FILE=private.pem EXAMPLE_USERS='{"ann": "a long password"}' uvicorn backend:app --port 8000

The gateway knows the public half of the key and takes this application's pages by their Origin (README.md beside this
file says how). Browsers publish nothing: they send orders here, where they are looked at, and take messages from there.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, HTTPException, Response
from fastapi.security import HTTPBasic, HTTPBasicCredentials
from fastapi.staticfiles import StaticFiles
from jose import jwt
from pydantic import BaseModel, Field

from pushwire import Admin, Client, Conflict, IdConflict, PushwireError

GATEWAY = os.environ.get("PUSHWIRE_URL", "ws://127.0.0.1:8080")
KEY_ID = os.environ.get("SIGNING_KEY_ID", "main")
SIGNING_KEY = Path(os.environ["SIGNING_KEY_FILE"]).read_text(encoding="utf-8")
USERS: dict[str, str] = json.loads(os.environ["EXAMPLE_USERS"])
JS = Path(__file__).resolve().parent.parent / "js"
TOKEN_TTL_S = 900
PUBLISH_TIMEOUT_S = float(os.environ.get("PUBLISH_TIMEOUT_S", "5"))
"""How long a request may wait for the gateway: less than a person does."""
OURS = [
    {"topics": ["orders", "orders.*"], "groups": ["desk"], "allow": ["publish", "create", "admin"]},
]
DESK = [
    {"topics": ["orders"], "groups": ["desk"], "allow": ["consume"]},
    {"topics": ["orders.done"], "allow": ["publish"]},
]


def sign(subject: str, caps: list[dict[str, list[str]]]) -> str:
    """A token for the gateway: who it is, and all that it may do there."""
    now = int(time.time())
    claims = {"sub": subject, "aud": "pushwire", "iss": "pushwire", "iat": now, "exp": now + TOKEN_TTL_S}
    unique = {"jti": secrets.token_urlsafe(16), "caps": caps}
    return str(jwt.encode({**claims, **unique}, SIGNING_KEY, algorithm="ES256", headers={"kid": KEY_ID}))


def own_token(_reason: str) -> str:
    """Asked for each connection, and before a token ends."""
    return sign("shop", OURS)


def signed_in(given: Annotated[HTTPBasicCredentials, Depends(HTTPBasic())]) -> str:
    """Who is there. Your own sign-in goes here."""
    known = USERS.get(given.username, "")
    if not secrets.compare_digest(known.encode(), given.password.encode()) or not known:
        raise HTTPException(401, "unknown user or password", {"WWW-Authenticate": "Basic"})
    return given.username


User = Annotated[str, Depends(signed_in)]
Key = Annotated[str | None, Header(min_length=1, max_length=255)]


@asynccontextmanager
async def connected(app: FastAPI) -> AsyncIterator[None]:
    """Topics and group are made here, so that browsers need no right to create. Leaving drains the client."""
    async with Admin(GATEWAY, own_token) as admin:
        for topic in ("orders", "orders.done"):
            with suppress(Conflict):  # there since the last start
                await admin.create_topic(topic)
        with suppress(Conflict):
            await admin.create_group("orders", "desk")
    async with Client(GATEWAY, own_token, name="shop", request_timeout_s=PUBLISH_TIMEOUT_S) as client:
        app.state.client = client
        yield


app = FastAPI(title="A shop that publishes to pushwire", lifespan=connected)


class Order(BaseModel):
    """What a browser may order."""

    item: str = Field(min_length=1, max_length=100)
    count: int = Field(default=1, ge=1, le=100)


@app.post("/orders", status_code=202)
async def order(order: Order, user: User, idempotency_key: Key = None) -> dict[str, Any]:
    """The answer comes after the gateway's COMMIT. The same Idempotency-Key again, within the gateway's ten minutes,
    stores nothing twice."""
    client: Client = app.state.client
    # Of this user: another's key is another message. A digest, since fewer characters make an id than a name.
    id = None if idempotency_key is None else hashlib.sha256(f"{user}:{idempotency_key}".encode()).hexdigest()
    # Orders of one user are delivered in their order.
    try:
        receipt = await client.publish("orders", {**order.model_dump(), "by": user}, id=id, key=user)
    except IdConflict as exc:
        raise HTTPException(422, "this Idempotency-Key belongs to another order") from exc
    except PushwireError as exc:
        wait = {"Retry-After": str(int(exc.retry_after_s or 0) + 1)}
        raise HTTPException(503 if exc.retryable else 502, exc.code, wait if exc.retryable else None) from exc
    return {"seq": receipt.seq, "duplicate": receipt.duplicate}


@app.post("/push-token")
async def push_token(user: User, response: Response) -> dict[str, str]:
    """A token of this user's own, and where it is good."""
    response.headers["Cache-Control"] = "no-store"
    return {"url": GATEWAY, "token": sign(user, DESK)}


app.mount("/pushwire", StaticFiles(directory=JS / "dist"))
app.mount("/desk", StaticFiles(directory=JS / "examples" / "desk", html=True))
app.mount("/react", StaticFiles(directory=JS / "examples" / "react", html=True))  # built by `npm run example`
