"""The pure delivery core: takes time as an argument, reads no clock, does no I/O and never awaits."""
