"""``python -m xsda`` is ``xsda``; torchrun needs it."""

import sys

from xsda.cli import main

if __name__ == "__main__":
    sys.exit(main())
