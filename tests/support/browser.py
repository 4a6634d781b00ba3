"""A real browser, which trusts the deployment's authority and no other."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from deployment import Deployment, playbook
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    ViewportSize,
    expect,
    sync_playwright,
)

PATIENCE = 30_000
"""Milliseconds for which a view is waited for: other tests run beside this one."""
NARROW: ViewportSize = {"width": 360, "height": 740}
WIDE: ViewportSize = {"width": 1100, "height": 800}
SCREENSHOTS = os.environ.get("CAVERN_SCREENSHOTS")
"""Directory for pictures of the views, for the documentation."""


@pytest.fixture(scope="module")
def chromium(stack: Deployment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Run Debian's Chromium with a database of authorities that holds the deployment's."""
    home = tmp_path_factory.mktemp("home")
    database = home / ".pki/nssdb"
    database.mkdir(parents=True)
    authorities = f"sql:{database}"
    for command in (
        ["certutil", "-N", "-d", authorities, "--empty-password"],
        ["certutil", "-A", "-d", authorities, "-n", "deployment", "-t", "C,,", "-i", stack.ca],
    ):
        subprocess.run(command, check=True, capture_output=True)
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=Path(__file__).with_name("chromium"),
            env={**os.environ, "HOME": str(home)},
            # A proxy of the machine's knows nothing of the deployment.
            args=["--no-proxy-server"],
        )
        yield browser
        browser.close()


@pytest.fixture
def context(chromium: Browser, stack: Deployment) -> Iterator[BrowserContext]:
    """Open a browser window; what the page's policy forbids, or a script does not catch, fails the test."""
    wrong: list[str] = []

    def note(message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            wrong.append(message.text)

    found = chromium.new_context(base_url=stack.url, viewport=WIDE, reduced_motion="reduce")
    found.set_default_timeout(PATIENCE)
    found.on("console", note)
    found.on("weberror", lambda error: wrong.append(str(error.error)))
    yield found
    found.close()
    assert wrong == []


def sign_in(page: Page, user: str) -> None:
    """Sign a user in, from the root of the site to the list of tasks."""
    page.goto("/")
    page.get_by_role("link", name="Stage files").click()
    page.get_by_role("link", name="Sign in").click()
    code = playbook("playbooks/sign_in.yml", "-e", f"user={user}", callback="skasrc.cavern.messages").stdout
    page.get_by_label("One-time sign-in code").fill(code)
    look(page, "sign-in")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Tasks")).to_be_visible()


def look(page: Page, name: str) -> None:
    """Fail for what people with other senses or small screens would miss; takes a picture if wanted."""
    found = Axe().run(page).response["violations"]
    page.emulate_media(color_scheme="dark")
    found += Axe().run(page, options={"runOnly": ["color-contrast"]}).response["violations"]
    page.emulate_media(color_scheme="light")
    serious = [entry for entry in found if entry["impact"] in {"serious", "critical"}]
    assert serious == [], [(entry["id"], entry["nodes"][0]["html"]) for entry in serious]
    page.set_viewport_size(NARROW)
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= NARROW["width"], f"{name} is {width} px wide"
    page.set_viewport_size(WIDE)
    if SCREENSHOTS:
        picture = Path(SCREENSHOTS) / f"page-{name}.png"
        page.screenshot(path=picture, full_page=False)
