"""descriptors: how many files and sockets the process may have open.

The limit that a shell or a service manager hands down is often 1024, for programs that use select;
what may be used is the hard limit behind it.
"""

import contextlib
import resource

import structlog

from relay.limits import Rules

OF_A_SESSION = 2
"""The client's and the upstream's; for moments one more, when the upstream is replaced."""
OF_THE_REST = 64
"""Listeners, pages, the store, the log, connections that do not become sessions."""


log = structlog.get_logger()


def provide(rules: Rules) -> None:
    """Have as many as there may be; say if that is too few for what the limits allow."""
    available, needed = raise_limit(), needed_for(rules)
    if available < needed:
        log.warning("too few descriptors for limits.sessions", available=available, needed=needed)


def raise_limit() -> int:
    """Raise the soft limit to the hard one; the limit that there is then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):  # a sandbox may forbid it; nothing is lost
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def needed_for(rules: Rules) -> int:
    """What the sessions need that these limits allow; 0 where there is no limit."""
    return rules.total.sessions and rules.total.sessions * OF_A_SESSION + OF_THE_REST
