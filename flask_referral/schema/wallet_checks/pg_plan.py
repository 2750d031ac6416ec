"""Decide what has to change on PostgreSQL, and refuse what cannot, before anything is written."""

from __future__ import annotations

import dataclasses
import json
import typing as t
import zlib

import sqlalchemy as sa

from ...errors import MigrationRefused
from ..ddl_locks import raw
from .lookups import in_postgresql
from .lookups import missing_rows
from .lookups import refuse_missing_rows
from .pg_enums import Label
from .pg_enums import missing_labels
from .pg_enums import refuse_strangers
from .pg_inspect import Check
from .pg_inspect import Column
from .pg_inspect import Holder
from .pg_inspect import our_columns
from .pg_inspect import run_as
from .pg_inspect import Wallet
from .pg_samples import domain_samples
from .pg_samples import refused_samples
from .rows import COLUMNS
from .rows import Gap
from .rows import Sample
from .rows import values_of
from .text import literal

#: Begins the comment of a constraint we widened; the rest is JSON: what it was before.
RECORD = "Extended by flask-referral; before: "
#: The comment of a constraint that a migration has not finished with.
TEMPORARY = "Temporary constraint of flask-referral's migration."


@dataclasses.dataclass(frozen=True)
class Record:
    """What a constraint was before we widened it: its expression and its comment."""

    check: str
    comment: str | None

    def as_comment(self) -> str:
        return RECORD + json.dumps(dataclasses.asdict(self), ensure_ascii=False)

    @classmethod
    def of(cls, comment: str | None) -> Record | None:
        if comment is None or not comment.startswith(RECORD):
            return None
        return cls(**json.loads(comment.removeprefix(RECORD)))


@dataclasses.dataclass(frozen=True)
class Change:
    """One constraint to be replaced under its own name."""

    check: Check
    expression: str
    comment: str | None

    @property
    def temporary(self) -> str:
        """The name while both constraints exist; PostgreSQL's names have 63 bytes at most."""
        name = self.check.name.encode()
        if len(name) + len("__referral") > 63:
            # What is cut off may be all that tells two names apart.
            return f"{name[:44].decode(errors='ignore')}_{zlib.crc32(name):08x}__referral"
        return f"{self.check.name}__referral"


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a migration has to do."""

    wallet: Wallet
    labels: tuple[Label, ...] = ()
    changes: tuple[Change, ...] = ()
    leftovers: tuple[Check, ...] = ()

    @property
    def empty(self) -> bool:
        return not (self.labels or self.changes or self.leftovers)


def gaps(connection: sa.Connection, wallet: Wallet) -> list[Gap]:
    """Return the rules that refuse rows of ours: short columns, enums, lookup tables, CHECKs."""
    found = _unfit(connection, wallet)
    labels = missing_labels(connection, wallet)
    found += [Gap(f"The enum {label.enum}", (label.label,)) for label in labels]
    # A value the column cannot hold cannot be tried on its CHECKs.
    for check in [] if found else _candidates(wallet):
        refused = _refused(connection, wallet, check, check.expression)
        if refused:
            found.append(Gap(str(check), _named(refused, check)))
    return [*found, *_lacking(connection, wallet)]


def plan_extend(connection: sa.Connection, wallet: Wallet) -> Plan:
    """Plan the upgrade. Call it inside ``scratch``.

    :raises MigrationRefused: when it cannot be done, with the reason and the cure.
    """
    unfit = _unfit(connection, wallet)
    if unfit:
        needed = max(len(value) for value in unfit[0].values)
        raise MigrationRefused(
            f"{unfit[0].rule} cannot hold {' or '.join(unfit[0].values)}. Change it to text, or to"
            f" at least {needed} characters, in a migration of the application, then run this one"
            " again."
        )
    labels = missing_labels(connection, wallet)
    refuse_missing_rows(_lacking(connection, wallet), first=[label.add for label in labels])
    refuse_strangers(labels)
    changes = []
    # With a label missing nothing can be tried; the plan is made again once it is there.
    if not labels:
        for check in _candidates(wallet):
            if _refused(connection, wallet, check, check.expression):
                changes.append(_extension(connection, wallet, check))
    plan = Plan(wallet, tuple(labels), tuple(changes), _leftovers(wallet))
    _refuse_strangers(plan)
    return plan


def plan_restore(connection: sa.Connection, wallet: Wallet) -> Plan:
    """Plan the downgrade. Call it inside ``scratch``.

    :raises MigrationRefused: when rows of the wallet need our values.
    """
    refuse_rows_in_use(connection, wallet)
    changes = []
    for check in wallet.checks:
        record = Record.of(check.comment)
        if record is not None:
            change = Change(check, record.check, record.comment)
            _refuse_rows_lost(connection, wallet, change)
            changes.append(change)
    plan = Plan(wallet, (), tuple(changes), _leftovers(wallet))
    _refuse_strangers(plan)
    return plan


def refuse_rows_in_use(connection: sa.Connection, wallet: Wallet) -> None:
    """Refuse while the wallet has rows that only this library writes.

    :raises MigrationRefused: with their number.
    """
    sql = f"SELECT count(*) FROM {wallet.table.sql} WHERE {wallet.rows.in_use('::text')}"
    count = raw(connection, sql).scalar_one()
    if count:
        raise MigrationRefused(wallet.rows.in_use_message(str(wallet.table), count))


def _lacking(connection: sa.Connection, wallet: Wallet) -> list[Gap]:
    lookups = in_postgresql(connection, wallet.table.oid, str(wallet.table))
    return missing_rows(connection, lookups, wallet.rows)


def _leftovers(wallet: Wallet) -> tuple[Check, ...]:
    return tuple(check for check in wallet.checks if check.comment == TEMPORARY)


def _candidates(wallet: Wallet) -> list[Check]:
    """Return the CHECKs that read one of our columns, or belong to a domain of one."""
    return [
        check
        for check in wallet.checks
        if check.comment != TEMPORARY
        and (check.holder.kind == "DOMAIN" or check.reads & set(COLUMNS))
    ]


def _unfit(connection: sa.Connection, wallet: Wallet) -> list[Gap]:
    """Return the columns whose type cannot hold our values: too short, or no text at all."""
    found = []
    for column in our_columns(wallet):
        if column.kind != "e":
            lost = [v for v in wallet.rows.values[column.name] if not _holds(connection, column, v)]
            if lost:
                rule = f'The column "{column.name}" of {wallet.table}, of type {column.type},'
                found.append(Gap(rule, tuple(lost)))
    return found


def _holds(connection: sa.Connection, column: Column, value: str) -> bool:
    # An explicit cast to varchar(n) cuts the value off without an error.
    text = literal(value)
    sql = f"SELECT CAST(CAST({text} AS {column.type}) AS text) = {text}"
    try:
        with connection.begin_nested():
            return bool(raw(connection, sql).scalar_one())
    except sa.exc.DBAPIError:
        return False


def _samples(wallet: Wallet, holder: Holder) -> t.Sequence[Sample]:
    return domain_samples(wallet, holder) if holder.kind == "DOMAIN" else wallet.rows.samples


def _refused(
    connection: sa.Connection, wallet: Wallet, check: Check, expression: str
) -> list[Sample]:
    samples = _samples(wallet, check.holder)
    try:
        return refused_samples(connection, check.holder, expression, samples)
    except sa.exc.DBAPIError as error:
        reason = str(error.orig).strip().splitlines()[0]
        raise MigrationRefused(
            f"The {check} cannot be tried on a row of the referral system: {reason}. Change it"
            " in a migration of the application so that it takes any text, then run this again."
        ) from error


def _named(refused: list[Sample], check: Check) -> tuple[str, ...]:
    if check.holder.kind == "DOMAIN":
        return tuple(str(sample["value"]) for sample in refused)
    return values_of(refused, check.reads)


def _extension(connection: sa.Connection, wallet: Wallet, check: Check) -> Change:
    if check.inherited and check.holder.depth == 0:
        raise MigrationRefused(
            f"The {check} is inherited from a parent table and can only be changed there. Set up"
            " the extension with the parent table as wallet_model."
        )
    if check.holder.kind == "DOMAIN":
        values = [str(s["value"]) for s in domain_samples(wallet, check.holder)]
        listed = ", ".join(literal(value) for value in values)
        expression = f"({check.expression}) OR VALUE IN ({listed})"
    else:
        expression = wallet.rows.widened(check.expression, check.columns)
    if _refused(connection, wallet, check, expression):
        raise MigrationRefused(
            f"The {check} refuses rows of the referral system even after it was widened."
            " Change it in a migration of the application, then run this again."
        )
    record = Record.of(check.comment) or Record(check.expression, check.comment)
    return Change(check, expression, record.as_comment())


def _refuse_rows_lost(connection: sa.Connection, wallet: Wallet, change: Change) -> None:
    """Refuse when rows exist that the old CHECK refuses and only the widened one accepts."""
    if change.check.holder.kind == "DOMAIN":
        return
    table = change.check.holder
    ours = wallet.rows.condition(change.check.columns)
    sql = f"SELECT count(*) FROM {table.sql} WHERE (({change.expression}) IS FALSE) AND ({ours})"
    count = raw(connection, sql).scalar_one()
    if count:
        raise MigrationRefused(
            f"The downgrade is refused: the old {change.check} does not allow {count} of the"
            " rows. Move these rows to another table or change them, then downgrade again."
        )


def _refuse_strangers(plan: Plan) -> None:
    """Refuse when something that must change belongs to another role, or a name is taken."""
    for check in (*(change.check for change in plan.changes), *plan.leftovers):
        if not check.holder.owned:
            raise MigrationRefused(run_as(f"the {check.holder}", check.holder.owner))
    names = {
        (check.holder.oid, check.name): check
        for check in plan.wallet.checks
        if check.comment != TEMPORARY
    }
    for change in plan.changes:
        taken = names.get((change.check.holder.oid, change.temporary))
        if taken is not None:
            raise MigrationRefused(
                f"The {taken} has the name that this migration needs for a while. Rename it,"
                " then run this again."
            )
