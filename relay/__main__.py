"""`python -m relay`, the same as the console script `relay`."""

import signal
import sys

# While modules are imported there is nothing to tidy up: Ctrl-C ends the process, with no
# traceback of whatever import it hit. `relay.cli` listens to it while a command runs.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from relay.cli import main

if __name__ == "__main__":
    sys.exit(main())
