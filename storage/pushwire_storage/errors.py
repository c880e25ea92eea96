"""What a store may fail with, and what each failure says about the data.

Plain exceptions; they decide nothing. `definite` is the promise that matters: whether a caller may say that nothing was
stored.
"""

from __future__ import annotations


class StoreError(Exception):
    """Something the store could not do. `definite` says whether nothing at all was stored."""

    code = "unavailable"
    definite = False


class StoreBusy(StoreError):
    """Another process held the write lock for too long; the batch was rolled back whole."""

    code = "busy"
    definite = True


class StoreFull(StoreError):
    """The disk is full; the batch was rolled back whole."""

    code = "insufficient_storage"
    definite = True


class StoreBroken(StoreError):
    """An I/O error or damage: what the last batch stored is unknown. The process must stop confirming and end."""


class StoreLocked(StoreError):
    """Another process owns these files. Raised by `open`."""

    code = "locked"
    definite = True


class StoreRefused(StoreError):
    """The file is newer than this program, damaged, or on a filesystem that cannot keep the promise. From `open`."""

    code = "refused"
    definite = True
