"""Programs and persons, by the ``User-Agent`` header: held against a public list and browsers."""

from __future__ import annotations

import typing as t
from pathlib import Path

import crawleruseragents
import pytest

from flask_referral.web import bots

from ..conftest import MakeHost
from ..visiting import add_referrer
from ..visiting import browser
from ..visiting import clicks
from ..visiting import set_cookie

#: Of the list: persons in an application's or an editor's window.
PERSONS = {
    r"AP3A\.240617\.008",
    r"Code\/1\.",
    "Fluid",
    "MetaIAB Facebook",
    r"Trae\/",
}
#: Of the list: services that call back or fetch what they were told to, and follow no shared link.
SERVICES = {
    "Bling ERP",
    "CapitalOneShopping",
    "Cloudflare-Stream-Hook",
    "Determ",
    "ExodusMovement",
    "GoPay",
    r"Integromat\/",
    "Jumio",
    r"Klaviyo\/",
    r"Make\/",
    "ManageWP",
    "Metorik",
    r"ModularConnector\/",
    "Mollie HTTP client",
    r"Omnisend\/",
    r"Potions\/",
    r"Reelevant\/",
    r"SFDC-Callout\/",
    "SendGrid Event API",
    "Shopify-Captain-Hook",
    r"Snipcart\/",
    r"Sora POS\/",
    "SparkPost",
    "SparkShipping",
    r"Stape\/",
    "Termly",
    r"Trustly\/",
    r"WJHRO\/",
    r"YokoyGroupAG\/",
    "Zapier",
    "eMoney Advisor",
    "easybill-ImportManager",
    "reward-gateway",
}
#: Of the list: those that say nothing of what they are, so that only a list of names knows them.
NAMES = {
    "[aA]cunetix",
    r"^BW\/",
    "Acquia optimize",
    "AdminLabs",
    "Adventurer",
    "alienfarm",
    "AppInsights",
    "AppSiteAssociation",
    "asnriskscorer",
    "BIGLOTRON",
    "bitdiscovery",
    "Blackboard",
    r"Blackbox Exporter\/",
    "BlackDuck-FD",
    "BotPoke",
    "Brandwatch",
    "Bushbaby",
    "cloudflare-csup",
    "Cloudflare-SpeedTest",
    "Collapsify",
    "Corporama matcher",
    r"crusty\/",
    "Datafeedwatch",
    "Datanyze",
    "DigiCert DCV",
    "Disqus",
    r"Dlc\/",
    "DMBrowser",
    "ds9",
    "EmailWolf",
    "FastDAST",
    "fedoraplanet",
    "Foregenix",
    "Ghost Inspector",
    "HappyWing",
    "Hardenize",
    "Hello World",
    "Hotjar",
    "ImageMind",
    r"iubenda-radar\/",
    r"keycdn-tools\/",
    "l9explore",
    "LegalMonster",
    "LinkTiger",
    "Magellan",
    "Manus-User",
    r"MarketGoo\/",
    "NetAPI",
    "NETVIGIE",
    "New York Times Newsgathering",
    r"newsai\/",
    r"NewsNow\/",
    "NextCloud",
    "Novellum",
    "nvdorz",
    "OneTrust",
    "OpenVAS",
    "Panopta",
    "PDF24 URL To PDF",
    "Penthouse Critical Path CSS Generator",
    r"PS_Daily\/",
    r"Readable\/",
    r"remove\.bg\/",
    r"Rigor\)",
    "SecurityHeaders",
    "Sindup",
    "SiteLock",
    r"splash Version\/",
    "SSL Labs$",
    "Test Certificate Info",
    r"TestLocally\/",
    "The Knowledge AI",
    "Trellis-Services",
    "TSM-turingos",
    "Upflow",
    "VaultPress",
    "W3C-mobileOK",
    "W3C_Unicorn",
    "watchTowr",
    "Web Screen Service By hyperhost",
    r"WhatWeb\/",
    "Wordup-1",
    "WPUmbrella",
    "Xenu Link Sleuth",
    "YahooCacheSystem",
    "YLT Chrome",
    "ZmEu",
}


def test_the_public_list_of_crawlers() -> None:
    # crawler-user-agents: entries have "pattern", "instances" and "tags". Tools that developers
    # try links with count as persons: curl, wget, and the like.
    entries: list[dict[str, t.Any]] = crawleruseragents.CRAWLER_USER_AGENTS_DATA
    missed = {
        entry["pattern"]
        for entry in entries
        if "http-library" not in entry["tags"]
        for agent in entry["instances"]
        if not (bots.is_bot(agent) or bots.is_headless(agent))
    }
    assert missed == PERSONS | SERVICES | NAMES


BROWSERS = dict(
    line.split("\t")
    for line in Path(__file__).with_name("browsers.txt").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
)


@pytest.mark.parametrize("agent", BROWSERS.values(), ids=BROWSERS)
def test_a_person_counts(agent: str) -> None:
    assert not bots.is_bot(agent)
    assert not bots.is_headless(agent)


@pytest.mark.parametrize("mode", ["TESTING", "DEBUG"])
@pytest.mark.parametrize(
    "agent",
    [
        BROWSERS["Chrome"].replace("Chrome/", "HeadlessChrome/"),
        f"{BROWSERS['Chrome']} Playwright/1.56.0",
    ],
)
def test_a_test_suites_browser_counts_where_there_are_tests(
    make_sqlite: MakeHost, agent: str, mode: str
) -> None:
    host = make_sqlite(TESTING=False, DEBUG=False)
    _, code = add_referrer(host)
    assert set_cookie(browser(host).get(f"/r/{code}", headers={"User-Agent": agent})) is None
    host.app.config[mode] = True
    assert set_cookie(browser(host).get(f"/r/{code}", headers={"User-Agent": agent})) is not None
    assert len(clicks(host)) == 1
