"""The rows that go into the host's wallet table, and how a CHECK is widened for them."""

from __future__ import annotations

import dataclasses
import typing as t

#: The columns of the wallet whose values a host's rules list.
COLUMNS: t.Final = ("type", "reference_type")

#: Stands for the id of a conversion or of a user where a CHECK asks for one.
SAMPLE_UUID: t.Final = "00000000-0000-4000-8000-000000000000"

Sample = dict[str, str | int]


@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows that the wallet is to take. Who asks brings them: a revision has its own for good."""

    #: One (type, amount in cents) for each kind of row. Other columns are NULL.
    kinds: tuple[tuple[str, int], ...]
    #: The reference_type of all of them.
    reference_type: str
    #: The types among them that only this library writes.
    own_types: tuple[str, ...]

    @property
    def samples(self) -> tuple[Sample, ...]:
        """One row of each kind."""
        return tuple(
            {"type": kind, "amount_cents": cents, "reference_type": self.reference_type}
            for kind, cents in self.kinds
        )

    @property
    def values(self) -> dict[str, tuple[str, ...]]:
        """The values by column, in the order they are written into CHECKs."""
        types = dict.fromkeys(kind for kind, _ in self.kinds)
        return {"type": tuple(types), "reference_type": (self.reference_type,)}

    def condition(self, columns: t.Collection[str]) -> str:
        """Return the SQL condition that lets the rows past a CHECK, and as little else as possible.

        :param columns: the columns the CHECK reads. Over ``type`` or ``reference_type`` alone our
            values join the host's; with further columns only complete rows of ours are let past.
        """
        only = set(columns)
        named = only if only in ({"type"}, {"reference_type"}) else COLUMNS
        return " AND ".join(_is_in(column, self.values[column]) for column in named)

    def widened(self, expression: str, columns: t.Collection[str]) -> str:
        """Return the CHECK expression that accepts what ``expression`` accepts, and the rows.

        :param expression: the host's expression, as SQL.
        :param columns: the columns it reads.
        """
        return f"({expression}) OR ({self.condition(columns)})"

    def in_use(self, cast: str = "") -> str:
        """Return the SQL condition that is true for the rows that only this library writes.

        :param cast: what turns a column into text, where that is needed.
        """
        own = _is_in(f"type{cast}", self.own_types)
        return f"{own} OR reference_type{cast} = '{self.reference_type}'"

    def in_use_message(self, table: str, count: int) -> str:
        """Return the sentence that refuses a downgrade because of rows that need our values.

        :param table: the wallet table.
        :param count: how many such rows it has.
        """
        found = "1 row" if count == 1 else f"{count} rows"
        return (
            f"The downgrade is refused: it would leave {found} of {table} with the type"
            f" {' or '.join(self.own_types)} or the reference_type {self.reference_type}, which"
            " the old CHECKs do not allow. Move such rows to another table or give them values of"
            " your own, then downgrade again."
        )


@dataclasses.dataclass(frozen=True)
class Gap:
    """One rule of the host's wallet table that still refuses rows of the referral system."""

    #: What holds the rule, e.g. ``CHECK "wallet_transactions_type_check" of table wallet``.
    rule: str
    #: The values refused, e.g. ``("referral_bonus", "adjustment")``.
    values: tuple[str, ...]
    #: The statement that the host has to run, where the upgrade cannot close the gap.
    cure: str | None = None

    def __str__(self) -> str:
        return f"{self.rule} refuses {', '.join(self.values)}"


def values_of(samples: t.Iterable[Sample], columns: t.Collection[str]) -> tuple[str, ...]:
    """Return what a message should name for refused sample rows: our values in those columns.

    :param samples: the rows that were refused.
    :param columns: the columns the CHECK reads.
    """
    concerned = [column for column in COLUMNS if column in columns] or COLUMNS
    found = (str(sample[column]) for sample in samples for column in concerned)
    return tuple(dict.fromkeys(found))


def _is_in(column: str, values: t.Sequence[str]) -> str:
    if len(values) == 1:
        return f"{column} = '{values[0]}'"
    return f"{column} IN ({', '.join(repr(value) for value in values)})"
