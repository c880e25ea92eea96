"""The whole HTTP API of a gateway, put together from its modules.

Owns which routes there are. No rule lives here.
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import ASGIApp

from pushwire_web import static_dir

from .admin_api import admin_routes
from .api import make_app
from .dashboard import dashboard_routes
from .gateway import Gateway
from .hub import Stats
from .metrics import metrics_route
from .specs import spec_routes


def whole_app(gateway: Gateway, port: Callable[[], Stats]) -> ASGIApp:
    """Everything but the WebSocket. `port`: the counters of the listener."""
    return make_app(
        gateway,
        *admin_routes(gateway),
        metrics_route(gateway, port),
        *spec_routes(gateway.settings),
        *dashboard_routes(static_dir()),
    )
