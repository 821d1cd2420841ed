"""Where checkpoints and leases live: in memory, in a SQLite file, or inside the target."""
