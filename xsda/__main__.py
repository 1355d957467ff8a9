"""``python -m xsda`` is ``xsda``; torchrun needs it."""

from xsda.cli import main

main()
