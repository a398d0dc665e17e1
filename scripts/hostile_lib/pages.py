"""pages: asks for /healthz all the time, in a process of its own, as a load balancer would: what
keeps an attacker busy, who may be a slow Python program, is not the relay's slowness.

`python pages.py PORT` writes a line for each answer, its status and the milliseconds it took, until
its standard input is closed. Status 0: there was none in time.
"""

import select
import socket
import sys
import time

PATIENCE_S = 20.0
EVERY_S = 0.05
REQUEST = b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n"


def ask(port: int) -> int:
    """The status."""
    try:
        with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as connection:
            connection.sendall(REQUEST)
            return int(connection.recv(4096).split(b" ", 2)[1])
    except (OSError, IndexError, ValueError):
        return 0


def main() -> None:
    port = int(sys.argv[1])
    while not select.select([sys.stdin], [], [], EVERY_S)[0]:
        began = time.monotonic()
        status = ask(port)
        print(status, round((time.monotonic() - began) * 1000, 1), flush=True)


if __name__ == "__main__":
    main()
