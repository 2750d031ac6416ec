"""Station 2: a visit through a code becomes one row for each visitor, code and window of time."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hmac
import ipaddress
import os
import typing as t
import uuid
from urllib.parse import urlsplit

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects import sqlite

from .clock import as_utc

if t.TYPE_CHECKING:
    from .db.models import Models
USER_AGENT_LENGTH = 256
REFERRER_LENGTH = 512
#: More than this of a header is not looked at.
_LONGEST_HEADER = 4096


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


@dataclasses.dataclass(frozen=True, slots=True)
class Touch:
    """What a visitor's browser remembers of a click: no personal data, no reward."""

    click_id: uuid.UUID
    code: str
    #: UTC, whole seconds
    at: dt.datetime


class Recorded(t.NamedTuple):
    """The row that a visit has now."""

    touch: Touch
    referrer_id: t.Any
    #: False where this visitor's row for the window was there before.
    created: bool


def record(
    db: sa.Connection,
    models: Models,
    visit: Visit,
    *,
    secret: bytes,
    ip_key: bytes | None,
    dedupe_seconds: int,
) -> Recorded | None:
    """Store a visit, once for each visitor, code and window. One statement; two for a repetition.

    :param secret: the application's secret; the ids of clicks are derived from it.
    :param ip_key: the key of the hashed addresses, or None to store none.
    :param dedupe_seconds: the length of the window.
    :return: the visit's row, or None for an unknown code and for the referrer's own visit.
    """
    click_id = derive_id(visit, secret, dedupe_seconds)
    values = {
        "click": click_id,
        "code": visit.code,
        "visitor": visit.visitor_id,
        "at": visit.at,
        "referrer_url": visit.referrer_url,
        "user_agent": visit.user_agent,
        "ip_hash": hash_address(visit.address, ip_key, visit.at),
    }
    anonymous = visit.visitor_id is None
    row = db.execute(_insert(models, db.dialect.name, anonymous), values).first()
    if row is not None:
        touch = Touch(click_id, visit.code, visit.at.replace(microsecond=0))
        return Recorded(touch, row.referrer_user_id, True)
    # Unknown, the referrer's own, or a visitor whose browser did not bring the cookie back.
    row = db.execute(_select(models, anonymous), values).first()
    if row is None:
        return None
    at = as_utc(row.clicked_at).replace(microsecond=0)
    return Recorded(Touch(click_id, visit.code, at), row.referrer_user_id, False)


def is_known(db: sa.Connection, models: Models, code: str, visitor_id: t.Any = None) -> bool:
    """Whether a code exists and belongs to somebody else than the visitor. One statement."""
    owner = models.ReferralCode.__table__.c
    statement = sa.select(sa.literal(1)).where(owner.code == code)
    if visitor_id is not None:
        statement = statement.where(owner.user_id != visitor_id)
    return db.execute(statement).first() is not None


def is_repetition(touch: Touch, visit: Visit, dedupe_seconds: int) -> bool:
    """Whether the visitor's cookie proves that this click has been counted."""
    return touch.code == visit.code and _bucket(touch.at, dedupe_seconds) == _bucket(
        visit.at, dedupe_seconds
    )


def derive_id(visit: Visit, secret: bytes, dedupe_seconds: int) -> uuid.UUID:
    """Return the id that every click of this visitor on this code has within the window.

    The address takes part under a key of its own, so that visitors are told apart without
    ``REFERRAL_IP_KEY`` too, while nobody without the secret can go back from an id to an
    address, nor see that two codes or two windows had the same visitor.
    """
    bucket = _bucket(visit.at, dedupe_seconds)
    key = hmac.digest(secret, b"flask-referral click id", "sha256")
    parts = (visit.code.encode(), _network(visit.address), (visit.user_agent or "").encode())
    # The only part of free length comes last; the others' lengths are told.
    message = b"%d|%d|%d|%b%b%b" % (bucket, len(parts[0]), len(parts[1]), *parts)
    return _uuid8(bucket * dedupe_seconds * 1000, hmac.digest(key, message, "sha256"))


def new_id(at: dt.datetime) -> uuid.UUID:
    """Return the id of a click that no visit made: a typed code's, for example."""
    return _uuid8(int(at.timestamp() * 1000), os.urandom(10))


def hash_address(address: str | None, ip_key: bytes | None, at: dt.datetime) -> str | None:
    """Return the month and a keyed hash of an address, as ``2026-11:…``; None without a key.

    Each month (UTC) has a key of its own, so that a visitor cannot be followed over months. An
    IPv6 address counts by its /64, which is what one subscriber has.
    """
    network = _network(address)
    if ip_key is None or not network:
        return None
    month = f"{at:%Y-%m}"
    key = hmac.digest(ip_key, f"flask-referral ip {month}".encode(), "sha256")
    return f"{month}:{hmac.digest(key, network, 'sha256')[:16].hex()}"


def clean_text(text: str | None, length: int) -> str | None:
    """Return what can be printed of a header, at most ``length`` characters of it."""
    kept = (character for character in (text or "")[:_LONGEST_HEADER] if character.isprintable())
    return "".join(kept)[:length].strip() or None


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
    try:
        ip = ipaddress.ip_address((address or "").partition("%")[0])
    except ValueError:
        return b""
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is None:
            return ip.packed[:8]
        ip = ip.ipv4_mapped
    return ip.packed


def _uuid8(milliseconds: int, tail: bytes) -> uuid.UUID:
    # RFC 9562, section 5.8. Time first, as in version 7, so that index inserts stay local.
    number = int.from_bytes(milliseconds.to_bytes(6, "big") + tail[:10], "big")
    number = number & ~(0xF << 76) | 8 << 76
    return uuid.UUID(int=number & ~(0x3 << 62) | 0x2 << 62)


def insert_for(dialect: str, table: t.Any) -> t.Any:
    """Return an INSERT, into a table or a mapped class, that knows ON CONFLICT."""
    return sqlite.insert(table) if dialect == "sqlite" else postgresql.insert(table)


def _insert(models: Models, dialect: str, anonymous: bool) -> t.Any:
    statements = models.statements
    if (found := statements.get(("insert click", dialect, anonymous))) is not None:
        return found
    click = models.ReferralClick.__table__
    code = models.ReferralCode.__table__.c
    columns = {
        "id": sa.bindparam("click", type_=click.c.id.type),
        "referral_code": code.code,
        "referrer_user_id": code.user_id,
        "clicked_at": sa.bindparam("at", type_=click.c.clicked_at.type),
        "referrer_url": sa.bindparam("referrer_url", type_=sa.Text()),
        "user_agent": sa.bindparam("user_agent", type_=sa.Text()),
        "ip_hash": sa.bindparam("ip_hash", type_=sa.Text()),
    }
    owner = sa.select(*columns.values()).where(code.code == sa.bindparam("code"))
    statement = (
        insert_for(dialect, click)
        .from_select(list(columns), owner if anonymous else owner.where(_not_own(code.user_id)))
        .on_conflict_do_nothing(index_elements=[click.c.id])
        .returning(click.c.referrer_user_id)
    )
    return statements.setdefault(("insert click", dialect, anonymous), statement)


def _select(models: Models, anonymous: bool) -> t.Any:
    click = models.ReferralClick.__table__.c
    statement = sa.select(click.referrer_user_id, click.clicked_at).where(
        click.id == sa.bindparam("click"), click.referral_code == sa.bindparam("code")
    )
    return statement if anonymous else statement.where(_not_own(click.referrer_user_id))


def _not_own(user_id: sa.ColumnElement[t.Any]) -> sa.ColumnElement[bool]:
    return user_id != sa.bindparam("visitor", type_=user_id.type)
