"""The referrer's page for the tests: a month in which everything happened, and what is shown."""

from __future__ import annotations

import datetime as dt
import html.parser
import typing as t
import uuid

from .hosts import Host
from .money import pay
from .money import refer
from .money import refund
from .visiting import make_code

PAGE = "/referral/"
HOSTILE = "</script><img src=x onerror=alert(1)>\"'&"
#: HTML elements that have no end tag.
VOID = {"meta", "link", "input", "img", "br", "hr"}


def text_of(markup: str) -> str:
    """Return the text that is shown, with single blanks."""
    reader = _Reader()
    reader.feed(markup)
    return " ".join(" ".join(reader.texts).split())


class _Reader(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


class Structure(html.parser.HTMLParser):
    """Reads markup, and finds what is not closed, and ids and attributes."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(markup)
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, tag

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def add_visits(host: Host, user: t.Any, number: int, days: int = 30) -> None:
    """Store clicks of a user's code, spread over so many days, of several sources."""
    code = make_code(host, user)
    click = host.referral.models.ReferralClick.__table__
    now = dt.datetime.now(dt.UTC)
    sources = (None, "newsletter", HOSTILE[:64], "forum.example")
    rows = [
        {
            "id": uuid.uuid4(),
            "referral_code": code,
            "referrer_user_id": user,
            "clicked_at": now - dt.timedelta(days=each % days),
            "source": sources[each % 4],
        }
        for each in range(number)
    ]
    with host.app.app_context():
        host.db.session.execute(click.insert(), rows)
        host.db.session.commit()


def live(host: Host, user: t.Any, friends: int = 24) -> None:
    """Let friends of a user sign up, buy, and be refunded."""
    for number in range(friends):
        friend = refer(host, user)
        membership = f"mem_{uuid.uuid4().hex}"
        if number % 3:
            pay(host, friend, membership)
        if number % 6 == 1:
            refund(host, membership)
        if number % 6 == 2:
            refund(host, membership, amount_cents=300)
