"""The requests that are measured."""

from __future__ import annotations

import dataclasses
import io
import itertools
import typing as t

from .database import BUYERS
from .database import POOL
from .database import Ranges
from .database import REFERRERS

BROWSER = "Mozilla/5.0 (X11; Linux x86_64; rv:150.0) Gecko/20100101 Firefox/150.0"

Headers = dict[str, str]


@dataclasses.dataclass(frozen=True)
class Request:
    """One request, to be sent over HTTP or to be called in process."""

    method: str
    path: str
    headers: Headers
    #: The status that an answer has to have.
    status: int = 200

    def bytes(self, host: str) -> bytes:
        """Return it as HTTP/1.1."""
        lines = [f"{self.method} {self.path} HTTP/1.1", f"Host: {host}", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        if self.method == "POST":
            lines.append("Content-Length: 0")
        return "\r\n".join([*lines, "", ""]).encode()

    def environ(self) -> dict[str, t.Any]:
        """Return it as WSGI."""
        path, _, query = self.path.partition("?")
        return {
            "REQUEST_METHOD": self.method,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "SERVER_NAME": "127.0.0.1",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "REMOTE_ADDR": "127.0.0.1",
            "CONTENT_LENGTH": "0",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(),
            "wsgi.errors": io.StringIO(),
            "wsgi.multithread": False,
            "wsgi.multiprocess": True,
            "wsgi.run_once": False,
            **{
                f"HTTP_{name.upper().replace('-', '_')}": value
                for name, value in self.headers.items()
            },
        }


class Work:
    """Endless requests of each kind for each implementation; none is made twice by accident."""

    def __init__(self, ranges: Ranges, codes: t.Sequence[str]) -> None:
        self._codes = codes
        self._existing = itertools.count()
        self._new = {name: iter(range(first, first + POOL)) for name, first in ranges.new.items()}
        self._buyers = {
            name: iter(range(first, first + BUYERS)) for name, first in ranges.buyers.items()
        }
        self._visits = itertools.count()

    def existing_code(self, name: str) -> Request:
        user = 1 + next(self._existing) % REFERRERS
        return Request("POST", "/api/referral/generate", {"X-User": str(user)})

    def new_code(self, name: str) -> Request:
        return Request("POST", "/api/referral/generate", {"X-User": str(next(self._new[name]))})

    def click(self, name: str) -> Request:
        # Many visitors have one browser; what tells their clicks apart is the code.
        round_, number = divmod(next(self._visits), len(self._codes))
        headers = {"User-Agent": f"{BROWSER} {round_}"}
        return Request("GET", f"/r/{self._codes[number]}", headers, 302)

    def hot_click(self, name: str) -> Request:
        number = next(self._visits)
        return Request("GET", f"/r/{self._codes[0]}", {"User-Agent": f"{BROWSER} {number}"}, 302)

    def conversion(self, name: str) -> Request:
        user = next(self._buyers[name])
        return Request("POST", "/buy", {"X-User": str(user), "X-Payment": f"pay_{user}"})

    def statistics(self, name: str) -> Request:
        return Request("GET", "/api/referral/stats?days=30", {"X-User": str(REFERRERS + 1)})

    def page(self, name: str) -> Request:
        return Request("GET", "/", {"User-Agent": BROWSER})


def repeated(click: Request, cookie: str) -> Request:
    """Return a click again, by a browser that remembers it."""
    return dataclasses.replace(click, headers={**click.headers, "Cookie": cookie})
