"""A small HTTP server whose state a test can check: heap, clocks, process ids, hostname.

HEAP_MB     size of a heap filled with known bytes at start (default 64)
WORKERS     0: threads in one process; N: N forked workers that share the listening socket
BOOT_SLEEP  seconds to sleep while booting, to look like a slow application (default 0)

GET /healthz      200 "ok"
GET /             JSON: what this process knows of itself
GET /write?NAME   appends a line to /srv/NAME and returns the number of lines
"""

import http.server
import json
import os
import socket
import time
import zlib

STARTED = time.monotonic()


def fill(megabytes):
    """Pages that differ from each other and do not compress to nothing."""
    heap = bytearray(megabytes << 20)
    block = zlib.compress(os.urandom(2048) + bytes(2048))
    for at in range(0, len(heap) - len(block) - 8, 4096):
        heap[at : at + 8] = at.to_bytes(8, "little")
        heap[at + 8 : at + 8 + len(block)] = block
    return heap


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/healthz":
            self.answer("text/plain", b"ok\n")
        elif self.path == "/":
            self.answer("application/json", json.dumps(state()).encode() + b"\n")
        elif self.path.startswith("/write?") and self.path[7:].isalnum():
            self.answer("text/plain", b"%d\n" % append(self.path[7:]))
        else:
            self.send_error(404)

    def answer(self, kind, body):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


def state():
    return {
        "hostname": socket.gethostname(),
        "pid": os.getpid(),
        "ppid": os.getppid(),
        "uptime": time.monotonic() - STARTED,
        "monotonic": time.monotonic(),
        "wall": time.time(),
        "heap_bytes": len(HEAP),
        "heap_checksum": zlib.crc32(HEAP),
        "random": os.urandom(8).hex(),
    }


def append(name):
    path = os.path.join("/srv", name)
    with open(path, "a") as file:
        file.write("line\n")
    with open(path) as file:
        return sum(1 for _ in file)


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True


HEAP = fill(int(os.environ.get("HEAP_MB", "64")))
time.sleep(float(os.environ.get("BOOT_SLEEP", "0")))
server = Server(("0.0.0.0", 8000), Handler)
print("listening on 8000", flush=True)
for _ in range(int(os.environ.get("WORKERS", "0"))):
    if os.fork() == 0:
        server.serve_forever()
if os.environ.get("WORKERS", "0") == "0":
    server.serve_forever()
while True:
    os.wait()
