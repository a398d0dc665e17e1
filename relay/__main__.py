"""`python -m relay`, the same as the console script `relay`."""

import signal
import sys

# Until a command runs, and hears it, there is nothing to tidy up: Ctrl-C ends the process, without
# a traceback of whatever import it hit.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from relay.cli import main

if __name__ == "__main__":
    sys.exit(main())
