"""`python -m ivr_dist`: the command line, for places where the entry point is not installed (a Ray job's upload)."""

import sys

from ivr_dist.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
