"""What the library writes into the host's wallet table, and how a CHECK is widened for it."""

from __future__ import annotations

import dataclasses
import typing as t

#: The values the revision allows, by column, in the order they are written into CHECKs.
VALUES: t.Final[dict[str, tuple[str, ...]]] = {
    "type": ("referral_bonus", "adjustment"),
    "reference_type": ("referral_conversion",),
}

#: Stands for the id of a conversion or of a user where a CHECK asks for one.
SAMPLE_UUID: t.Final = "00000000-0000-4000-8000-000000000000"

Sample = dict[str, str | int]

#: One row of each kind: the bonus, its reversal, and the reversal undone. Other columns are NULL.
SAMPLES: t.Final[tuple[Sample, ...]] = tuple(
    {"type": kind, "amount_cents": cents, "reference_type": "referral_conversion"}
    for kind, cents in (("referral_bonus", 1), ("adjustment", -1), ("adjustment", 1))
)

#: True for the rows that only this library writes; {0} is a cast to text, where one is needed.
IN_USE: t.Final = "type{0} = 'referral_bonus' OR reference_type{0} = 'referral_conversion'"


@dataclasses.dataclass(frozen=True)
class Gap:
    """One rule of the host's wallet table that still refuses rows of the referral system."""

    #: What holds the rule, e.g. ``CHECK "wallet_transactions_type_check" of table wallet``.
    rule: str
    #: The values refused, e.g. ``("referral_bonus", "adjustment")``.
    values: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.rule} refuses {', '.join(self.values)}"


def our_rows(columns: t.Collection[str]) -> str:
    """Return the SQL condition that lets our rows past a CHECK, and as little else as possible.

    :param columns: the columns the CHECK reads. Over ``type`` or ``reference_type`` alone our
        values join the host's; with further columns only complete rows of ours are let past.
    """
    only = set(columns)
    if only == {"type"} or only == {"reference_type"}:
        return _condition(only.pop())
    return " AND ".join(_condition(column) for column in VALUES)


def widened(expression: str, columns: t.Collection[str]) -> str:
    """Return the CHECK expression that accepts what ``expression`` accepts, and our rows.

    :param expression: the host's expression, as SQL.
    :param columns: the columns it reads.
    """
    return f"({expression}) OR ({our_rows(columns)})"


def values_of(samples: t.Iterable[Sample], columns: t.Collection[str]) -> tuple[str, ...]:
    """Return what a message should name for refused sample rows: our values in those columns.

    :param samples: the rows that were refused.
    :param columns: the columns the CHECK reads.
    """
    concerned = [column for column in VALUES if column in columns] or list(VALUES)
    found = (str(sample[column]) for sample in samples for column in concerned)
    return tuple(dict.fromkeys(found))


def in_use_message(table: str, count: int) -> str:
    """Return the sentence that refuses a downgrade because of rows that need our values.

    :param table: the wallet table.
    :param count: how many such rows it has.
    """
    rows = "1 row" if count == 1 else f"{count} rows"
    return (
        f"The downgrade is refused: it would leave {rows} of {table} with the type referral_bonus"
        " or the reference_type referral_conversion, which the old CHECKs do not allow. Move such"
        " rows to another table or give them values of your own, then downgrade again."
    )


def _condition(column: str) -> str:
    values = VALUES[column]
    if len(values) == 1:
        return f"{column} = '{values[0]}'"
    return f"{column} IN ({', '.join(repr(value) for value in values)})"
