"""`python -m pymultiling`: the command line."""

import sys

from pymultiling.cli import main

sys.exit(main())
