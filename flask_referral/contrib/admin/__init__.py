"""The operator's desk: the program in the host's own Flask-Admin (extra ``admin``)."""

from __future__ import annotations

import typing as t

try:
    from flask_admin import BaseView
except ImportError as error:
    raise ImportError(
        'The desk needs Flask-Admin 2, which is not installed: pip install "flask-referral[admin]".'
    ) from error

from ...errors import ConfigurationError
from ...web import widgets
from .deliveries import Deliveries
from .desk import Desk
from .overview import Overview
from .rewards import Rewards
from .switches import Disabled
from .tables import Codes
from .tables import History
from .tables import Referrals

if t.TYPE_CHECKING:
    from ...extension import Referral
__all__ = ["add_views"]

CATEGORY = "Referrals"
_VIEWS: tuple[type[Desk], ...] = (
    *(Overview, Codes, Referrals, Rewards, Deliveries, Disabled, History),
)


def add_views(admin: t.Any, referral: Referral, *, base: type) -> None:
    """Add the desk to a Flask-Admin, in the category "Referrals".

    Overview, Codes, Referrals, Rewards (where held ones are released or voided, and all taken
    back), Deliveries, Disabled, and History: every act is kept with who, when and why.

    :param admin: the host's :class:`flask_admin.Admin`, of Flask-Admin 2.
    :param referral: the program; it may be set up before or afterwards.
    :param base: a class of the host's that goes before each view, whose ``is_accessible()`` says
        who may see the desk. Its ``operator_name()`` says who acts, by default Flask-Login does.
    :raises ConfigurationError: where ``base`` does not say who may see the desk: everybody could.
    """
    _check(base)
    for view in _VIEWS:
        name = view.__name__
        options: dict[str, t.Any] = {}
        if view is Overview:
            options = {"static_folder": str(widgets.ASSETS), "static_url_path": "/assets"}
        made = type(name, (base, view), {"__doc__": view.__doc__})
        admin.add_view(
            made(
                referral,
                name=name,
                category=CATEGORY,
                endpoint=f"referral_{name.lower()}",
                **options,
            )
        )


def _check(base: t.Any) -> None:
    own = getattr(base, "is_accessible", None)
    if not isinstance(base, type) or own is None or own is BaseView.is_accessible:
        raise ConfigurationError(
            "Everybody could work at the desk: pass add_views() a base, a class of your own whose "
            "is_accessible() returns whether the current user is an operator."
        )
    if getattr(base, "_urls", None):
        raise ConfigurationError(
            f"{base.__name__} has views of its own, which would take the place of the desk's; pass "
            "add_views() a class that has is_accessible() and no view."
        )
