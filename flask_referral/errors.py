"""Everything that flask-referral raises on purpose, and the commonest reason to raise it."""

from __future__ import annotations

import typing as t


class ReferralError(RuntimeError):
    """flask-referral could not do what it was asked to do."""

    def __init__(self, message: str | None = None, /, **variables: t.Any) -> None:
        #: The English sentence, which is the key of its translations where users are told it.
        self.message = message or (type(self).__doc__ or "").strip()
        #: What stands for each ``%(name)s`` in it.
        self.variables = variables
        super().__init__(self.message % variables if variables else self.message)


class ConfigurationError(ReferralError):
    """The application is not set up for flask-referral."""


class UnknownUser(ReferralError):
    """There is no user with this id."""


class CodeExhausted(ReferralError):
    """No free referral code was found in five attempts; the source of codes repeats itself."""


class CodeNotAllowed(ReferralError):
    """This cannot be a code."""


class CodeTaken(ReferralError):
    """Somebody else has this code, or had it."""


class AttributionRefused(ReferralError):
    """The user was not moved to another code."""


class WalletRefused(ReferralError):
    """A rule of the host's wallet refused a credit, and the transaction cannot be committed."""


class SchemaDiffers(ReferralError):
    """The referral tables are not as the shipped revisions left them."""

    def __init__(self, differences: str) -> None:
        super().__init__(
            f"The referral tables are not as the shipped revisions left them: {differences}. "
            "Undo what was changed in the database; flask referral db upgrade --sql shows how the "
            "tables are made."
        )
        #: In words.
        self.differences = differences


class MigrationRefused(ReferralError):
    """The migration was refused and nothing was changed."""


class RowSecurityUnavailable(ReferralError):
    """Row level security is not available here."""


class GrantRefused(ReferralError):
    """The rights were not granted and nothing was changed."""


class UnknownProvider(ReferralError):
    """No webhook of this payment provider is set up here."""


class InvalidSignature(ReferralError):
    """The webhook's signature does not match its body."""


class InvalidEvent(ReferralError):
    """The webhook's body is not an event that can be read."""


def is_whole_number(value: t.Any, low: int, high: int) -> t.TypeGuard[int]:
    """Whether a value from outside is an integer within bounds; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
