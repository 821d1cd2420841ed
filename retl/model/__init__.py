"""Pure values that every other part of retl speaks in: no I/O, no clock, no connector."""
