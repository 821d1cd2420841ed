"""The commands and their options."""

from __future__ import annotations

import argparse

import retl
from retl.cli import backfill, demo_command, init, inspect_commands, run, state_commands, status, steer_commands
from retl.cli.conditions import GRAMMAR
from retl.cli.exit_codes import EXPLAINED
from retl.host import GRACE

JOB_FILE = "jobs.toml"


def make_parser() -> argparse.ArgumentParser:
    """The whole command line; each command sets ``run``, which takes the arguments and returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="retl",
        description="Keep a target equal to what a source says, on a schedule.",
        epilog=EXPLAINED,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"retl {retl.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_run(commands)
    _add_inspect_commands(commands)
    _add_steer_commands(commands)
    _add_state_commands(commands)
    _add_start_commands(commands)
    return parser


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=text[0].lower() + text[1:].rstrip("."),
        description=text,
        epilog=EXPLAINED,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _of_jobs(command: argparse.ArgumentParser, *, json: bool = False) -> None:
    command.add_argument(
        "jobs", metavar="JOBFILE", nargs="?", default=JOB_FILE, help="the job file (default: %(default)s)"
    )
    command.add_argument(
        "--only", metavar="NAME", action="append", default=[], help="only this pipeline; may be repeated"
    )
    if json:
        command.add_argument("--json", action="store_true", help="print JSON, for programs")


def _of_table(command: argparse.ArgumentParser) -> None:
    command.add_argument("--table", metavar="NAME", help="only this table, by its name in the source")


def _add_run(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = _command(
        commands,
        "run",
        "Run the pipelines of a job file on their schedules. Ctrl-C (or SIGTERM) finishes the slice under way, if that takes "
        "no longer than the grace, and stops; a second one abandons the slice.",
    )
    _of_jobs(command)
    command.add_argument("--once", action="store_true", help="scan every table once, now, and stop")
    command.add_argument(
        "--table",
        metavar="NAME",
        action="append",
        default=[],
        help="with --once: only this table, by its name in the source; may be repeated",
    )
    command.add_argument(
        "--watch",
        action="store_true",
        help="take up changes of the job file, and of the files that it names, as they are saved; SIGHUP does that at once",
    )
    _add_output(command)
    command.add_argument(
        "--listen",
        metavar="ADDRESS",
        help="answer probes (/live, /ready) and show metrics (/metrics) over HTTP there, such as 127.0.0.1:8080",
    )
    command.set_defaults(run=run.run)

    command = _command(
        commands,
        "backfill",
        "Read a range of one table's cursor again: the rows with SINCE <= cursor < UNTIL. The watermark stays where it is. "
        "Where a process runs the pipeline it is sent there, and goes on beside the schedule; Ctrl-C leaves it alone. Where none does it runs "
        "here. One that was interrupted goes on where it stopped, when the same is asked for again.",
    )
    command.add_argument("pipeline", metavar="PIPELINE", help="the pipeline, by its name in the job file")
    command.add_argument("table", metavar="TABLE", help="the table, by its name in the source")
    command.add_argument("--since", metavar="VALUE", help="the first value to read, such as 2024-05-01")
    command.add_argument("--until", metavar="VALUE", help="the first value not to read")
    command.add_argument("--plan", action="store_true", help="show what it would do, and write nothing")
    command.add_argument("--no-wait", action="store_true", help="do not wait for the process that it is sent to")
    command.add_argument(
        "--cancel", action="store_true", help="end the one of this table that was sent and has not ended"
    )
    command.add_argument("--jobs", metavar="JOBFILE", default=JOB_FILE, help="the job file (default: %(default)s)")
    _add_output(command)
    command.set_defaults(run=backfill.backfill)


def _add_output(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--grace",
        metavar="TIME",
        default=GRACE,
        help="how long a slice may take after the first signal; then it is abandoned (default: %(default)s)",
    )
    command.add_argument(
        "--log-format",
        choices=("auto", "plain", "json"),
        default="auto",
        help="auto: progress bars on a terminal, else one plain line for each scan; json: a JSON line for each event",
    )


def _add_inspect_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    for name, function, text in (
        ("check", inspect_commands.check, "Test the connections and look at every table. Writes nothing."),
        ("tables", inspect_commands.tables, "List the tables that the sources offer."),
        ("plan", inspect_commands.plan, "Show what the next scans would do: windows, SQL, DDL, casts. Writes nothing."),
    ):
        command = _command(commands, name, text)
        _of_jobs(command, json=True)
        command.set_defaults(run=function)


def _add_steer_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    for name, text in (
        ("trigger", "Have the process that runs a pipeline scan it now, also while it is paused."),
        ("pause", "Start no further run on schedule, whichever process runs the pipeline, until it is resumed."),
        ("resume", "Let a paused pipeline go on with its schedule."),
        ("stop", "End the schedule in the process that runs a pipeline. A standby, or a restart, takes over."),
    ):
        command = _command(commands, name, text)
        _of_jobs(command, json=True)
        if name == "trigger":
            _of_table(command)
        command.set_defaults(run=steer_commands.steer, word=name)


def _add_state_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = _command(
        commands,
        "status",
        "Show every pipeline: last and next run, last success, lag, rows, rejects; of more than 20 tables a summary. The exit code "
        "is 1 where something fails. For probes --fail-if decides: 0 fine, 1 a condition holds, 2 nobody can tell.",
    )
    _of_jobs(command, json=True)
    _of_table(command)
    command.add_argument("--failed", action="store_true", help="only what fails")
    command.add_argument("--all", action="store_true", help="a line for each table, however many there are")
    command.add_argument(
        "--fail-if",
        metavar="CONDITION",
        action="append",
        default=[],
        help=f"end with exit code 1 where this holds for a pipeline or a table; may be repeated: {GRAMMAR}",
    )
    command.set_defaults(run=status.status)

    command = _command(commands, "history", "Show past scans, newest first.")
    _of_jobs(command, json=True)
    _of_table(command)
    command.add_argument("--limit", metavar="N", type=_count, default=20, help="how many (default: %(default)s)")
    command.set_defaults(run=state_commands.history)

    command = _command(
        commands, "reset", "Forget how far a table, or all, has been read: the next scan reads everything."
    )
    _of_jobs(command)
    _of_table(command)
    command.add_argument("--yes", action="store_true", help="do not ask")
    command.set_defaults(run=state_commands.reset)

    command = _command(
        commands, "adopt", "Take over target tables that another pipeline, renamed or given up, has written."
    )
    _of_jobs(command)
    _of_table(command)
    command.set_defaults(run=state_commands.adopt)

    command = _command(commands, "rejects", "Show the rows that a target rejected, with the reason.")
    _of_jobs(command, json=True)
    _of_table(command)
    command.add_argument("--limit", metavar="N", type=_count, default=20, help="how many (default: %(default)s)")
    command.add_argument("--clear", action="store_true", help="forget them instead")
    command.set_defaults(run=state_commands.rejects)


def _add_start_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = _command(commands, "init", "Write a job file with comments to start from.")
    command.add_argument("jobs", metavar="JOBFILE", nargs="?", default=JOB_FILE, help="where to (default: %(default)s)")
    command.set_defaults(run=init.init)

    command = _command(
        commands,
        "demo",
        "See it work on real data: the 336,776 flights that left New York in 2013, from DuckDB to SQLite.",
    )
    command.add_argument("--dir", metavar="FOLDER", default="retl-demo", help="where to put it (default: %(default)s)")
    command.set_defaults(run=demo_command.demo)


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


_count.__name__ = "number"  # argparse names the function in its message
