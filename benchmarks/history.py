"""A program with a year behind it: any number of clicks, a tenth of them one referrer's."""

from __future__ import annotations

import dataclasses
import typing as t

import psycopg2.extensions

from .database import CODE

#: How many clicks are written at a time.
_CHUNK = 1_000_000

_USERS = """
INSERT INTO users (id, created_at)
SELECT n, now() - interval '400 days' FROM generate_series(1, %(typical)s) AS n;
INSERT INTO users (id, created_at)
SELECT %(typical)s + n, now() - interval '400 days' FROM generate_series(1, %(clicks)s) AS n
WHERE n / 10 %% 20 = 0;
INSERT INTO referral_codes (user_id, code, created_at)
SELECT n, pg_temp.code(n), now() - interval '400 days' FROM generate_series(1, %(typical)s) AS n
"""
# An id begins with its day and is random otherwise, as those of visits.
_CLICKS = """
INSERT INTO referral_clicks (id, referral_code, referrer_user_id, referred_user_id, clicked_at,
                             bound_at, referrer_url, user_agent, ip_hash)
SELECT (lpad(to_hex(86400000 * (extract(epoch FROM at)::bigint / 86400)), 12, '0')
        || '8' || substr(random, 1, 3) || 'a' || substr(random, 4, 15))::uuid,
       code, user_id, CASE WHEN bound THEN %(typical)s + n END, at, CASE WHEN bound THEN at END,
       'https://news.example.com/an-article',
       'Mozilla/5.0 (X11; Linux x86_64; rv:150.0) Gecko/20100101 Firefox/150.0',
       to_char(at, 'YYYY-MM:') || random
FROM (SELECT n, md5(n::text) AS random, n / 10 %% 20 = 0 AS bound,
             now() - interval '365 days' * (1 - n::float / %(clicks)s) AS at,
             CASE WHEN n %% 10 = 0 THEN %(big)s
                  WHEN n %% (%(clicks)s / 100) = 5 THEN %(typical)s
                  ELSE 1 + (hashint8(n) & 2147483647) %% %(referrers)s END AS owner
      FROM generate_series(%(first)s::bigint, %(last)s) AS n) AS made
JOIN referral_codes ON user_id = owner
"""
# A tenth of those who signed up have bought.
_PAYMENTS = """
INSERT INTO referral_conversions (id, referrer_user_id, referred_user_id, referral_code,
                                  whop_membership_id, bonus_cents, converted_at)
SELECT gen_random_uuid(), referrer_user_id, referred_user_id, referral_code,
       'mem_' || referred_user_id, 1000, clicked_at
FROM referral_clicks
WHERE referred_user_id IS NOT NULL AND (referred_user_id - %(typical)s) / 200 %% 10 = 0;
INSERT INTO referral_rewards (id, conversion_id, user_id, referred_user_id, role, provider,
                              payment_id, membership_id, number, cents, status, credited_at,
                              created_at, click_id)
SELECT conversion.id, conversion.id, conversion.referrer_user_id, conversion.referred_user_id,
       'referrer', 'host', whop_membership_id, whop_membership_id, 1, bonus_cents, 'credited',
       converted_at, converted_at, click.id
FROM referral_conversions AS conversion
JOIN referral_clicks AS click ON click.referred_user_id = conversion.referred_user_id;
INSERT INTO referral_events (provider, kind, event_id, payment_id, membership_id, outcome)
SELECT 'host', kind, payment_id, CASE kind WHEN 'payment' THEN payment_id END, membership_id,
       CASE kind WHEN 'payment' THEN 'rewarded:' || id ELSE 'known' END
FROM referral_rewards, unnest(ARRAY['membership', 'payment']) AS kind
"""
_INDEXES = """
SELECT indexrelid::regclass, conname, pg_get_constraintdef(pg_constraint.oid),
       pg_get_indexdef(indexrelid)
FROM pg_index LEFT JOIN pg_constraint ON conindid = indexrelid AND contype IN ('p', 'u')
WHERE indrelid = 'referral_clicks'::regclass ORDER BY NOT indisprimary
"""


@dataclasses.dataclass(frozen=True)
class History:
    """Whose clicks they are."""

    #: The codes of the referrers who share nine tenths.
    codes: list[str]
    #: The user who has a tenth of all clicks, and the code.
    big: int
    big_code: str
    #: The user who has 100 clicks.
    typical: int


def load(
    connection: psycopg2.extensions.connection,
    clicks: int,
    referrers: int,
    tell: t.Callable[[str], None] = lambda text: None,
) -> History:
    """Write clicks of the last year into empty tables, with who signed up and who bought.

    One click in twenty is bound. Foreign keys are not looked at, and the indexes of the clicks
    are made at the end: ten million clicks take a few minutes.

    :param connection: in autocommit, of a superuser.
    :param tell: is told how far it got.
    """
    big, typical = referrers + 1, referrers + 2
    values = {"clicks": clicks, "referrers": referrers, "big": big, "typical": typical}
    with connection.cursor() as cursor:
        cursor.execute("SET session_replication_role = replica; SET maintenance_work_mem = '1GB'")
        cursor.execute(CODE)
        cursor.execute(_USERS, values)
        cursor.execute(_INDEXES)
        indexes = cursor.fetchall()
        for name, constraint, _, _ in indexes:
            if constraint is None:
                cursor.execute(f"DROP INDEX {name}")
            else:
                cursor.execute(f"ALTER TABLE referral_clicks DROP CONSTRAINT {constraint}")
        for first in range(1, clicks + 1, _CHUNK):
            last = min(clicks, first + _CHUNK - 1)
            cursor.execute(_CLICKS, {**values, "first": first, "last": last})
            tell(f"{last:,} clicks")
        for name, constraint, rule, index in indexes:
            if constraint is None:
                cursor.execute(index)
            else:
                cursor.execute(f"ALTER TABLE referral_clicks ADD CONSTRAINT {constraint} {rule}")
            tell(str(name))
        cursor.execute(_PAYMENTS, values)
        cursor.execute("VACUUM ANALYZE")
        cursor.execute("CHECKPOINT; RESET session_replication_role; RESET maintenance_work_mem")
        cursor.execute("SELECT code FROM referral_codes ORDER BY user_id")
        codes = [row[0] for row in cursor]
    return History(codes[:referrers], big, codes[big - 1], typical)
