"""The trigger that computes ``balance_after_cents``, for a host that has none yet.

The trigger is the host's: it is shown, and never made, replaced or dropped by us.
"""

from __future__ import annotations

import sqlalchemy as sa

from ..db.qualified import is_foreign
from ..db.sql import IDENTIFIERS

NAME = "calculate_balance_after"

# The time is drawn under the lock, too: a default is drawn before the trigger fires, and now() is
# when the transaction began, so "last" would follow another order than the balances.
_POSTGRESQL = """\
CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    last_row record;
BEGIN
    -- All who write to one wallet wait for each other here; after that the last row is the last.
    PERFORM {lock};
    SELECT balance_after_cents, created_at INTO last_row FROM {wallet}
    WHERE user_id {equals} NEW.user_id ORDER BY {newest_first} LIMIT 1;
    NEW.balance_after_cents := NEW.amount_cents + coalesce(
        last_row.balance_after_cents,
        (SELECT pg_catalog.sum(amount_cents) FROM {wallet} WHERE user_id {equals} NEW.user_id),
        0
    );
    NEW.created_at := greatest(
        pg_catalog.clock_timestamp(), last_row.created_at + interval '1 microsecond'
    );
    RETURN NEW;
END $$;

CREATE TRIGGER {name} BEFORE INSERT ON {wallet}
    FOR EACH ROW EXECUTE FUNCTION {function}();
"""
_ROW_LOCK = "1 FROM {users} WHERE {key} {equals} NEW.user_id FOR NO KEY UPDATE"
#: The lock that credits take where the application may not lock rows of its users.
_NAMED_LOCK = """pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended(
        pg_catalog.concat('flask_referral.wallet:', NEW.user_id), 0::bigint))"""
_SQLITE = """\
-- SQLite has one writer at a time, so the last row is the last.
CREATE TRIGGER {name} AFTER INSERT ON {bare} BEGIN
    UPDATE {bare} SET balance_after_cents = NEW.amount_cents + coalesce(
        (SELECT balance_after_cents FROM {bare}
         WHERE user_id = NEW.user_id AND rowid < NEW.rowid ORDER BY rowid DESC LIMIT 1),
        (SELECT sum(amount_cents) FROM {bare}
         WHERE user_id = NEW.user_id AND rowid < NEW.rowid),
        0
    ) WHERE rowid = NEW.rowid;
END;
"""


def obstacle(wallet: sa.Table, dialect: str) -> str | None:
    """Return what the wallet's model needs before the trigger can work, in words, or None."""
    columns = {column.name: column for column in wallet.columns}
    needed = (
        ("balance_after_cents",) if dialect == "sqlite" else ("balance_after_cents", "created_at")
    )
    missing = [name for name in needed if name not in columns]
    if missing:
        return f"The trigger needs the column {' and '.join(missing)} in {wallet.fullname!r}."
    if dialect == "sqlite" and not columns["balance_after_cents"].nullable:
        return (
            f"The column balance_after_cents of {wallet.fullname!r} has to be nullable on SQLite, "
            "where a trigger can fill it only after the row is there."
        )
    return None


def balance_trigger(
    wallet: sa.Table, user_key: sa.Column[object], dialect: str, *, may_lock_users: bool = True
) -> str:
    """Return the statements that make the trigger, with its lock, in the host's own names.

    :param wallet: the host's ``wallet_transactions``.
    :param user_key: the key of the host's users.
    :param may_lock_users: whether the application may lock rows of its user table.
    """
    quote, format_table = IDENTIFIERS.quote, IDENTIFIERS.format_table
    if dialect == "sqlite":
        name = f"{quote(wallet.schema)}.{NAME}" if wallet.schema else NAME
        return _SQLITE.format(name=name, bare=quote(wallet.name))
    lock = _ROW_LOCK if may_lock_users else _NAMED_LOCK
    # A type of the catalog's without operators of its own, as VARCHAR, could get one.
    equals = "=" if is_foreign(user_key) else "OPERATOR(pg_catalog.=)"
    newest_first = ["created_at DESC", *(f"{quote(key.name)} DESC" for key in wallet.primary_key)]
    return _POSTGRESQL.format(
        name=NAME,
        function=f"{quote(wallet.schema)}.{NAME}" if wallet.schema else NAME,
        wallet=format_table(wallet),
        lock=lock.format(
            users=format_table(user_key.table), key=quote(user_key.name), equals=equals
        ),
        equals=equals,
        newest_first=", ".join(newest_first),
    )
