"""Station 2: a visit through a code becomes one row for each visitor, code and window of time."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import hmac
import os
import socket
import typing as t
import uuid
from urllib.parse import urlsplit

import sqlalchemy as sa

from . import codes
from . import disabled
from . import sources
from .clock import as_utc
from .clock import SKEW
from .db import sql
from .db.models import Models
from .events import ClickRecorded
from .events import Event
from .settings import Settings
from .sources import NO_TAGS
from .sources import Tags

USER_AGENT_LENGTH = 256
REFERRER_LENGTH = 512
#: The columns that tell of a visit.
TOLD = (
    "referrer_url",
    "user_agent",
    "ip_hash",
    "utm_source",
    "utm_medium",
    "utm_campaign",
    "source",
)
#: The version digits of a click's id (RFC 9562, sections 5.7 and 5.8). In both the time comes
#: first, so that index inserts stay local.
RANDOM, DERIVED = 7, 8
#: More than this of a header is not looked at.
_LONGEST_HEADER = 4096
#: RFC 4291, section 2.5.5.2
_IPV4_MAPPED = bytes(10) + b"\xff\xff"


@dataclasses.dataclass(frozen=True, slots=True)
class Visit:
    """A request that may be a click; texts are cleaned already."""

    code: str
    at: dt.datetime
    #: ``request.remote_addr``
    address: str | None = None
    user_agent: str | None = None
    referrer_url: str | None = None
    #: The key of the user who is logged in, or None.
    visitor_id: t.Any = None
    #: What its link was tagged with.
    tags: Tags = NO_TAGS

    @property
    def source(self) -> str | None:
        """Where it came from; None where it came directly."""
        return sources.of_visit(self.tags, self.referrer_url)

    def told(self, settings: Settings) -> dict[str, str | None]:
        """Return the columns :data:`TOLD`."""
        return {
            "referrer_url": self.referrer_url,
            "user_agent": self.user_agent,
            "ip_hash": hash_address(self.address, settings.ip_key, self.at),
            "utm_source": self.tags.source,
            "utm_medium": self.tags.medium,
            "utm_campaign": self.tags.campaign,
            "source": self.source,
        }


@dataclasses.dataclass(frozen=True, slots=True)
class Touch:
    """What a visitor's browser remembers of a click: no personal data, no reward."""

    click_id: uuid.UUID
    code: str
    #: UTC, whole seconds
    at: dt.datetime


class Click(t.NamedTuple):
    """A row of ``referral_clicks``."""

    id: uuid.UUID
    referral_code: str
    referrer_user_id: t.Any
    referred_user_id: t.Any
    clicked_at: dt.datetime
    referrer_url: str | None
    user_agent: str | None
    ip_hash: str | None
    bound_at: dt.datetime | None
    utm_source: str | None
    utm_medium: str | None
    utm_campaign: str | None
    source: str | None


def columns(click: sa.FromClause) -> list[sa.ColumnElement[t.Any]]:
    """Return those of a :class:`Click`."""
    return [click.c[name] for name in Click._fields]


class Recorded(t.NamedTuple):
    """The row that a visit has now."""

    touch: Touch
    #: False where this visitor's row for the window was there before.
    created: bool


def record(
    db: sql.Connection, models: Models, settings: Settings, visit: Visit, secret: bytes
) -> Recorded | None:
    """Store a visit, once for each visitor, code and window.

    One statement, on PostgreSQL also for a repetition and for a code that is nobody's, so that it
    takes a known one's way to the database. SQLite asks once more for both.

    With ``REFERRAL_CLICK_DURABILITY = "async"`` the commit does not wait for the disk where the
    statement is a transaction of its own. In the host's the host's commit decides.

    For a lock of somebody else's it waits ``REFERRAL_LOCK_TIMEOUT_MS``, and the transaction's
    ``lock_timeout`` is that afterwards. SQLite waits as long as the host's own connection does.

    :param secret: the application's secret; the ids of clicks are derived from it.
    :return: the visit's row, or None for an unknown code, for one that is switched off, and for the
        referrer's own visit.
    """
    values = {
        "click": derive_id(visit, secret, settings),
        "code": visit.code,
        "visitor": visit.visitor_id,
        "at": visit.at,
        **visit.told(settings),
    }
    if db.dialect.name == "postgresql":
        values["lock_timeout"] = str(settings.lock_timeout_ms)
    is_async = settings.click_durability == "async" and db.dialect.name == "postgresql"
    insert = _insert_async if is_async and sql.is_autocommit(db) else _insert
    row = insert(db, models, **values).first()
    if row is None and db.dialect.name == "sqlite":
        row = _known(db, models, **values).first()
    if row is None:
        # Nobody's code, one that is switched off, or the referrer's own visit.
        return None
    created = row.clicked_at is not None
    # Without both another request of the visitor's stored it at this very moment.
    at = row.clicked_at or row.before or visit.at
    touch = Touch(values["click"], visit.code, as_utc(at).replace(microsecond=0))
    return Recorded(touch, created)


def told(recorded: Recorded | None) -> list[Event]:
    """Return what is to be told of a click, if it is new."""
    if recorded is None or not recorded.created:
        return []
    return [ClickRecorded(click_id=recorded.touch.click_id, code=recorded.touch.code)]


def is_known(db: sql.Connection, models: Models, code: str, visitor_id: t.Any = None) -> bool:
    """Whether a code counts, and belongs to somebody else than the visitor. One statement."""
    return owner_of(db, models, code, visitor_id) is not None


def owner_of(db: sql.Connection, models: Models, code: str, visitor_id: t.Any = None) -> t.Any:
    """Return whose a code is; None for nobody's, the visitor's own and one that is switched off.

    One statement.
    """
    return _owner(db, models, code=code, visitor=visitor_id).scalar()


def forgotten_since(settings: Settings, now: dt.datetime) -> dt.datetime:
    """Return the moment before which a click's id is in no visit that counts, nor made again."""
    seconds = max(settings.cookie_max_age, settings.dedupe_seconds)
    return now - dt.timedelta(seconds=seconds) - SKEW


def is_repetition(touch: Touch, code: str, at: dt.datetime, dedupe_seconds: int) -> bool:
    """Whether the visitor's cookie proves that a click on a code has been counted."""
    return touch.code == code and _bucket(touch.at, dedupe_seconds) == _bucket(at, dedupe_seconds)


def derive_id(visit: Visit, secret: bytes, settings: Settings) -> uuid.UUID:
    """Return the id that every click of this visitor on this code has within the window.

    The address takes part under a key of its own, so that visitors are told apart without
    ``REFERRAL_IP_KEY`` too, while nobody without the secret can go back from an id to an
    address, nor see that two codes or two windows had the same visitor.

    Of the agent, which anybody may write, only one of ``REFERRAL_CLICKS_PER_ADDRESS`` numbers
    takes part, so that an address has no more ids than that. Two agents behind one address have
    the same number by a chance of one in as many; they count as one visitor then. Visitors whose
    address nobody knows share one.
    """
    seconds = settings.dedupe_seconds
    bucket = _bucket(visit.at, seconds)
    key = hmac.digest(secret, b"flask-referral click id", "sha256")
    agent = hmac.digest(key, b"agent|" + (visit.user_agent or "").encode(), "sha256")
    number = int.from_bytes(agent[:8], "big") % settings.clicks_per_address
    code, network = visit.code.encode(), _network(visit.address)
    # The lengths of what has any are told.
    message = b"%d|%d|%d|%d|%b%b" % (bucket, number, len(code), len(network), code, network)
    return _uuid(DERIVED, bucket * seconds * 1000, hmac.digest(key, message, "sha256"))


def new_id(at: dt.datetime) -> uuid.UUID:
    """Return the id of a click that no visit made, a typed code's; it tells the time alone."""
    return _uuid(RANDOM, int(at.timestamp() * 1000), os.urandom(10))


def forgotten_id(derived: uuid.UUID) -> uuid.UUID:
    """Return an id in place of one that a visit made: the time stays, the rest is random."""
    return _uuid(RANDOM, derived.int >> 80, os.urandom(10))


def hash_address(address: str | None, ip_key: bytes | None, at: dt.datetime) -> str | None:
    """Return the month and a keyed hash of an address, as ``2026-11:…``; None without a key.

    Each month (UTC) has a key of its own, so that a visitor cannot be followed over months. An
    IPv6 address counts by its /64, which is what one subscriber has.
    """
    if ip_key is None or not (network := _network(address)):
        return None
    month = f"{at:%Y-%m}"
    key = hmac.digest(ip_key, f"flask-referral ip {month}".encode(), "sha256")
    return f"{month}:{hmac.digest(key, network, 'sha256')[:16].hex()}"


def clean_text(text: str | None, length: int) -> str | None:
    """Return what can be printed of a header, at most ``length`` characters of it."""
    kept = (text or "")[:_LONGEST_HEADER]
    if not kept.isprintable():
        kept = "".join(character for character in kept if character.isprintable())
    return kept[:length].strip() or None


def clean_referrer(url: str | None, own_host: str) -> str | None:
    """Return the origin and path of the page that led here; None for a page of our own.

    Query, fragment and user information are dropped: they may hold anything.
    """
    try:
        parts = urlsplit((url or "")[:_LONGEST_HEADER])
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if not host or parts.scheme not in ("http", "https", "android-app"):
        return None
    netloc = f"[{host}]" if ":" in host else host
    netloc += f":{port}" if port else ""
    if own_host.lower() in (netloc, host):
        return None
    return clean_text(f"{parts.scheme}://{netloc}{parts.path}", REFERRER_LENGTH)


def _bucket(at: dt.datetime, seconds: int) -> int:
    return int(at.timestamp()) // seconds


def _network(address: str | None) -> bytes:
    text = (address or "").partition("%")[0]
    for family in (socket.AF_INET, socket.AF_INET6):
        # A tenth of what the ipaddress module takes.
        with contextlib.suppress(OSError, ValueError):
            packed = socket.inet_pton(family, text)
            if packed.startswith(_IPV4_MAPPED):
                return packed[len(_IPV4_MAPPED) :]
            return packed[:8]
    return b""


def _uuid(version: int, milliseconds: int, tail: bytes) -> uuid.UUID:
    number = int.from_bytes(milliseconds.to_bytes(6, "big") + tail[:10], "big")
    number = number & ~(0xF << 76) | version << 76
    return uuid.UUID(int=number & ~(0x3 << 62) | 0x2 << 62)


@sql.statement
def _insert(models: Models, dialect: str) -> sa.Executable:
    return _inserting(models, dialect)


@sql.statement
def _insert_async(models: Models, dialect: str) -> sa.Executable:
    # https://www.postgresql.org/docs/current/wal-async-commit.html
    return _inserting(models, dialect, _is_set("synchronous_commit", sql.word("off")))


def _is_set(name: str, value: sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
    """Set something of PostgreSQL's for the transaction; always true.

    Volatile, so that it is called for the row that is inserted: before the foreign keys, which are
    looked at when the statement ends, lock the rows that they name, and before the commit.
    """
    return sa.func.pg_catalog.set_config(sql.word(name), value, sa.true()).is_not(None)


def _inserting(models: Models, dialect: str, *where: sa.ColumnElement[bool]) -> sa.Executable:
    if dialect == "postgresql":
        timeout = sa.cast(sa.bindparam("lock_timeout", type_=sa.Text()), sa.Text())
        where = (*where, _is_set("lock_timeout", timeout))
    click = models.ReferralClick.__table__
    code = models.ReferralCode.__table__.c
    columns = {
        "id": sql.parameter("click", click.c.id),
        "referral_code": code.code,
        "referrer_user_id": code.user_id,
        "clicked_at": sql.parameter("at", click.c.clicked_at),
        **{name: sql.parameter(name, click.c[name]) for name in TOLD},
    }
    insert = (
        sql.insert(dialect, click)
        .from_select(list(columns), _owned(models, *columns.values()).where(*where))
        .on_conflict_do_nothing(index_elements=[click.c.id])
        .returning(click.c.clicked_at)
    )
    # SQLite has no INSERT inside a WITH.
    return insert if dialect == "sqlite" else _seen(models, insert.cte("clicked").c.clicked_at)


@sql.statement
def _owner(models: Models, dialect: str) -> sa.Executable:
    return _owned(models, models.ReferralCode.__table__.c.user_id)


@sql.statement
def _known(models: Models, dialect: str) -> sa.Executable:
    return _seen(models, sa.null())


def _seen(models: Models, clicked_at: sa.ColumnElement[t.Any]) -> sa.Executable:
    """Select when a visit was stored: now, or ``before``; no row where it is none.

    :param clicked_at: of the row that is stored now, or NULL.
    """
    click = models.ReferralClick.__table__
    before = sa.select(click.c.clicked_at).where(
        click.c.id == sql.parameter("click", click.c.id),
        click.c.referral_code == models.ReferralCode.__table__.c.code,
    )
    if not isinstance(clicked_at, sa.Null):
        clicked_at = sa.select(clicked_at).scalar_subquery()
    return _owned(models, clicked_at.label("clicked_at"), before.scalar_subquery().label("before"))


def _owned(models: Models, *columns: sa.ColumnElement[t.Any]) -> sa.Select[t.Any]:
    """Select from the row of a code, which must not be the visitor's own, nor switched off."""
    code = models.ReferralCode.__table__.c
    return sa.select(*columns).where(
        codes.leads_to(models),
        _is_others(code.user_id),
        ~disabled.is_disabled(models, code.user_id),
    )


def _is_others(user_id: sa.ColumnElement[t.Any]) -> sa.ColumnElement[bool]:
    # True for a visitor whom nobody knows, too.
    return user_id.is_distinct_from(sql.parameter("visitor", user_id))
