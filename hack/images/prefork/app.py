"""A WSGI application that says who answers: hostname and process id.

Gunicorn loads it in every worker. Boot builds a heap, so that there is something to freeze.
"""

import os
import socket
import time

HEAP = [{"number": n, "text": f"entry {n}"} for n in range(int(os.environ.get("ENTRIES", "60000")))]
BOOTED = time.monotonic()


def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/healthz":
        body = "ok\n"
    elif path == "/whoami":
        body = f"{socket.gethostname()} {os.getpid()} {os.getppid()}\n"
    elif path == "/uptime":
        body = f"{time.monotonic() - BOOTED}\n"
    else:
        body = f"{len(HEAP)}\n"
    data = body.encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(data)))])
    return [data]
