"""`python -m attnzoo.tools.export`, the same as `attnzoo export`."""

import sys

from attnzoo.tools.cli import main

main(["export", *sys.argv[1:]])
