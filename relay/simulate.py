"""simulate: the simulator alone, as a process that answers like an OpenAI-Realtime server.

It knows how to start and stop it. What it says is decided in `relay.simulator`.
"""

import signal
from pathlib import Path

import structlog
import trio

from relay.ready import write_ready_file
from relay.simulator.server import Options, serve_simulator

log = structlog.get_logger()


async def simulate(options: Options, ready_file: Path | None = None) -> int:
    """Serve until SIGTERM or SIGINT; the exit code, 1 when the address cannot be had."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            try:
                served = await nursery.start(serve_simulator, options)
            except OSError as error:
                reason = error.strerror or str(error)
                log.error("cannot listen", host=options.host, port=options.port, reason=reason)
                code = 1
            else:
                if ready_file:
                    write_ready_file(ready_file, [served.url])
                log.info("listening", url=served.url)
                await anext(signals)
                nursery.cancel_scope.cancel()
                code = 0
    return code
