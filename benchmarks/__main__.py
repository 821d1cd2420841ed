"""Run the benchmarks named on the command line, or all of them: ``python -m benchmarks [engine] [idle] [host] [small_server] [duckdb_to_sqlite] [mysql] [postgres] [elasticsearch] [file_formats] [files] [many_files] [documents] [ssh] [round_trips]``."""

from __future__ import annotations

import importlib
import sys

from benchmarks import common

ALL = (
    "engine",
    "idle",
    "host",
    "small_server",
    "duckdb_to_sqlite",
    "mysql",
    "postgres",
    "elasticsearch",
    "file_formats",
    "files",
    "many_files",
    "documents",
    "ssh",
    "round_trips",
)


def main(names: list[str]) -> int:
    unknown = [name for name in names if name not in ALL]
    if unknown:
        print(f"there is no benchmark {unknown[0]!r}; there are {', '.join(ALL)}", file=sys.stderr)
        return 2
    busy = common.busy_cores()
    if busy > 0.2:
        print(f"The machine is busy ({busy} cores): treat these figures with care.")
    for name in names or ALL:
        importlib.import_module(f"benchmarks.{name}").main()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
