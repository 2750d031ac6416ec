"""Posting to webhooks as Standard Webhooks 1.0 says.

github.com/standard-webhooks/standard-webhooks, ``spec/standard-webhooks.md``: the same
``webhook-id`` at each attempt, symmetric signatures ``v1`` of id, time and body.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import http.client
import importlib.metadata
import json
import socket
import threading
import typing as t
import urllib.error
import urllib.request
import uuid
from urllib.parse import urlsplit

from ..payments.signatures import sign

#: Seconds for which a receiver may be silent,
TIMEOUT = 10
#: and after which it has to have answered, however slowly it talks.
LONGEST = 30


class NotTaken(RuntimeError):
    """A receiver did not answer, or not with a status of 200 to 299."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Takes no answer for an address: what is signed for one receiver is for no other."""

    def redirect_request(self, *args: t.Any) -> None:
        return None


class _Limited(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
    """Opens connections that it can cut, by http and https."""

    def __init__(self) -> None:
        super().__init__()
        self.connections: list[http.client.HTTPConnection] = []
        self.is_cut = False

    def do_open(self, http_class: t.Any, *args: t.Any, **options: t.Any) -> t.Any:
        def connect(*args: t.Any, **options: t.Any) -> http.client.HTTPConnection:
            self.connections.append(http_class(*args, **options))
            return self.connections[-1]

        return super().do_open(t.cast(t.Any, connect), *args, **options)

    def cut(self) -> None:
        self.is_cut = True
        for connection in self.connections:
            if connection.sock is not None:
                # Not SSLSocket.shutdown(), which takes the session from whoever reads in it.
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)


def name_of(url: str) -> str:
    """Return what a receiver is called in errors and in the table; an address may hold a secret."""
    return f"{urlsplit(url).hostname} {hashlib.sha256(url.encode()).hexdigest()[:8]}"


def post(
    url: str,
    keys: t.Sequence[bytes],
    message_id: uuid.UUID,
    event: str,
    payload: t.Mapping[str, t.Any],
    created_at: dt.datetime,
    now: dt.datetime,
) -> None:
    """Post an event, ``{"type", "timestamp", "data"}``, and return when it was taken.

    :param keys: each signs it.
    :raises NotTaken: where it was not.
    """
    told = {"type": event, "timestamp": created_at.isoformat(), "data": payload}
    body = json.dumps(told, separators=(",", ":")).encode()
    timestamp = str(int(now.timestamp()))
    headers = {
        "Content-Type": "application/json",
        "User-Agent": f"flask-referral/{importlib.metadata.version('flask-referral')}",
        "webhook-id": str(message_id),
        "webhook-timestamp": timestamp,
        "webhook-signature": sign(body, str(message_id), timestamp, keys),
    }
    request = urllib.request.Request(url, data=body, headers=headers, method="POST")
    limited = _Limited()
    opener = urllib.request.build_opener(_NoRedirect, limited)
    timer = threading.Timer(LONGEST, limited.cut)
    timer.daemon = True
    timer.start()
    try:
        # The status says all; what follows it is not read.
        opener.open(request, timeout=TIMEOUT).close()
    except urllib.error.HTTPError as error:
        error.close()
        raise NotTaken(f"answered {error.code}") from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise NotTaken(f"did not answer: {type(error).__name__}: {reason}") from None
    finally:
        timer.cancel()
    # What was read until then looks like an answer that ends early.
    if limited.is_cut:
        raise NotTaken(f"did not answer: not within {LONGEST} seconds")
