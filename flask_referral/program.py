"""The referral program as a host calls it: from a code to a bonus, and back."""

from __future__ import annotations

import contextlib
import functools
import typing as t

from . import attribution
from . import clock
from . import codes
from . import stats
from .conversions import entities
from .conversions import reversals
from .conversions.convert import convert
from .conversions.payment import checked_payment
from .conversions.payment import HOST
from .conversions.transaction import Transaction
from .db.models import ReferralCodeMixin
from .host import identity
from .host.state import State
from .results import Attribution
from .results import ConversionResult
from .results import ReversalResult
from .results import Stats
from .rls import acting as rls
from .web import cookies
from .web import links


class Program:
    """The methods of :class:`flask_referral.Referral`; they flush and never commit."""

    if t.TYPE_CHECKING:

        @property
        def state(self) -> State:
            """The current application's state."""

    def get_or_create_code(self, user: t.Any) -> ReferralCodeMixin:
        """Return the user's one referral code, made now if there was none.

        Flushes, never commits.

        :param user: a user object or a user id.
        :raises UnknownUser: where there is no such user.
        :raises CodeExhausted: where five codes in a row belonged to others.
        """
        state = self.state
        user_id = identity.user_id(state, user)
        session = state.db.session()
        with state.acting_as(user_id):
            code = codes.find(session, state.models, user_id)
        return code or codes.create(session, state.models, user_id)

    def link_for(self, user: t.Any) -> str:
        """Return the user's share link, an absolute URL; a code is made if there was none.

        Its address is ``REFERRAL_BASE_URL``, else ``SERVER_NAME``, else the host of this request
        if ``TRUSTED_HOSTS`` vouches for it (or, while debugging and testing, if it is this
        machine). Flushes, never commits.

        :param user: a user object or a user id.
        :raises ConfigurationError: where none of them is known.
        """
        state = self.state
        links.check_base_url(state)
        return links.share_link(state, self.get_or_create_code(user).code)

    def attribute(self, user: t.Any, code: str | None = None) -> Attribution:
        """Bind the visit that led to a sign-up, or a typed code, to the new user.

        The visit is the one in this request's cookie. The cookie stays: a second person may sign
        up on the same computer, and then gets a click of his own. Flushes, never commits.

        :param user: a user object or a user id.
        :param code: what the user typed, which goes before the visit, or what :meth:`carry`
            returned. An empty text is no code; any other that is no code is ``unknown_code``.
        :return: the outcome; see :class:`flask_referral.AttributionReason`. An account counts as
            older than its visit from one minute on, since clocks differ.
        :raises UnknownUser: where there is no such user.
        """
        state = self.state
        user_id = identity.user_id(state, user)
        session = state.db.session()
        session.flush()
        touch, typed = cookies.sign_up_touch(state.settings, code)
        result = attribution.attribute(
            session,
            state.models,
            state.settings,
            user_id,
            touch=touch,
            code=typed,
            now=clock.now(),
        )
        attribution.announce(session, user_id, result)
        return result

    def carry(self) -> str:
        """Return this request's visit as signed text, for a round trip that drops cookies.

        Put it into OAuth's ``state``, or keep it in the session, and hand it to
        :meth:`attribute` as ``code``. It reads the request.

        :return: about 100 characters that are safe in a URL; empty where there is no visit.
        """
        return cookies.carry(self.state.settings)

    def convert(
        self,
        user: t.Any,
        membership_id: str,
        *,
        payment_id: str | None = None,
        provider: str = HOST,
        paid_cents: int | None = None,
        currency: str | None = None,
        bonus_cents: int | None = None,
        metadata: dict[str, t.Any] | None = None,
    ) -> ConversionResult:
        """Turn a payment of a referred user into its rewards and credits, exactly once.

        Flushes, never commits: it joins the transaction of the host's order, and both or
        neither are stored. Call it for each payment, renewals included.

        :param user: who bought; a user object or a user id.
        :param membership_id: the provider's id of what was bought; 1 to 255 printable characters.
        :param payment_id: the provider's id of this payment; default: the membership's. A host
            that receives the provider's webhooks too passes the provider's own id here, or the
            payment is paid for twice.
        :param provider: who named it; a payment is known by its provider and its id.
        :param paid_cents: what was paid, in the minor unit of ``currency`` (ISO 4217).
        :param currency: three letters; default: ``REFERRAL_CURRENCY``.
        :param bonus_cents: the referrer's bonus; default: what the ``reward_policy`` says, or
            ``REFERRAL_BONUS_CENTS``.
        :param metadata: kept with the conversion, as JSON; what databases refuse in texts is
            dropped.
        :raises UnknownUser: where ``user`` cannot be a user's id.
        :raises ReferralError: for a bonus, an amount or an id that cannot be stored; nothing has
            been asked of the database then.
        :raises WalletRefused: where a rule of the wallet's own refuses the credit.
        """
        state = self.state
        payment = checked_payment(
            membership_id=membership_id,
            payment_id=payment_id,
            provider=provider,
            paid_cents=paid_cents,
            currency=currency,
            metadata=metadata,
            wallet_currency=state.settings.currency,
        )
        tx = self._begin(state)
        outcome = convert(
            tx,
            identity.user_id(state, user),
            payment,
            policy=state.reward_policy,
            bonus_cents=bonus_cents,
            now=clock.now(),
        )
        return entities.conversion_result(tx, outcome)

    def reverse(
        self,
        membership_id: str,
        *,
        reason: str,
        payment_id: str | None = None,
        provider: str = HOST,
        refund_id: str | None = None,
        amount_cents: int | None = None,
    ) -> ReversalResult:
        """Take the bonus of a payment back, in whole or in part, exactly once for each refund.

        Flushes, never commits. A refund of an unknown payment is kept, and applied when the
        payment comes.

        :param membership_id: what :meth:`convert` was given.
        :param reason: why, for the record.
        :param payment_id: what :meth:`convert` was given; default: the payment of this membership
            that qualified.
        :param provider: what :meth:`convert` was given.
        :param refund_id: the provider's id of the refund; default: the payment's id. Needed where
            a payment is refunded in parts.
        :param amount_cents: how much of the referrer's bonus; default: what is left of it.
        :raises ReferralError: for an amount or an id that makes no sense, and for a second amount
            without a ``refund_id``.
        """
        tx = self._begin(self.state)
        outcome = reversals.refund(
            tx,
            membership_id,
            reason=reason,
            payment_id=payment_id,
            provider=provider,
            refund_id=refund_id,
            amount_cents=amount_cents,
            now=clock.now(),
        )
        return entities.reversal_result(tx, outcome)

    def _begin(self, state: State) -> Transaction:
        return Transaction.begin(
            state.db.session(), state.models, state.settings, state.wallet_table
        )

    def stats(self, user: t.Any, days: int = stats.DEFAULT_DAYS) -> Stats:
        """Return what a user's code has brought: totals, and a series by day (UTC).

        A read: it makes no code, so ``code`` and ``link`` are None until there is one; ``link``
        is None too where the address of links is not known (see :meth:`link_for`). Three
        statements, whatever the number of clicks.

        :param user: a user object or a user id.
        :param days: how many days the series has, 1 to 366; today is the last.
        :raises UnknownUser: where there is no such user.
        :raises ReferralError: where ``days`` is out of bounds.
        """
        state = self.state
        user_id = identity.user_id(state, user)
        session = state.db.session()
        link = functools.partial(links.known_link, state)
        with state.acting_as(user_id):
            found = stats.collect(session, state.models, user_id, days, now=clock.now(), link=link)
        if found.code is None:
            codes.require_user(session, state.models, user_id)
        return found

    def acting_as(self, user: t.Any) -> contextlib.AbstractContextManager[None]:
        """Put ``db.session`` under the row level security of one user, for reading.

        Inside the block the session sees that user's rows of the referral tables and nothing
        else, whatever is committed, rolled back or raised in it. Blocks nest. Pending changes
        are flushed on entry, before the security applies. Only this session is bound: not
        connections of your own, nor the one that follows a ``db.session.remove()``.

        :param user: a user object or a user id.
        :raises RowSecurityUnavailable: on SQLite, in AUTOCOMMIT, without ``REFERRAL_RLS_ROLE``,
            where the connection may not take that role, or where no policy binds it.
        """
        state = self.state
        user_id = identity.user_id(state, user)
        return rls.acting_as(state.db.session(), state.models, state.settings, user_id)
