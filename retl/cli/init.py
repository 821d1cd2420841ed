"""``retl init``: a job file to start from."""

from __future__ import annotations

import argparse
from pathlib import Path

from retl.model.errors import ConfigError

TEMPLATE = """\
# A job file of retl: what is synced, and when. Try it:
#
#   retl check         test the connections and look at every table
#   retl plan          what a scan would do; writes nothing
#   retl run --once    scan every table once
#   retl run           run on schedule until Ctrl-C
#
# Passwords come from outside: password = "${DB_PASSWORD}" takes an environment variable,
# "${file:/run/secrets/db}" a file. Relative paths are taken from the folder of this file.

# [state]                       # where checkpoints are kept; this is the default:
# store = "target"              # inside the target; or "sqlite:///retl-state.db", or "memory"

# [defaults]                    # for every pipeline below, unless it says otherwise
# interval = "5m"

[pipelines.shop]
source = { type = "duckdb", path = "warehouse.duckdb" }
target = { type = "sqlite", path = "app.db" }
interval = "30s"                # or cron = "*/10 8-20 * * mon-fri" with timezone = "Europe/Berlin"
# blacklist = ["DELETE", "ALTER"] # actions that are never executed on the target

# Incremental: each scan reads the rows that changed since the last one.
[[pipelines.shop.tables]]
name = "orders"
cursor = "updated_at"           # the column that grows with every change
# key = ["id"]                  # what identifies a row; the primary key of the source by default
# lookback = "10m"              # read so much again, to find rows that were committed late
# columns = ["id", "total", "updated_at"]
# rename = { total = "amount" }
# where = "status <> 'draft'"
# max_rejects = 100             # keep so many rejects before the scan fails

# Full: each scan reads everything into a new table, which then takes the place of the old one.
[[pipelines.shop.tables]]
name = "daily_report"
pre_action = "swap"             # or mirror, none (upsert), truncate, rename_and_create with keep_archives = 3
# key = ["day"]                 # a query has no primary key of its own
# query = "SELECT day, sum(total) AS total FROM orders GROUP BY day"
# max_shrink = "50%"            # stop if more of the rows would vanish

# Many tables at once.
# [[pipelines.shop.tables]]
# match = "ods_*"
# to = "copy_{name}"
# cursor = "update_time"

# Statements before and after a run, or each scan, in the source or the target.
# [pipelines.shop.hooks]
# before_run = { on = "source", sql = "REFRESH MATERIALIZED VIEW models.orders" }
# after_scan = { on = "source", sql = "INSERT INTO export_log VALUES (:table, :rows)" }

# Tell somebody when it fails, and when that is over.
# [[pipelines.shop.alerts]]
# webhook = "${WEBHOOK_URL}"
# failures = 3                  # so often in a row
# last_success = "1h"           # the last success is longer ago
# template = { text = "{message}" }
"""


def init(arguments: argparse.Namespace) -> int:
    """Write the job file; never over one that is there."""
    path = Path(arguments.jobs)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(TEMPLATE)
    except FileExistsError:
        raise ConfigError(
            f"{str(path)!r} exists already, and was left as it is.", remedy="name another file."
        ) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"{str(path)!r} cannot be written: {reason}.", remedy="name another file.") from None
    command = "retl check" if arguments.jobs == "jobs.toml" else f"retl check {path}"
    print(f"Wrote {path}. Change its source, target and tables to yours, then try: {command}")
    return 0
