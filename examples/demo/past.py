"""The demo's past: 60 days in which 40 people came through three referrers' links.

It is lived through as it would have been: visits follow share links, people sign up, and the
payment provider's webhooks tell what they paid, while the extension's clock stands at the day.
Only what the database dates by its own clock is dated afterwards.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import heapq
import itertools
import random
import typing as t

import sqlalchemy as sa
from flask import current_app
from flask.testing import FlaskClient

from flask_referral import clock
from flask_referral.testing import referral_visit
from flask_referral.testing import Travel
from flask_referral.testing import travel

from . import deploy
from . import orders
from .extensions import referral
from .models import db
from .models import Payment
from .models import Purchase
from .models import User
from .provider import half_of

DAYS = 60
#: Where a link was seen: its tag, or the page that it stood on.
SOURCES: tuple[tuple[str | None, str | None], ...] = (
    ("newsletter", None),
    ("newsletter", None),
    ("whatsapp", None),
    ("linkedin", None),
    (None, "https://forum.example.org/writing/tools"),
    (None, None),
)
#: The day (so many days ago) on which a podcast spoke of Ada.
PODCAST = 3


@dataclasses.dataclass(frozen=True)
class Life:
    """What somebody who was referred did; all days are so many days ago.

    :param name: Larkmail's customers are newsletters.
    :param by: the referrer's name.
    :param after: what happened to the payment, as a function of this module and its day.
    :param is_typed: whether the code was typed, without a visit.
    """

    name: str
    by: str
    signed_up: int
    plan: str | None = None
    bought: int = 0
    after: tuple[tuple[str, int], ...] = ()
    is_typed: bool = False


PODCAST_LISTENERS = (
    "Kite Season",
    "The Sunday Loaf",
    "Open Water",
    "Marginalia",
    "Low Tide",
    "Corner Shop Stories",
    "The Spare Key",
    "Warm Static",
    "Tin Roof",
    "Common Birds",
    "Bridge and Bank",
    "Hand Signals",
)

LIVES = (
    # Subscribed, and stayed.
    Life("Slow Trains", "Ada", 58, "team", 58, (("renew", 28),)),
    Life("Night Garden", "Ada", 52, "basic", 50, (("renew", 20),)),
    Life("Paper Boats", "Ada", 47, "team", 45, (("renew", 15),)),
    Life("The Long Table", "Ada", 36, "basic", 35, (("renew", 5),)),
    # Took a year: the bonus waits for two weeks.
    Life("Small Engines", "Ada", 41, "annual", 40),
    Life("North Window", "Ada", 26, "annual", 25),
    Life("Loose Leaf", "Ada", 13, "annual", 12),
    Life("Field Notes at Five", "Ada", 9, "annual", 8),
    Life("The Quiet Atlas", "Ada", 2, "annual", 2),
    # Asked money back: a half, all, through the bank, before the bonus was due.
    Life("Second Breakfast", "Ada", 31, "team", 30, (("refund_half", 22),)),
    Life("Old Maps", "Ada", 22, "basic", 21, (("refund", 17),)),
    Life("Salt and Pine", "Ada", 15, "team", 14, (("dispute", 4),)),
    Life("City of Bees", "Ada", 33, "team", 32, (("dispute", 24), ("win", 10))),
    Life("The Repair Shop", "Ada", 20, "annual", 19, (("refund", 11),)),
    # Only looked around.
    Life("Plain Type", "Ada", 44),
    Life("Rain Delay", "Ada", 18),
    Life("Letters on Looms", "Ada", 6),
    # More in one day than REFERRAL_VELOCITY_LIMIT: the last ones wait for a review.
    *(
        Life(name, "Ada", PODCAST, "basic" if n % 3 else "team", PODCAST)
        for n, name in enumerate(PODCAST_LISTENERS)
    ),
    Life("The Evening Shift", "The Bread Letter", 55, "team", 54, (("renew", 24),)),
    Life("Blue Hour", "The Bread Letter", 39, "basic", 38),
    Life("Ferry Times", "The Bread Letter", 29, "annual", 27, (("give_up", 23),)),
    Life("Moss", "The Bread Letter", 17, "basic", 16),
    Life("The Last Row", "The Bread Letter", 11),
    Life("Granite", "The Bread Letter", 7, "team", 7),
    Life("Clockwise", "The Bread Letter", 4),
    Life("Early Peas", "Harbour Weekly", 48, "basic", 46, is_typed=True),
    Life("Postcards Home", "Harbour Weekly", 19, "team", 18, is_typed=True),
    Life("Lantern Club", "Harbour Weekly", 10, is_typed=True),
    # The last one: who is there has lived through all of it.
    Life("New Ink", "Ada", 0),
)

REFERRERS = ("The Bread Letter", "Harbour Weekly")
LAST = LIVES[-1].name


def email_of(name: str) -> str:
    """Return the address of an account of the past."""
    return f"{name.lower().replace(' ', '-')}@example.com"


def live() -> None:
    """Seed the demo: its accounts, and, where they are new, their past.

    What an interrupted run left is thrown away first.
    """
    emails = set(db.session.scalars(sa.select(User.email)))
    if email_of(REFERRERS[0]) in emails and email_of(LAST) not in emails:
        for table in reversed(db.metadata.sorted_tables):
            db.session.execute(sa.delete(table))
        db.session.commit()
        emails.clear()
    started = clock.now()
    if not emails:
        # In the same transaction as the accounts, so that a past that was begun is known.
        db.session.add_all(map(_customer, REFERRERS))
    deploy.seed()
    if not emails:
        with travel() as journey, _not_waiting_for_disks():
            _Past(started, journey).live()


@contextlib.contextmanager
def _not_waiting_for_disks() -> t.Iterator[None]:
    """Let commits return early, five hundred of which are nobody's loss."""

    def hurry(connection: t.Any, record: t.Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET synchronous_commit = off")
        connection.commit()

    db.session.remove()
    sa.event.listen(db.engine, "connect", hurry)
    db.engine.dispose()
    try:
        yield
    finally:
        db.session.remove()
        sa.event.remove(db.engine, "connect", hurry)
        db.engine.dispose()


class _Past:
    def __init__(self, started: dt.datetime, journey: Travel) -> None:
        self.started = started
        self.journey = journey
        self.random = random.Random(2026)
        self.today = self.started.replace(hour=0, minute=0, second=0, microsecond=0)
        self.order = itertools.count()
        self.steps: list[tuple[dt.datetime, int, t.Callable[[], None]]] = []
        self.codes: dict[str, str] = {}
        self.clients: dict[str, FlaskClient] = {}
        self.dated = [
            column
            for table in db.metadata.sorted_tables
            for column in table.columns
            if isinstance(column.type, sa.DateTime) and column.server_default is not None
        ]

    def live(self) -> None:
        self.at(DAYS + 1, 0.4, self.open)
        for life in LIVES:
            self.plan(life)
        for days in range(DAYS, -1, -1):
            spoken_of = 18 if days == PODCAST else 0
            self.visits("Ada", days, self.random.randint(1, 4) + (DAYS - days) // 15 + spoken_of)
            self.visits(REFERRERS[0], days, self.random.randint(0, 2))
            self.visits(REFERRERS[1], days, self.random.randint(0, 1))
        while self.steps:
            moment, _, step = heapq.heappop(self.steps)
            self.journey(seconds=(moment - clock.now()).total_seconds())
            step()

    def at(self, days: int, part: float, step: t.Callable[[], None]) -> None:
        """Let something happen so many days ago, after such a part of the day."""
        moment = self.today + dt.timedelta(days=part - days)
        if moment <= self.started:
            heapq.heappush(self.steps, (moment, next(self.order), step))

    def plan(self, life: Life) -> None:
        name = life.name
        # The last one signs up when today begins, so that all else has happened.
        part = self.random.uniform(0.3, 0.5) if life.signed_up else 0
        if not life.is_typed:
            self.at(life.signed_up, part - 0.02, lambda: self.come(name, life.by))
        self.at(life.signed_up, part, lambda: self.sign_up(life))
        if life.plan is None:
            return
        plan = life.plan
        part = self.random.uniform(0.55, 0.7)
        self.at(life.bought, part, lambda: self.buy(name, plan))
        for act, days in life.after:
            self.at(days, part + 0.1, lambda act=act: self.act(name, act))
        if plan == "annual":
            self.at(life.bought - 14, part + 0.05, lambda: self.run("mature"))

    def visits(self, name: str, days: int, number: int) -> None:
        for _ in range(number):
            self.at(days, self.random.uniform(0, 0.99), lambda: self.visit(name))

    def open(self) -> None:
        """The referrers get their codes."""
        for name in ("Ada", *REFERRERS):
            self.codes[name] = referral.get_or_create_code(_user(name)).code
        db.session.commit()
        self.date()

    def visit(self, name: str) -> FlaskClient:
        client = current_app.test_client()
        source, page = self.random.choice(SOURCES)
        address = f"198.51.100.{self.random.randrange(256)}"
        referral_visit(
            client,
            self.codes[name],
            query_string={"utm_source": source} if source else {},
            headers={"Referer": page} if page else {},
            environ_base={"REMOTE_ADDR": address},
        )
        return client

    def come(self, name: str, referrer: str) -> None:
        self.clients[name] = self.visit(referrer)

    def sign_up(self, life: Life) -> None:
        code, cookie = self.codes[life.by], ""
        if not life.is_typed:
            key = referral.settings.cookie_name
            kept = self.clients.pop(life.name).get_cookie(key)
            assert kept is not None
            code, cookie = "", f"{key}={kept.value}"
        with current_app.test_request_context(headers={"Cookie": cookie}):
            user = _customer(life.name)
            db.session.add(user)
            referral.attribute(user, code=code)
            db.session.commit()

    def buy(self, name: str, plan: str) -> None:
        orders.buy(_user(name), plan)
        self.date()

    def act(self, name: str, act: str) -> None:
        payment = db.session.scalars(
            sa.select(Payment).join(Purchase).where(Purchase.user_id == _user(name).id)
        ).one()
        if act == "renew":
            orders.renew(payment.purchase)
        elif act == "refund":
            orders.refund(payment, payment.left_cents)
        elif act == "refund_half":
            orders.refund(payment, half_of(payment))
        elif act == "dispute":
            orders.dispute(payment)
        elif act == "win":
            orders.win(payment)
        elif act == "give_up":
            self.give_up(payment)
        self.date()

    def give_up(self, payment: Payment) -> None:
        """An operator does not believe in it."""
        reward = referral.models.ReferralReward
        own = sa.select(reward.id).where(reward.payment_id == payment.payment_id)
        for id in db.session.scalars(own).all():
            deploy.run("void", str(id), "--yes")

    def run(self, command: str) -> None:
        deploy.run(command)
        self.date()

    def date(self) -> None:
        """Date what the database dated by its own clock."""
        db.session.rollback()
        for column in self.dated:
            new = sa.update(column.table).where(column >= self.started)
            db.session.execute(new.values({column: clock.now()}))
        db.session.commit()


def _customer(name: str) -> User:
    # Without a password: nobody logs in as one of them.
    return User(email=email_of(name), name=name, password_hash="", created_at=clock.now())


def _user(name: str) -> User:
    return db.session.scalars(sa.select(User).where(User.name == name)).one()
