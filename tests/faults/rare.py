"""The rare states that a run of the fault scenarios must have seen, or it proves nothing of them.

Owns the list, which scenario shows which, and the row of the table that counts them. A run of some scenarios answers
for theirs only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from faults.table import Row

STATES = {
    "redelivery_after_kill": "kill", "duplicate": "kill", "dead_after_kill": "kill", "stale": "kill",
    "backoff": "kill", "expiry": "kill", "release": "kill", "reverted_ack": "kill", "retry_after_kill": "kill",
    "open_publish_kept": "kill", "id_conflict": "kill", "unsubscribe": "kill", "dead_expired": "kill",
    "delayed_over_stop": "kill",
    "store_busy": "writer", "insufficient_storage": "full", "ballast_used": "full",
    "corrupt_reported": "damage", "damage_refused": "damage",
    "duplicate_after_unsynced_kill": "power", "exit_after_io_error": "io", "stale_after_pause": "pause",
    "log_kept_by_reader": "reader",
}  # fmt: skip
"""By the scenario that shows it."""


def row(seen: Counter[str], ran: Collection[str]) -> Row:
    """What was seen how often. Invalid when one of those that had to be seen was not."""
    wanted = [state for state, scenario in STATES.items() if scenario in ran]
    never = [state for state in wanted if not seen[state]]
    text = ", ".join(f"{state} {seen[state]}" for state in wanted)
    if never:
        text += f"; NEVER SEEN: {', '.join(never)}"
    how = f"counted over the scenarios of the run: {', '.join(sorted(ran))}"
    return Row("rare states", how, "each is seen, else the run proves nothing of it", text, not never, not never)
