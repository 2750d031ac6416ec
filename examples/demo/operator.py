"""The desk of those who run Larkmail: the referral program, in Flask-Admin."""

from __future__ import annotations

from flask import abort
from flask import Flask
from flask import redirect
from flask import url_for
from flask.typing import ResponseReturnValue
from flask_admin import Admin
from flask_admin import AdminIndexView
from flask_admin import expose
from flask_admin.menu import MenuLink
from flask_admin.theme import Bootstrap4Theme
from flask_login import current_user

from flask_referral.contrib.admin import add_views

from .extensions import login
from .extensions import referral


class Operators:
    """Who may see the desk, and by which name their acts are kept."""

    def is_accessible(self) -> bool:
        return current_user.is_authenticated and current_user.is_operator

    def inaccessible_callback(self, name: str, **values: object) -> ResponseReturnValue:
        if current_user.is_authenticated:
            abort(403, "This page is for those who run Larkmail.")
        return login.unauthorized()

    def operator_name(self) -> str:
        return current_user.email


class Home(Operators, AdminIndexView):
    """Nothing but the way to the overview."""

    @expose("/")
    def index(self) -> ResponseReturnValue:
        return redirect(url_for("referral_overview.index"))

    def is_visible(self) -> bool:
        return False


def init_app(app: Flask) -> None:
    admin = Admin(
        app, name="Larkmail", index_view=Home(url="/operator"), theme=Bootstrap4Theme(fluid=True)
    )
    add_views(admin, referral, base=Operators)
    admin.add_link(MenuLink("Back to Larkmail", endpoint="demo.landing"))
