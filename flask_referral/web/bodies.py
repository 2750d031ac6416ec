"""Bodies of requests, of which no more is read than they may have."""

from __future__ import annotations

from flask import abort
from flask import request


def read(most: int, what: str) -> bytes:
    """Return this request's body, or abort with 413.

    :param most: bytes.
    :param what: what the body is, to begin the sentence with.
    """
    sentence = f"{what} has at most {most} bytes."
    if (request.content_length or 0) > most:
        abort(413, sentence)
    if request.content_length is not None:
        return request.get_data()
    # Chunked: its length is known when it has been read.
    body = request.stream.read(most + 1)
    if len(body) > most:
        abort(413, sentence)
    return body
