"""`python -m runtime_metrics` is the command `runtime-metrics`."""

import sys

from runtime_metrics.cli import main

if __name__ == "__main__":
    sys.exit(main())
