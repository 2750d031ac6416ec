"""Replace constraints of a live PostgreSQL table, holding strong locks for moments only.

1. The new constraint is added NOT VALID under a temporary name: a strong lock, but no scan.
2. It is validated in a transaction of its own: the scan lets readers and writers through.
3. The old one is dropped and the new one takes its name: a strong lock, but no scan.
"""

from __future__ import annotations

import functools
import typing as t

import sqlalchemy as sa

from ...db.sql import sqlstate
from ...errors import MigrationRefused
from ..ddl_locks import LOCK_TIMEOUT_MS
from ..ddl_locks import patiently
from ..ddl_locks import QUIET_LOCK_TIMEOUT_MS
from ..ddl_locks import raw
from ..ddl_locks import set_lock_timeout
from .pg_inspect import Check
from .pg_plan import Change
from .pg_plan import Plan
from .pg_plan import TEMPORARY
from .text import literal
from .text import quote

CHECK_VIOLATION = "23514"


def replace(
    connection: sa.Connection, plan: Plan, *, recheck: t.Callable[[], None] | None = None
) -> None:
    """Carry out the plan's changes. On failure the table is as it was before.

    :param connection: in AUTOCOMMIT.
    :param plan: what to change.
    :param recheck: called once the new constraints are in force for new rows; may refuse.
    :raises MigrationRefused: when locks are not to be had or a row violates a new constraint.
    """
    swap = _Swap(connection, plan)
    try:
        swap.add()
        if recheck is not None:
            recheck()
        swap.validate()
        swap.rename()
    except BaseException as error:
        left = swap.clean_up()
        if isinstance(error, sa.exc.DBAPIError):
            raise MigrationRefused(_explained(error, plan) + left) from error
        if isinstance(error, MigrationRefused):
            raise MigrationRefused(f"{error}{left}") from error
        raise


class _Swap:
    def __init__(self, connection: sa.Connection, plan: Plan) -> None:
        self.connection = connection
        self.plan = plan
        # Parents first: what a child has besides its parent's constraint can be dropped only
        # after the parent's.
        self.changes = sorted(plan.changes, key=lambda change: change.check.holder.depth)
        self.roots = [change for change in self.changes if not change.check.inherited]
        self.added = False

    def add(self) -> None:
        def body() -> None:
            self._prepare()
            self._drop_temporaries()
            # Children first: the parent's constraint then merges with theirs.
            for change in reversed(self.changes):
                no_inherit = " NO INHERIT" if change.check.no_inherit else ""
                name = quote(change.temporary)
                self._run(
                    f"{change.check.holder.alter} ADD CONSTRAINT {name}"
                    f" CHECK ({change.expression}){no_inherit} NOT VALID"
                )
                self._comment(change, change.temporary, TEMPORARY)

        self._patiently(body)
        self.added = True

    def validate(self) -> None:
        for change in self.roots:
            if change.check.valid:
                name = quote(change.temporary)
                sql = f"{change.check.holder.alter} VALIDATE CONSTRAINT {name}"
                self._patiently(functools.partial(self._validate, sql), quiet=True)

    def rename(self) -> None:
        def body() -> None:
            self._prepare()
            for change in self.changes:
                name = quote(change.check.name)
                self._run(f"{change.check.holder.alter} DROP CONSTRAINT {name}")
            for change in self.roots:
                old, new = quote(change.temporary), quote(change.check.name)
                self._run(f"{change.check.holder.alter} RENAME CONSTRAINT {old} TO {new}")
            for change in self.changes:
                self._comment(change, change.check.name, change.comment)

        if self.changes:
            self._patiently(body)

    def clean_up(self) -> str:
        """Drop the temporary constraints; return what to tell the user if that fails."""

        def body() -> None:
            self._prepare(as_planned=False)
            self._drop_temporaries()

        if self.added:
            try:
                self._patiently(body)
            except (sa.exc.SQLAlchemyError, MigrationRefused):
                names = ", ".join(change.temporary for change in self.changes)
                return f" Only temporary constraints are left ({names}); the next run removes them."
        return ""

    def _patiently(self, body: t.Callable[[], None], *, quiet: bool = False) -> None:
        patiently(
            self.connection,
            body,
            what=f"the {self.plan.wallet.table}",
            tables=[holder.oid for holder in self.plan.wallet.tables],
            timeout_ms=QUIET_LOCK_TIMEOUT_MS if quiet else LOCK_TIMEOUT_MS,
        )

    def _prepare(self, *, as_planned: bool = True) -> None:
        self._unlimited()
        # This lock keeps other DDL and autovacuum away and is felt by no reader or writer, so it
        # may be waited for; behind it the strong lock has only short transactions to wait for.
        set_lock_timeout(self.connection, QUIET_LOCK_TIMEOUT_MS)
        self._run(f"LOCK TABLE {self.plan.wallet.table.sql} IN SHARE UPDATE EXCLUSIVE MODE")
        set_lock_timeout(self.connection, LOCK_TIMEOUT_MS)
        if as_planned:
            for change in self.changes:
                self._expect(change.check)

    def _unlimited(self) -> None:
        # Names print and read the same as when the plan was made. A statement_timeout meant for
        # web requests does not end the scan of a large table.
        self._run("SET LOCAL search_path = pg_catalog")
        self._run("SET LOCAL statement_timeout = 0")

    def _expect(self, check: Check) -> None:
        row = self._run(
            "SELECT conname::text, pg_catalog.pg_get_expr(conbin, conrelid) FROM pg_constraint"
            f" WHERE oid = '{check.oid}'"
        ).one_or_none()
        if row is None or tuple(row) != (check.name, check.expression):
            raise MigrationRefused(
                f"The {check} was changed by somebody else meanwhile. Run the command again."
            )

    def _drop_temporaries(self) -> None:
        leftovers = [(check.holder, check.name) for check in self.plan.leftovers]
        ours = [(change.check.holder, change.temporary) for change in self.changes]
        for holder, name in sorted({*leftovers, *ours}, key=lambda item: item[0].depth):
            self._run(f"{holder.alter} DROP CONSTRAINT IF EXISTS {quote(name)}")

    def _validate(self, sql: str) -> None:
        self._unlimited()
        self._run(sql)

    def _comment(self, change: Change, name: str, comment: str | None) -> None:
        holder = change.check.holder
        where = "DOMAIN " if holder.kind == "DOMAIN" else ""
        self._run(
            f"COMMENT ON CONSTRAINT {quote(name)} ON {where}{holder.sql} IS {literal(comment)}"
        )

    def _run(self, sql: str) -> sa.CursorResult[t.Any]:
        return raw(self.connection, sql)


def _explained(error: sa.exc.DBAPIError, plan: Plan) -> str:
    reason = str(error.orig).strip().splitlines()[0]
    if sqlstate(error) == CHECK_VIOLATION:
        return (
            f"A row of the {plan.wallet.table} does not satisfy its CHECKs ({reason})."
            " Correct the row, then run the command again; nothing was changed."
        )
    return (
        f"PostgreSQL refused to change the constraints of the {plan.wallet.table}: {reason}."
        " Nothing was changed; remove the cause, then run the command again."
    )
