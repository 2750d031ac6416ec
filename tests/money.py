"""Money for the tests: referred users, what a host holds of rewards, and what is in wallets."""

from __future__ import annotations

import datetime as dt
import threading
import typing as t

import sqlalchemy as sa

from flask_referral.conversions import maturity
from flask_referral.conversions import reversals
from flask_referral.conversions.convert import convert
from flask_referral.conversions.facts import Fact
from flask_referral.conversions.facts import Kind
from flask_referral.conversions.payment import Payment
from flask_referral.conversions.transaction import Transaction

from .hosts import Host

MONDAY = dt.datetime(2026, 3, 2, 12, tzinfo=dt.UTC)
#: Seconds after which a thread is taken to hang.
PATIENCE = 120


def refer(host: Host, referrer: t.Any) -> t.Any:
    """Store a user whom ``referrer`` referred, and return the key."""
    referred = host.add_user()
    with host.app.app_context():
        code = host.referral.get_or_create_code(referrer)
        click = host.referral.models.ReferralClick()
        click.referral_code = code.code
        click.referrer_user_id = referrer
        click.referred_user_id = referred
        host.db.session.add(click)
        host.db.session.commit()
    return referred


def sign_up_on_days_of_their_own(host: Host) -> None:
    """Keep the limit of sign-ups out of it."""
    click = host.referral.models.ReferralClick.__table__
    with host.app.app_context(), host.db.engine.begin() as db:
        for number, row in enumerate(db.execute(sa.select(click.c.id)).all()):
            moment = MONDAY - dt.timedelta(days=number)
            db.execute(sa.update(click).where(click.c.id == row.id).values(bound_at=moment))


def transaction(host: Host) -> Transaction:
    """Return the transaction of ``db.session``, as commands and webhooks work in."""
    state = host.referral.state
    return Transaction.begin(state.db.session(), state.models, state.settings, state.wallet_table)


def pay(host: Host, user: t.Any, membership: str = "mem_1", **options: t.Any) -> str:
    """Convert and commit, as a host does; return the reason."""
    with host.app.app_context():
        result = host.referral.convert(user, membership, **options)
        host.db.session.commit()
        return result.reason.value


def deliver(host: Host, user: t.Any, *, cents: int | None = None, **values: t.Any) -> str:
    """Convert and commit what a provider reports; return the reason.

    :param cents: the provider's own conversion into the wallet's currency.
    """
    payment = Payment(converted_cents=cents, **({"membership_id": "mem_1"} | values))
    with host.app.app_context():
        tx, state = transaction(host), host.referral.state
        outcome = convert(
            tx, user, payment, policy=state.reward_policy, bonus_cents=None, now=MONDAY
        )
        host.db.session.commit()
        return outcome.reason.value


def refund(host: Host, membership: str = "mem_1", **options: t.Any) -> tuple[str, int, int]:
    """Reverse and commit, as a host does; return the reason, and cents taken and missing."""
    with host.app.app_context():
        result = host.referral.reverse(membership, reason="refund", **options)
        host.db.session.commit()
        return result.reason.value, result.reversed_cents, result.shortfall_cents


def happen(host: Host, kind: Kind, *, minutes: int = 0, **values: t.Any) -> str:
    """Apply and commit a fact, as a webhook does; return the reason.

    :param minutes: after Monday noon, when it occurred.
    """
    moment = MONDAY + dt.timedelta(minutes=minutes)
    fact = Fact(**({"kind": kind, "provider": "host", "occurred_at": moment} | values))
    with host.app.app_context():
        outcome = reversals.apply(transaction(host), fact)
        host.db.session.commit()
        return outcome.reason.value


def mature(host: Host, now: dt.datetime) -> int | None:
    """Credit and commit what is due."""
    with host.app.app_context():
        credited = maturity.mature(transaction(host), now)
        host.db.session.commit()
        return credited


def withdraw(host: Host, user: t.Any, cents: int) -> None:
    """Take money out of a wallet, as the host does."""
    with host.app.app_context():
        host.db.session.add(host.Wallet(user_id=user, amount_cents=-cents, type="withdrawal"))
        host.db.session.commit()


def delete_user(host: Host, user: t.Any) -> None:
    """Delete a user's row; the database does to others what their foreign keys say."""
    with host.app.app_context(), host.referral.state.engine.connect() as connection:
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql("PRAGMA foreign_keys = ON")
        connection.execute(sa.delete(host.User).where(host.User.id == user))
        connection.commit()


def execute(host: Host, *statements: str) -> None:
    """Run SQL in one transaction."""
    with host.app.app_context(), host.db.engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def before_rows(host: Host, statement: str) -> None:
    """Let PostgreSQL run a statement of PL/pgSQL before a row is written to the wallet."""
    execute(
        host,
        "CREATE OR REPLACE FUNCTION own_rule() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"{statement}; RETURN NEW; END $$",
        "CREATE OR REPLACE TRIGGER own_rule BEFORE INSERT ON wallet_transactions "
        "FOR EACH ROW EXECUTE FUNCTION own_rule()",
    )


def refuse_rows(host: Host, condition: str) -> None:
    """Let the wallet refuse what is true of NEW."""
    with host.app.app_context():
        is_sqlite = host.db.engine.dialect.name == "sqlite"
    if is_sqlite:
        execute(
            host,
            "DROP TRIGGER IF EXISTS own_rule",
            f"CREATE TRIGGER own_rule BEFORE INSERT ON wallet_transactions WHEN {condition} "
            "BEGIN SELECT RAISE(ABORT, 'no'); END",
        )
    else:
        before_rows(host, f"IF {condition} THEN RAISE EXCEPTION 'no'; END IF")


def rows(host: Host, user: t.Any) -> list[tuple[str, int, int]]:
    """Return (type, amount, balance after) of a user's wallet, oldest first."""
    wallet = host.Wallet
    with host.app.app_context():
        query = sa.select(wallet.type, wallet.amount_cents, wallet.balance_after_cents)
        found = host.db.session.execute(query.filter_by(user_id=user).order_by(wallet.id)).all()
        return [(row[0], row[1], row[2]) for row in found]


def amounts(host: Host, user: t.Any) -> list[int]:
    """Return what was written into a user's wallet, oldest first."""
    return [amount for _, amount, _ in rows(host, user)]


def balance(host: Host, user: t.Any) -> int:
    """Return what is in a user's wallet, where the sum and the trigger have to agree."""
    found = rows(host, user)
    assert sum(amount for _, amount, _ in found) == (found[-1][2] if found else 0)
    return found[-1][2] if found else 0


def rewards(host: Host) -> list[t.Any]:
    """Return all rewards, oldest first, of each payment the referrer's first."""
    table = host.referral.models.ReferralReward.__table__
    order = (table.c.created_at, table.c.number, table.c.payment_id, table.c.role.desc())
    with host.app.app_context(), host.referral.state.engine.connect() as connection:
        return list(connection.execute(sa.select(table).order_by(*order)))


def count(host: Host, model: t.Any) -> int:
    """Return how many rows a table has."""
    with host.app.app_context(), host.referral.state.engine.connect() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(model.__table__)) or 0


def pool(size: int) -> dict[str, t.Any]:
    """Return the setting that gives every thread a connection."""
    return {
        "SQLALCHEMY_ENGINE_OPTIONS": {"pool_size": size, "max_overflow": 0, "pool_timeout": 120}
    }


def at_once(jobs: t.Sequence[t.Callable[[], None]]) -> None:
    """Run jobs in threads that start together, and raise what the first of them raised."""
    barrier = threading.Barrier(len(jobs))
    errors: list[BaseException] = []

    def run(job: t.Callable[[], None]) -> None:
        try:
            barrier.wait(PATIENCE)
            job()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=[job], daemon=True) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"
    if errors:
        raise errors[0]
