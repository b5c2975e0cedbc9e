"""``python -m xent``."""

import sys

from xent.cli import main

if __name__ == "__main__":
    sys.exit(main())
