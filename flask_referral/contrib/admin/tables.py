"""The views of lists: a page, a search, a filter, an export."""

from __future__ import annotations

import typing as t

from flask import request
from flask import Response
from flask import stream_with_context

from ...db.models import Models
from ...errors import ReferralError
from ...web.framing import framed
from . import csv_export
from . import finding
from . import listing
from . import lists
from .desk import Desk
from .desk import route

if t.TYPE_CHECKING:
    from ...db import sql
    from .listing import Where


class Table(Desk):
    """A list."""

    #: Of the host's models.
    make: t.Callable[[Models], lists.List]
    template = "list.html"
    about = ""

    @route()
    def index(self) -> Response:
        """Show a page of the list: ``q`` is searched for, ``status`` chosen, ``before`` passed."""
        return self.show_list()

    @route("/export.csv")
    def export(self) -> Response:
        """Send the rows that are searched for and chosen, all of them, batch by batch."""
        shown = self._list()
        names = [column.name for column in shown.columns]
        rows = ([shown.told(row)[name] for name in names] for row in self._all(shown))
        body = csv_export.lines([column.title for column in shown.columns], rows)
        response = framed(stream_with_context(body))
        response.mimetype = "text/csv"
        response.headers["Content-Disposition"] = f'attachment; filename="{self.endpoint}.csv"'
        return response

    def show_list(self, *, error: str | None = None, status: int = 200) -> Response:
        shown = self._list()
        asked = request.args.get("before")
        page = listing.Page([], None)
        try:
            page = self.read(lambda db: self._page(db, shown, asked, listing.PAGE))
        except ReferralError as refused:
            error, status = str(refused), 400
        return self.show(
            self.template,
            status,
            title=self.name,
            about=self.about,
            columns=shown.columns,
            rows=[shown.told(row) for row in page.rows],
            filters=[*shown.filters],
            chosen=request.args.get("status", ""),
            text=request.args.get("q", ""),
            is_first=asked is None,
            next=page.next,
            error=error,
        )

    def _list(self) -> lists.List:
        return type(self).make(self.state.models)

    def _page(
        self, db: sql.Connection, shown: lists.List, before: str | None, size: int
    ) -> listing.Page:
        return listing.page(
            db, shown.listing, shown.describe, self._branches(db, shown), before=before, size=size
        )

    def _branches(self, db: sql.Connection, shown: lists.List) -> list[Where] | None:
        text = request.args.get("q", "").strip()
        branches = None
        if text:
            branches = shown.find(finding.find(db, self.state, text))
        chosen = shown.filters.get(request.args.get("status", ""))
        if chosen is not None:
            branches = [chosen] if branches is None else [each & chosen for each in branches]
        return branches

    def _all(self, shown: lists.List) -> t.Iterator[t.Any]:
        before: str | None = None
        while True:
            page = self.read(
                lambda db, before=before: self._page(db, shown, before, listing.BATCH)  # type: ignore[misc]
            )
            yield from page.rows
            before = page.next
            if before is None:
                return


class Codes(Table):
    """Users' codes."""

    make = staticmethod(lists.codes)
    about = "Each user's code, the one that is shared, and what came of it."


class Referrals(Table):
    """Who referred whom."""

    make = staticmethod(lists.referrals)
    about = "Everybody who signed up through a code, and what that earned the referrer."


class History(Table):
    """What operators did."""

    make = staticmethod(lists.history)
    about = "What operators did, here and on the command line."
