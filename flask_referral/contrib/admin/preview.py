"""What an act would do: it is done in a savepoint, looked at, and undone.

So what is shown is what the same code does a moment later, refusals and the wallet's own rules
included; a calculation of ours would be a second copy of both. Nothing is stored, and no signal is
sent: signals wait for the commit of what they tell.
"""

from __future__ import annotations

import typing as t

from ... import wallet
from ...conversions import rewards
from ...conversions.rewards import Row
from ...conversions.transaction import Transaction
from ...db import sql

if t.TYPE_CHECKING:
    from ...host.state import State


class Effect(t.NamedTuple):
    """What an act does to one reward and its beneficiary's wallet.

    :param amount_cents: what the wallet gains; negative where it loses; of all rewards of this
        beneficiary that are shown.
    :param balance_before: None where the wallet has no balance, or no row.
    """

    before: Row
    after: Row
    has_wallet: bool
    amount_cents: int
    balance_before: int | None
    balance_after: int | None


def begin(state: State) -> Transaction:
    """Return the transaction of ``db.session``."""
    return Transaction.begin(state.db.session(), state.models, state.settings, state.wallet_table)


def foresee(state: State, reward: Row, work: t.Callable[[Transaction], object]) -> list[Effect]:
    """Return what some work would change of a payment's rewards and wallets.

    :raises ReferralError: where it would be refused.
    """
    tx = begin(state)
    tx.refuse_autocommit()
    # A savepoint begins no transaction of SQLite's.
    sql.begin_writing(tx.db)
    before = rewards.of_payment(tx, reward.provider, reward.payment_id)
    standing = _standings(tx, before)
    savepoint = tx.session.begin_nested()
    state.models.connection(tx.session)
    try:
        work(tx)
        after = {row.id: row for row in rewards.by_ids(tx, [row.id for row in before])}
        then = _standings(tx, before)
    finally:
        savepoint.rollback()
    return [
        Effect(
            row,
            after[row.id],
            tx.wallet is not None,
            then[row.user_id].total_cents - standing[row.user_id].total_cents,
            standing[row.user_id].balance_cents,
            then[row.user_id].balance_cents,
        )
        for row in before
        if after[row.id] != row or row.id == reward.id
    ]


def _standings(tx: Transaction, found: t.Iterable[Row]) -> dict[t.Any, wallet.Standing]:
    users = dict.fromkeys(row.user_id for row in found)
    if tx.wallet is None:
        return dict.fromkeys(users, wallet.Standing(None, 0))
    return {user: wallet.standing(tx.db, tx.wallet, user) for user in users}
