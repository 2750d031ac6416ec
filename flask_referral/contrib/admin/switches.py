"""Users whose code is switched off: who, why, and switching."""

from __future__ import annotations

import typing as t

from flask import abort
from flask import redirect
from flask import request
from flask import url_for
from flask.typing import ResponseReturnValue

from ... import clock
from ...errors import ReferralError
from ...host.identity import convert_key
from ...upkeep import acts
from . import lists
from . import preview
from .desk import route
from .tables import Table

_ACTS = {"disable": acts.Act.disable, "enable": acts.Act.enable}


class Disabled(Table):
    """Users whose code is switched off."""

    make = staticmethod(lists.disabled_users)
    template = "disabled.html"
    about = "Their links lead on without being counted, and what their friends buy earns nothing."

    @route("/<act>", "GET", "POST")
    def switch(self, act: str) -> ResponseReturnValue:
        """Ask whom to switch off or on, and why; then do it."""
        if act not in _ACTS:
            abort(404)
        if request.method == "GET":
            return self._ask(act)
        self.refuse_other_sites()
        try:
            by = self.operator()
            key = convert_key(self.state.models.user_key, request.form.get("user", "").strip())
            self.act(lambda: self._do(_ACTS[act], by, key))
        except ReferralError as error:
            return self._ask(act, str(error))
        return redirect(url_for(".index"), 303)

    def _do(self, act: acts.Act, by: acts.Operator, key: t.Any) -> bool:
        db = preview.begin(self.state).db
        return acts.switch(db, self.state.models, by, act, key, now=clock.now())

    def _ask(self, act: str, error: str | None = None) -> ResponseReturnValue:
        return self.show(
            "switch.html",
            422 if error else 200,
            title="Switch a user's code off" if act == "disable" else "Switch a user's code on",
            act=act,
            user=request.values.get("user", ""),
            reason=request.form.get("reason", ""),
            error=error,
        )
