"""``python -m retl``."""

from __future__ import annotations

import sys

from retl.cli import main

if __name__ == "__main__":
    sys.exit(main())
