"""`python -m nas_osr`: the same as the command `nas-osr`."""

from __future__ import annotations

import sys

from nas_osr.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
