"""The page in a real browser, which trusts the deployment's authority and no other."""

from __future__ import annotations

import os
import re
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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
from prepare_data_client.did import DID

LARGEST_VIEW = 100_000
"""Bytes of the first view, with all that belongs to it."""
PATIENCE = 30_000
"""Milliseconds for which a view is waited for: other tests run beside this one."""
NARROW: ViewportSize = {"width": 360, "height": 740}
WIDE: ViewportSize = {"width": 1100, "height": 800}
SCREENSHOTS = os.environ.get("CAVERN_SCREENSHOTS")
"""Directory for pictures of the views, for the documentation."""


@pytest.fixture
def user() -> str:
    """Name of a user that no other test uses; on pictures, a name."""
    return "ada" if SCREENSHOTS else f"u{uuid.uuid4().hex[:12]}"


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
            executable_path="/usr/bin/chromium",
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
        # Networks of containers come and go on this machine, of which the browser tells; the page connects again.
        if message.type in {"error", "warning"} and "net::ERR_NETWORK_CHANGED" not in message.text:
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


def weight(page: Page) -> int:
    """Return the bytes of a view with all that it has loaded."""
    entries: list[dict[str, Any]] = page.evaluate(
        "[...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')]"
        ".map((entry) => ({name: entry.name, size: entry.encodedBodySize}))"
    )
    assert any(entry["name"].endswith(".css") for entry in entries)
    return sum(int(entry["size"]) for entry in entries)


def test_files_are_staged_and_followed(
    stack: Deployment, context: BrowserContext, user: str, rse: Callable[[str, bytes], Path]
) -> None:
    names = [f"{user}-{number}.txt" for number in range(1, 4)]
    for name in names:
        rse(DID.parse(f"testing:{name}").path(), name.encode() * 1000)
    page = context.new_page()
    sign_in(page, user)
    assert weight(page) < LARGEST_VIEW
    assert page.evaluate("document.cookie + localStorage.length + sessionStorage.length") == "00"
    expect(page.get_by_text("Nothing has been staged yet.")).to_be_visible()

    page.get_by_role("link", name="Stage files").first.click()
    page.get_by_label("Data identifiers").fill("\n".join(f"testing:{name}" for name in names))
    page.get_by_label("Destination").fill("testing")
    page.get_by_role("button", name="Estimate first").click()
    expect(page.get_by_role("status", name="Estimate")).to_contain_text("3 files")
    look(page, "stage")
    page.get_by_role("button", name="Stage", exact=True).click()
    # Nobody reloads the page.
    expect(page.get_by_role("heading", name="Done")).to_be_visible()
    expect(page.get_by_text("3 of 3 files")).to_be_visible()
    for name in names:
        expect(page.get_by_role("row", name=f"testing:{name}")).to_contain_text("Staged")
    look(page, "task")

    # A task that is begun elsewhere is told of where the list is open.
    page.get_by_role("link", name="Tasks").first.click()
    expect(page.get_by_role("row", name="Done")).to_be_visible()
    with page.expect_response(re.compile("/ui/events$")):
        page.reload()
    with stack.session(user) as session:
        body = {"files": [{"did": f"testing:{user}-missing.txt"}], "destination": "testing"}
        session.post(f"{stack.url}/prepare-data/v1/tasks", json=body, timeout=30).raise_for_status()
    page.get_by_role("link", name="Show them").click()
    expect(page.get_by_role("row", name="Failed")).to_contain_text("1 failed")
    look(page, "tasks")
    page.get_by_role("row", name="Failed").get_by_role("link").click()
    expect(page.get_by_role("button", name="Try the others again")).to_be_visible()

    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("link", name="Sign in")).to_be_visible()
    page.go_back()
    page.reload()
    expect(page.get_by_role("link", name="Sign in")).to_be_visible()
    look(page, "welcome")


def test_the_space_is_kept_in_order(context: BrowserContext, user: str, tmp_path: Path) -> None:
    names = ["notes & <b>sums.txt", "100% ;sure#1.txt"]
    for name in names:
        (tmp_path / name).write_text(f"of {name}")
    page = context.new_page()
    sign_in(page, user)
    page.get_by_role("link", name="My space").click()
    if not SCREENSHOTS:
        page.get_by_role("button", name="Make my space").click()
        expect(page.get_by_text("This folder is empty.")).to_be_visible()
    page.get_by_label("Name").fill("results")
    page.get_by_role("button", name="Make").click()
    page.get_by_role("link", name="results", exact=True).click()
    with page.expect_navigation():
        page.get_by_label("From this computer").set_input_files([tmp_path / name for name in names])
    for name in names:
        with page.expect_download() as started:
            page.get_by_role("link", name=name, exact=True).click()
        assert started.value.suggested_filename.endswith(".txt")
        assert Path(started.value.path()).read_text() == f"of {name}"
    look(page, "space")

    page.get_by_role("link", name=f"More about {names[0]}").click()
    expect(page.get_by_role("heading", name=names[0], exact=True)).to_be_visible()
    page.get_by_label("Everybody may read it").check()
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_label("Everybody may read it")).to_be_checked()
    look(page, "node")
    page.get_by_label("Name").fill("notes.txt")
    page.get_by_label("Folder").fill(f"/home/{user}")
    page.get_by_role("button", name="Move").click()
    expect(page.get_by_role("link", name="notes.txt", exact=True)).to_be_visible()
    page.get_by_role("link", name="More about results").click()
    page.get_by_text("Delete results and everything in it…").click()
    page.get_by_role("button", name="Delete results").click()
    expect(page.get_by_role("link", name="notes.txt", exact=True)).to_be_visible()
    expect(page.get_by_role("link", name="results", exact=True)).to_have_count(0)
