"""What the desk's views share: who acts, who may ask, and how answers look."""

from __future__ import annotations

import typing as t

import sqlalchemy as sa
from flask import abort
from flask import current_app
from flask import request
from flask import Response
from flask import url_for
from flask_admin import BaseView
from flask_admin import expose

from ... import words
from ...db import failures
from ...errors import ConfigurationError
from ...errors import ReferralError
from ...upkeep import acts
from ...web import connections as database
from ...web import widgets
from ...web.framing import framed
from ...web.origin import is_cross_site

if t.TYPE_CHECKING:
    from ...db import sql
    from ...extension import Referral
    from ...host.state import State

T = t.TypeVar("T")
View = t.TypeVar("View", bound=t.Callable[..., t.Any])

STYLESHEET = "desk.css"
#: The view that has the stylesheets.
OVERVIEW = "referral_overview"
REWARDS, DELIVERIES = "referral_rewards", "referral_deliveries"


def route(url: str = "/", *methods: str) -> t.Callable[[View], View]:
    """Make a method a view, by Flask-Admin's own decorator.

    :param methods: default: GET.
    """

    def decorate(view: View) -> View:
        exposed: View = expose(url, methods or ("GET",))(view)
        return exposed

    return decorate


class Desk(BaseView):  # type: ignore[misc]
    """A view of the desk; the host's own class, which says who may see it, goes before it."""

    def __init__(self, referral: Referral, **options: t.Any) -> None:
        self.referral = referral
        super().__init__(**options)

    def _run_view(self, fn: t.Callable[..., t.Any], *args: t.Any, **kwargs: t.Any) -> t.Any:
        # Flask-Admin's own runs a view a second time, in another manner, where it raises a
        # TypeError; what one of the host's loaders raises would be hidden by that.
        return fn(self, *args, **kwargs)

    @property
    def state(self) -> State:
        return self.referral.state

    @property
    def extra_css(self) -> list[str]:
        names = (widgets.STYLESHEET, STYLESHEET)
        address = f"{OVERVIEW}.static"
        return [url_for(address, filename=name, v=widgets.version(name)) for name in names]

    def show(self, template: str, status: int = 200, **values: t.Any) -> Response:
        """Return a page."""
        page: str = self.render(
            f"referral/desk/{template}",
            money=lambda cents: words.money(cents, self.state.settings.currency),
            **values,
        )
        response = framed(page)
        response.status_code = status
        return response

    def operator(self) -> acts.Operator:
        """Return who acts, and the reason that the form gives.

        :raises ReferralError: where there is no reason.
        :raises ConfigurationError: where nothing says who it is.
        """
        return acts.operator(self._name(), request.form.get("reason", ""))

    def _name(self) -> str:
        # The host's own class knows best. A name cannot be looked for before somebody is here.
        own: t.Any = getattr(self, "operator_name", None)
        if callable(own):
            name = own()
        elif getattr(current_app, "login_manager", None) is not None:
            from flask_login import current_user

            name = current_user.get_id() if current_user.is_authenticated else None
        else:
            name = None
        if not name:
            raise ConfigurationError(
                "The desk keeps who decides what, and nothing says who this is: give the base of "
                "add_views() a method operator_name() that returns a name, or set up Flask-Login."
            )
        return str(name)

    def refuse_other_sites(self) -> None:
        """Abort with 403 where another site's page sends the form; a CSRF token comes on top."""
        if is_cross_site(self.state.settings):
            abort(403, words.gettext("This form was sent by another site; send it from here."))

    def read(self, work: t.Callable[[sql.Connection], T]) -> T:
        """Return what is read of the database."""
        with database.reading(self.state) as db:
            return work(db)

    def act(self, work: t.Callable[[], T]) -> T:
        """Do something in ``db.session`` and commit it, once more where others were in the way.

        :raises ReferralError: where it was refused; nothing is stored then.
        """
        try:
            # What the work tells of, it announces itself.
            return database.in_one_commit(
                self.state, lambda db: work(), lambda result: (), locks=True
            )
        except sa.exc.SQLAlchemyError as error:
            if not failures.is_contended(error):
                raise
            raise ReferralError(str(failures.explain(error, self.state.models))) from error
