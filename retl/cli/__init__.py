"""The command line. Thin: it reads arguments, calls the library and shows what comes back."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from retl.cli.exit_codes import INTERRUPTED, exit_code
from retl.cli.parser import make_parser
from retl.cli.render import print_error
from retl.model.errors import RetlError

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code (``retl --help`` lists them). Never ends the process itself."""
    for stream in (sys.stdout, sys.stderr):
        # A question mark for each letter that the terminal cannot show, rather than an error.
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")
    code = INTERRUPTED
    try:
        arguments = make_parser().parse_args(argv)
        code = arguments.run(arguments)
        sys.stdout.flush()
    except SystemExit as ending:  # argparse: help, or wrong usage
        return ending.code if isinstance(ending.code, int) else 0
    except RetlError as error:
        print_error(error)
        return exit_code(error)
    except KeyboardInterrupt:
        print("retl: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of the output is gone; the work is done all the same
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code
