"""Receivers of webhooks for the tests, on loopback, which may be silent for a while."""

from __future__ import annotations

import contextlib
import http.server
import threading
import typing as t

from .money import PATIENCE

#: One key for all of them, as Standard Webhooks writes it.
SECRET = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="


class Receiver:
    """A receiver that answers when it is awake."""

    def __init__(self) -> None:
        #: The bodies that it was sent.
        self.bodies: list[bytes] = []
        #: What answers wait for.
        self.is_awake = threading.Event()
        self.is_awake.set()
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                receiver.bodies.append(self.rfile.read(length))
                receiver.is_awake.wait(PATIENCE)
                with contextlib.suppress(ConnectionError):
                    self.send_response(204)
                    self.end_headers()

            def log_message(self, *args: t.Any) -> None:
                """Say nothing."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"


@contextlib.contextmanager
def receiving() -> t.Iterator[Receiver]:
    """Start a receiver, and stop it in the end."""
    receiver = Receiver()
    thread = threading.Thread(target=receiver.server.serve_forever, args=[0.01])
    thread.start()
    try:
        yield receiver
    finally:
        receiver.is_awake.set()
        receiver.server.shutdown()
        thread.join(PATIENCE)
        receiver.server.server_close()
