"""`python -m relay`, the same as the console script `relay`."""

import sys

from relay.cli import main

sys.exit(main())
