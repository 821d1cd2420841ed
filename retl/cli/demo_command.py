"""``retl demo``: what the demo needs of this terminal, and what to do afterwards."""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
import time
from pathlib import Path

from retl.cli.exit_codes import FAILED, OK
from retl.cli.output import make_output
from retl.cli.status import show_status
from retl.demo.files import CHANGE_FILE, JOB_FILE, start_over
from retl.demo.story import Story


def demo(arguments: argparse.Namespace) -> int:
    """Run the demo; returns the exit code."""
    folder = Path(arguments.dir)
    started = time.monotonic()
    start_over(folder)
    if not Story(folder, lambda: make_output("auto"), show_status).run():
        print("\nThe demo ends here: what the last lines say should not happen.")
        return FAILED
    print(f"\nThat took {time.monotonic() - started:.0f} seconds. {_next_steps(folder)}")
    return OK


def _next_steps(folder: Path) -> str:
    command = _command()
    return f"""To go on from here:

  cd {shlex.quote(str(folder))}
  {command} run           on schedule, every 5 seconds, until Ctrl-C
  {command} plan          what the next scan would do
  {command} status        what was done; also: history, rejects
  {command} reset         forget the watermarks: the next scan reads everything

While it runs, change the warehouse (from another terminal) and watch the rows arrive:

  {shlex.quote(sys.executable)} {CHANGE_FILE}

Then look at {JOB_FILE}: nothing else was needed. `{command} init` writes one for your own data."""


def _command() -> str:
    """How the user called this program, so that the printed commands can be copied."""
    called = Path(sys.argv[0])
    if called.name != "retl":
        return f"{shlex.quote(sys.executable)} -m retl"
    return "retl" if shutil.which("retl") else shlex.quote(str(called.resolve()))
