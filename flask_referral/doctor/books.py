"""Whether the rewards and the host's wallet tell of the same money."""

from __future__ import annotations

import typing as t

import sqlalchemy as sa

from .. import wallet as station
from ..db import qualified
from ..db.models import PAID
from ..db.models import WALLET_INDEX
from .findings import Check
from .findings import counted
from .findings import EXAMPLES
from .findings import fault
from .findings import Finding
from .findings import Patient
from .findings import warning

_POSTGRESQL_INDEX = sa.text(
    """
    SELECT indisvalid AND indisunique FROM pg_index
    JOIN pg_class ON pg_class.oid = indexrelid
    WHERE indrelid = CAST(pg_catalog.to_regclass(:table) AS oid) AND relname = :index
    """
)
_SQLITE_INDEX = sa.text(
    'SELECT "unique" FROM pragma_index_list(:table, :schema) WHERE name = :index'
)


def index(patient: Patient) -> t.Iterator[Finding]:
    """Whether the database itself refuses to pay a bonus twice."""
    table = patient.wallet
    name = WALLET_INDEX
    with patient.connect() as connection:
        preparer = connection.dialect.identifier_preparer
        formatted = preparer.format_table(table)
        works = connection.scalar(_index(patient, formatted))
    if works:
        return
    concurrently = "CONCURRENTLY " if patient.dialect == "postgresql" else ""
    schema = f"{preparer.quote(table.schema)}." if table.schema else ""
    # PostgreSQL makes an index in its table's schema, SQLite wants the schema before its name.
    made = name if patient.dialect == "postgresql" else f"{schema}{name}"
    on = formatted if patient.dialect == "postgresql" else preparer.quote(table.name)
    create = (
        f"CREATE UNIQUE INDEX {concurrently}{made} ON {on} (reference_id) "
        f"WHERE type = '{station.BONUS}' AND reference_type = '{station.REFERENCE_TYPE}'"
    )
    if works is None:
        yield fault(
            f"The wallet table {table.fullname!r} has no index {name}, so nothing keeps a bonus "
            "from being paid twice.",
            f"The migrations ran before the wallet was there, or it was dropped since: {create}.",
        )
    else:
        yield fault(
            f"The index {name} of {table.fullname!r} is not valid or not unique, so nothing keeps "
            "a bonus from being paid twice.",
            f"DROP INDEX {concurrently}{schema}{name}, correct rewards that were paid twice, "
            f"then {create}.",
        )


def _index(patient: Patient, formatted: str) -> sa.TextClause:
    table = patient.wallet
    if patient.dialect == "postgresql":
        return _POSTGRESQL_INDEX.bindparams(table=formatted, index=WALLET_INDEX)
    return _SQLITE_INDEX.bindparams(
        table=table.name, schema=table.schema or "main", index=WALLET_INDEX
    )


def paid(patient: Patient) -> t.Iterator[Finding]:
    """Whether each credited reward's rows add up to what is left of it. One statement."""
    reward = patient.state.models.ReferralReward.__table__.c
    entries = _sums(patient)
    is_own = entries.c.user == _text(reward.user_id)
    none: sa.ColumnElement[int] = sa.literal_column("0")
    found = (
        sa.select(
            reward.id,
            reward.created_at,
            reward.user_id,
            (reward.cents - reward.reversed_cents).label("due"),
            _total(sa.case((is_own, entries.c.cents), else_=none), "paid"),
            _total(entries.c.cents, "everybody"),
        )
        .outerjoin(entries, entries.c.reward == _reward_id(patient))
        .where(reward.status.in_(PAID))
        # Its key; the other columns depend on it, and PostgreSQL knows.
        .group_by(reward.id)
        .subquery()
    )
    # The second: rows of somebody who has nothing to do with it.
    wrong = sa.or_(found.c.paid != found.c.due, found.c.everybody != found.c.due)
    rows = _first(patient, found, wrong)
    if rows:
        yield fault(
            f"{counted(rows[0].number, 'reward is', 'rewards are')} credited with other amounts "
            f"than the wallet has: {'; '.join(map(_difference, rows))}.",
            "Compare the wallet's rows of reference_type 'referral_conversion' with these ids: "
            "somebody changed them, the rewards or their users by hand, or they are from before "
            "the application had a wallet. Correct the wallet with a row of type 'adjustment' for "
            "the same user and reference.",
        )


def _difference(row: t.Any) -> str:
    if row.paid != row.due:
        return f"{row.id} is worth {row.due} cents, and user {row.user_id} has {row.paid} for it"
    others = row.everybody - row.due
    return f"{row.id} has {others} cents in wallets of users who are not part of it"


def unpaid(patient: Patient) -> t.Iterator[Finding]:
    """Whether nothing was paid for rewards that are not credited. One statement."""
    reward = patient.state.models.ReferralReward.__table__.c
    entries = _sums(patient)
    found = (
        sa.select(reward.id, reward.created_at, reward.status, _total(entries.c.cents, "cents"))
        .join(entries, entries.c.reward == _reward_id(patient))
        .where(reward.status.not_in(PAID))
        .group_by(reward.id)
        .subquery()
    )
    rows = _first(patient, found, sa.true())
    if rows:
        examples = "; ".join(f"{row.id} is {row.status} and has {row.cents} cents" for row in rows)
        yield fault(
            f"{counted(rows[0].number, 'reward has', 'rewards have')} rows in the wallet without "
            f"being credited: {examples}.",
            "Somebody wrote the rows or changed the status by hand. Where the reward is due, set "
            "its status to 'credited' and its credited_at; else take it out with a row of type "
            "'adjustment' and give both rows another reference. Until then, flask referral mature "
            "cannot credit what has a bonus already.",
        )


def orphans(patient: Patient) -> t.Iterator[Finding]:
    """Whether each bonus still has its reward. One statement."""
    rewards = patient.state.models.ReferralReward.__table__
    table = _wallet(patient)
    has_reward = (
        sa.exists().select_from(rewards).where(_reward_id(patient) == _reference(patient, table))
    )
    query = sa.select(sa.func.count().label("number"), _total(table.c.amount_cents, "cents")).where(
        table.c.type == station.BONUS,
        table.c.reference_type == station.REFERENCE_TYPE,
        ~has_reward,
    )
    row = _run(patient, query)[0]
    if row.number:
        yield warning(
            f"{counted(row.number, 'bonus', 'bonuses')} in the wallet, of {row.cents} cents in "
            "all, belong to rewards that do not exist.",
            "That is normal where users were deleted whose wallet stays: their rewards go with "
            "them. (A buyer may be deleted: the referrer's reward stays.) Where none were, "
            "somebody deleted rewards: restore them from a backup.",
        )


def _wallet(patient: Patient) -> sa.TableClause:
    # Without types: what the model says of a column need not be what the database has.
    return sa.table(
        patient.wallet.name, *map(sa.column, station.COLUMNS), schema=patient.wallet.schema
    )


def _reference(patient: Patient, table: sa.TableClause) -> sa.ColumnElement[str]:
    """Return the wallet's reference in the form of :func:`_reward_id`."""
    reference = _text(table.c.reference_id)
    if patient.dialect == "sqlite":
        # There the key of a reward has no dashes; a reference has them where it is a text.
        # Cast again: SQLite joins by an index only what it knows to be text.
        return _text(sa.func.lower(sa.func.replace(reference, "-", "")))
    return reference


def _reward_id(patient: Patient) -> sa.ColumnElement[str]:
    key = patient.state.models.ReferralReward.__table__.c.id
    return sa.type_coerce(key, sa.Text()) if patient.dialect == "sqlite" else _text(key)


def _text(column: sa.ColumnElement[t.Any]) -> sa.ColumnElement[str]:
    return sa.cast(column, sa.Text())


def _sums(patient: Patient) -> sa.Subquery:
    """What each user has in the wallet for each reward."""
    table = _wallet(patient)
    reference, user = _reference(patient, table), _text(table.c.user_id)
    return (
        sa.select(
            reference.label("reward"),
            user.label("user"),
            sa.func.sum(table.c.amount_cents).label("cents"),
        )
        .where(
            table.c.reference_type == station.REFERENCE_TYPE,
            table.c.type.in_((station.BONUS, station.ADJUSTMENT)),
        )
        .group_by(reference, user)
        .subquery()
    )


def _total(cents: sa.ColumnElement[t.Any], name: str) -> sa.Label[int]:
    # PostgreSQL's sum of a BIGINT is NUMERIC.
    total = sa.func.coalesce(sa.func.sum(cents), sa.literal_column("0"))
    return sa.cast(total, sa.BigInteger()).label(name)


def _first(
    patient: Patient, found: sa.Subquery, where: sa.ColumnElement[bool]
) -> t.Sequence[t.Any]:
    return _run(
        patient,
        sa.select(found, sa.func.count().over().label("number"))
        .where(where)
        .order_by(found.c.created_at, found.c.id)
        .limit(EXAMPLES),
    )


def _run(patient: Patient, query: sa.Executable) -> t.Sequence[t.Any]:
    with patient.connect() as connection:
        return qualified.execute(connection, query).all()


def _has_wallet(patient: Patient) -> bool:
    return patient.state.wallet_table is not None


# Of a login that row level security binds, rewards are hidden.
_NEEDS = ("database", "migrations", "database-login", "wallet")
CHECKS = (
    Check(
        "wallet-index",
        index,
        "The database refuses to pay a bonus twice.",
        ("database", "migrations", "wallet"),
        _has_wallet,
    ),
    Check(
        "credited",
        paid,
        "What credited rewards are worth is in the wallet, less what was taken back.",
        _NEEDS,
        _has_wallet,
    ),
    Check(
        "not-credited",
        unpaid,
        "Pending, held and void rewards have nothing in the wallet.",
        _NEEDS,
        _has_wallet,
    ),
    Check("bonuses", orphans, "Each bonus in the wallet has its reward.", _NEEDS, _has_wallet),
)
