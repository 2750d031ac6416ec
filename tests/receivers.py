"""Receivers of webhooks for the tests, on loopback: what each was sent, and how it answers."""

from __future__ import annotations

import contextlib
import dataclasses
import http.server
import json
import threading
import typing as t

#: One key for all of them, as Standard Webhooks writes it.
SECRET = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="


@dataclasses.dataclass(frozen=True)
class Request:
    """What a receiver was sent."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def data(self) -> dict[str, t.Any]:
        """The fields of its event."""
        found: dict[str, t.Any] = json.loads(self.body)["data"]
        return found


class Receiver:
    """A receiver that answers as it is told to."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        #: Statuses of the next answers; then it is 204.
        self.answers: list[int] = []
        #: What answers wait for.
        self.is_awake = threading.Event()
        self.is_awake.set()
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                receiver.requests.append(Request(self.path, headers, body))
                status = receiver.answers.pop(0) if receiver.answers else 204
                receiver.is_awake.wait(60)
                with contextlib.suppress(ConnectionError):
                    self.send_response(status)
                    if 300 <= status < 400:
                        self.send_header("Location", f"{receiver.url}/elsewhere")
                    self.send_header("Content-Length", "0")
                    self.end_headers()

            do_GET = do_POST

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
        thread.join(60)
        receiver.server.server_close()
