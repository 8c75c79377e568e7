"""``python -m unisock`` is the command ``unisock``."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
