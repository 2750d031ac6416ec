"""What hostile clients send, and a server that hands it over as it is."""

from __future__ import annotations

import io
import random
import typing as t
from urllib.parse import unquote_to_bytes

from flask import Flask

PIECES = [
    "generate",
    "stats",
    "codes",
    "K7M2PQ9X",
    "webhooks/whop",
    "%00",
    "%0d%0aX-Evil: 1",
    "%0a",
    "//",
    "/",
    "..",
    "/../",
    ".",
    "%2e%2e%2f",
    "%2f",
    "%5c",
    "%ff%fe",
    "%c0%af",
    "%ed%b2%80",
    "%e2%80%aeX",
    "%f0%9f%92%a9",
    "%25",
    "%",
    "\N{RIGHT-TO-LEFT OVERRIDE}",
    "\N{FULLWIDTH LATIN CAPITAL LETTER K}",
    "'\"<script>",
    "{{7*7}}",
    "; DROP TABLE users",
    " ",
    "\t",
    "a" * 5000,
]
QUERIES = [
    "",
    "days=30",
    "days=%00",
    "days=" + "9" * 5000,
    "ref=%ff",
    "a[]=1&a[]=2",
    "=&&=",
    "%",
    "ref=" + "%0d%0a" * 50,
]
VALUES = [
    "",
    "x",
    "x" * 100_000,
    "\xff\xfe",
    "\x00",
    "\x80\x81",
    "null",
    "application/json",
    "application/x-www-form-urlencoded",
    "multipart/form-data",
    "multipart/form-data; boundary=",
    "multipart/form-data; boundary=" + "b" * 10_000,
    "text/plain; charset=nonsense",
    "application/json; charset=utf-7",
    "-1",
    "0",
    "99999999999999999999",
    "1e3",
    "\xb2",
    "chunked",
    "gzip",
    "bytes=0-1,5-",
    'W/"x"',
    'a=b; c="\\377"; session=.eJx',
    "[::1",
    "a..b",
    "exa mple.com:port",
    "Basic \xff",
    "Bearer",
    'Digest a="',
    "same-origin",
    "cross-site",
    "Thu, 01 Jan 1970 00:00:00 GMT",
]
HEADERS = [
    "HTTP_ACCEPT",
    "HTTP_ACCEPT_ENCODING",
    "HTTP_ACCEPT_LANGUAGE",
    "HTTP_AUTHORIZATION",
    "HTTP_COOKIE",
    "HTTP_EXPECT",
    "HTTP_FORWARDED",
    "HTTP_HOST",
    "HTTP_IF_MODIFIED_SINCE",
    "HTTP_IF_NONE_MATCH",
    "HTTP_ORIGIN",
    "HTTP_RANGE",
    "HTTP_REFERER",
    "HTTP_SEC_FETCH_DEST",
    "HTTP_SEC_FETCH_SITE",
    "HTTP_TRANSFER_ENCODING",
    "HTTP_USER_AGENT",
    "HTTP_X_CSRFTOKEN",
    "HTTP_X_FORWARDED_FOR",
    "HTTP_X_HTTP_METHOD_OVERRIDE",
    "CONTENT_TYPE",
    "CONTENT_LENGTH",
]
BODIES = [
    b"",
    b"x",
    b"\x00",
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"a":' * 20_000,
    b"NaN",
    b'{"code": "\\ud800"}',
    b"a=" + b"%" * 1000,
    b"&" * 2000,
    b'--b\r\nContent-Disposition: form-data; name="\xff"\r\n\r\n',
    b"x" * 100_000,
]


def hostile_headers(rng: random.Random) -> dict[str, str]:
    """Return up to four headers, as WSGI names them."""
    return {name: rng.choice(VALUES) for name in rng.sample(HEADERS, rng.randint(0, 4))}


def send(app: Flask, hostile: dict[str, t.Any]) -> tuple[int, dict[str, str], bytes]:
    """Call the application without a client that would mend or refuse the request."""
    raw_path = unquote_to_bytes(hostile["path"]).decode("latin-1")
    environ: dict[str, t.Any] = {
        "REQUEST_METHOD": hostile["method"],
        "SCRIPT_NAME": "",
        "PATH_INFO": raw_path,
        "QUERY_STRING": hostile["query"],
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": "localhost",
        "CONTENT_LENGTH": str(len(hostile["body"])),
        "REMOTE_ADDR": "127.0.0.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(hostile["body"]),
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": False,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        **hostile["headers"],
    }
    answer: dict[str, t.Any] = {}

    def start_response(status: str, headers: list[tuple[str, str]], info: t.Any = None) -> t.Any:
        answer.update(status=int(status[:3]), headers=dict(headers))
        return lambda data: None

    chunks = app.wsgi_app(environ, start_response)
    body = b"".join(chunks)
    if hasattr(chunks, "close"):
        chunks.close()
    return answer["status"], answer["headers"], body
