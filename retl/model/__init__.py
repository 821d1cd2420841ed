"""Pure values that all other parts of retl share: no I/O, no clock, no connector."""
