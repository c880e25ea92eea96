"""The gateway: connections, protocol state, delivery engine and its pure core; no SQL, no client code."""
