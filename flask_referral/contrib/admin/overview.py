"""The first page: what the program brought and cost, and what waits for somebody."""

from __future__ import annotations

from flask import request
from flask.globals import app_ctx
from flask.typing import ResponseReturnValue

from ... import chart
from ... import doctor
from ... import words
from ...web import widgets
from .desk import Desk
from .desk import route


class Overview(Desk):
    """Figures, chart, the best referrers, what waits."""

    @route("/", "GET", "POST")
    def index(self) -> ResponseReturnValue:
        """Show the figures; where the button was pressed, what ``doctor`` finds too."""
        findings = None
        if request.method == "POST":
            self.refuse_other_sites()
            # Its checks read much: only when somebody asks.
            findings = [
                finding
                for finding in doctor.examine(app_ctx.app, self.state)
                if finding.level is not doctor.Level.ok
            ]
        text = request.args.get("days", "")
        days = next((days for days in widgets.PERIODS if str(days) == text), widgets.PERIODS[0])
        overview = self.referral.overview(days)
        return self.show(
            "overview.html",
            title=self.name,
            overview=overview,
            days=days,
            periods=widgets.PERIODS,
            drawn=chart.draw(overview.daily, is_mirrored=words.direction() == "rtl"),
            leaders=self.referral.leaderboard(),
            findings=findings,
        )
