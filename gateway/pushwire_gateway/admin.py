"""What an administrator asks for, with rights checked: topics and groups, dead letters, and what is going on.

Owns nothing but the order of checks (the right first, then the name, then whether it is there). Orchestration over
Topics and the store's Catalog; plain dictionaries come out, and every refusal is a `Refused`. Knows no HTTP.
"""

from __future__ import annotations

from .admin_dead import DeadLetters
from .admin_live import Live
from .admin_topics import Managed


class Admin(Managed, DeadLetters, Live):
    """Everything the admin API offers. Each method takes the principal first and acts inside its tenant only; all
    raise `Refused`: `forbidden`, `bad_topic`, `topic_not_found`, a store's code, and what they name."""
