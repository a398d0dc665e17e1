"""session: everything that decides what a message means. It has no clock, no sockets and no logger.

`Session` (in `conversation`) is told what happened, with the time, and answers with `actions`.
Its machines, lowest first, each a file of functions over one struct of `state`:

    text       who said what, and which text waits for which
    rounds     function calls and their answers
    responses  wanted, asked for one at a time, followed to their end
    turns      the user's turn, barge-in, injected messages, the user's audio
    updates    mid-session changes, one at a time
    phases     from the open connection to a live upstream
    faults     what the upstream complains about
"""

from relay.session.conversation import Session
from relay.session.facts import Admission, ClientGone, Loss, UpstreamGone
from relay.session.options import SessionOptions

__all__ = ["Admission", "ClientGone", "Loss", "Session", "SessionOptions", "UpstreamGone"]
