"""``python -m refnode`` is the command ``refnode``."""
import sys

from refnode.cli import main

if __name__ == "__main__":
    sys.exit(main())
