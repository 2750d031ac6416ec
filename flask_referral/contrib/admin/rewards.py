"""The review queue: rewards, one of them, and what is decided on it."""

from __future__ import annotations

import functools
import typing as t
import uuid

import sqlalchemy as sa
from flask import abort
from flask import redirect
from flask import request
from flask import url_for
from flask.typing import ResponseReturnValue

from ... import clock
from ... import wallet
from ...clock import as_utc
from ...conversions import rewards as station
from ...conversions.facts import Kind
from ...conversions.rewards import Row
from ...db import qualified
from ...db import sql
from ...db.models import RewardStatus
from ...errors import ReferralError
from ...results import ReversalReason
from ...upkeep import acts
from ...upkeep import review
from . import lists
from . import preview
from .desk import route
from .tables import Table

if t.TYPE_CHECKING:
    from ...conversions.transaction import Transaction

#: What is kept of one reward of a payment's.
_OF_REWARD = (Kind.hold, Kind.release, Kind.void)
#: What happened to the money of a payment, and not by which ids it is known.
_OF_PAYMENT = (
    *(Kind.refund, Kind.refund_sum, Kind.refund_failed),
    *(Kind.dispute_opened, Kind.dispute_won),
)
_WAITING = (RewardStatus.held, RewardStatus.pending)
#: What may be done, with its words and the statuses of rewards that it is for.
ACTS: dict[str, tuple[str, str, tuple[RewardStatus, ...]]] = {
    "release": ("Release", "It is credited, at once or when its hold is over.", _WAITING[:1]),
    "void": ("Void", "It is given up for good, and never credited.", _WAITING),
    "take-back": (
        "Take back",
        "The payment's rewards are taken back, the buyer's welcome bonus included.",
        (*_WAITING, RewardStatus.credited),
    ),
}
_DONE = {
    "release": "Released.",
    "void": "Given up.",
    "take-back": "Taken back.",
    "again": "This was done before; nothing was changed.",
    "nothing": "Nothing was left to take back; it is recorded.",
}


class Rewards(Table):
    """What waits for a reviewer, and all other rewards."""

    make = staticmethod(lists.rewards)
    about = "Held rewards wait for your decision; pending ones are credited when they are due."

    @route("/<uuid:reward_id>")
    def detail(self, reward_id: uuid.UUID) -> ResponseReturnValue:
        """Show a reward: its payment, what is known of that, the wallet's rows, and the acts."""
        reward = self._reward(reward_id)
        state, event = self.state, self.state.models.ReferralEvent.__table__
        with_facts = (
            sa.select(event.c.kind, event.c.amount_cents, event.c.outcome, event.c.occurred_at)
            .where(
                event.c.payment_id == reward.payment_id,
                event.c.provider == reward.provider,
                sa.or_(
                    event.c.kind.in_(sql.words(*_OF_PAYMENT)),
                    sa.and_(
                        event.c.kind.in_(sql.words(*_OF_REWARD)),
                        event.c.reference == str(reward.id),
                    ),
                ),
            )
            .order_by(event.c.occurred_at)
        )
        facts = self.read(lambda db: list(qualified.execute(db, with_facts, {})))
        tx = preview.begin(state)
        rows: list[wallet.Shown] = []
        if (table := state.wallet_table) is not None:
            rows = wallet.rows_of(tx.db, state.models, table, reward.user_id, reward_id=reward.id)
        name_of = state.loaders.display_name
        people = dict.fromkeys(filter(None, (reward.user_id, reward.referred_user_id)))
        return self.show(
            "reward.html",
            title="Reward",
            reward=reward,
            facts=[
                {**row._asdict(), "occurred_at": row.occurred_at and as_utc(row.occurred_at)}
                for row in facts
            ],
            wallet_rows=rows,
            has_wallet=state.wallet_table is not None,
            history=acts.of_reward(tx.db, state.models, reward),
            names={user: name_of(user) if name_of else None for user in people},
            acts=[(name, ACTS[name][0]) for name in ACTS if reward.status in ACTS[name][2]],
            done=_DONE.get(request.args.get("done", "")),
        )

    @route("/<uuid:reward_id>/<act>", "GET", "POST")
    def decide(self, reward_id: uuid.UUID, act: str) -> ResponseReturnValue:
        """Show what an act would do, and ask for a reason; then do it."""
        if act not in ACTS:
            abort(404)
        if request.method == "GET":
            return self._ask(self._reward(reward_id), act)
        self.refuse_other_sites()
        try:
            by = self.operator()
            amount, refund_id = _amount(), request.form.get("once", "")
            done = self.act(lambda: self._do(reward_id, act, by, amount, refund_id))
        except ReferralError as error:
            return self._ask(self._reward(reward_id), act, str(error))
        return redirect(url_for(".detail", reward_id=reward_id, done=done), 303)

    def _ask(self, reward: Row, act: str, error: str | None = None) -> ResponseReturnValue:
        effects: list[preview.Effect] = []
        refused = None
        try:
            amount = _amount()
            # Its own name, so that the preview is not taken for a repetition.
            once = request.form.get("once") or f"desk-{uuid.uuid4()}"
            by = acts.Operator("preview", "preview")
            work = functools.partial(
                self._do_in, reward.id, act, by, amount, f"preview-{uuid.uuid4()}"
            )
            effects = preview.foresee(self.state, reward, work)
        except ReferralError as error_of_act:
            refused, once = str(error_of_act), ""
        return self.show(
            "decide.html",
            422 if error or refused else 200,
            title=f"{ACTS[act][0]} a reward",
            verb=ACTS[act][0],
            about=ACTS[act][1],
            act=act,
            reward=reward,
            effects=effects,
            once=once,
            amount=request.values.get("amount_cents", ""),
            reason=request.form.get("reason", ""),
            # What was refused would be refused again.
            error=error or refused,
            may_act=refused is None,
        )

    def _do(
        self, reward_id: uuid.UUID, act: str, by: acts.Operator, amount: int | None, once: str
    ) -> str:
        outcome = self._do_in(reward_id, act, by, amount, once, preview.begin(self.state))
        if outcome is ReversalReason.already_reversed:
            return "again"
        return "nothing" if outcome is ReversalReason.nothing_to_reverse else act

    def _do_in(
        self,
        reward_id: uuid.UUID,
        act: str,
        by: acts.Operator,
        amount: int | None,
        once: str,
        tx: Transaction,
    ) -> ReversalReason | None:
        now = clock.now()
        if act == "release":
            review.release(tx, by, reward_id, now)
            return None
        if act == "void":
            return review.void(tx, by, reward_id, now).reason
        if not once:
            raise ReferralError("This form is not complete; open the reward and begin again.")
        reward = self._reward(reward_id)
        return review.take_back(
            tx,
            by,
            reward.membership_id,
            payment_id=reward.payment_id,
            provider=reward.provider,
            # A form that is sent twice is one refund.
            refund_id=once,
            amount_cents=amount,
            now=now,
        ).reason

    def _reward(self, reward_id: uuid.UUID) -> Row:
        found = station.by_ids(preview.begin(self.state), [reward_id])
        if not found:
            abort(404)
        return found[0]


def _amount() -> int | None:
    """Return how many cents are to be taken back; None: all that is left.

    :raises ReferralError: for what is no amount.
    """
    text = request.values.get("amount_cents", "").strip()
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 2**31):
        raise ReferralError("The amount is a whole number of cents, 1 or more; empty: all of it.")
    return int(text)
