"""The page in a real browser."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from browser import SCREENSHOTS, chromium, context, look, sign_in
from deployment import Deployment
from playwright.sync_api import BrowserContext, Page, expect
from prepare_data_client.did import DID

__all__ = ["chromium", "context"]

LARGEST_VIEW = 100_000
"""Bytes of the first view, with all that belongs to it."""


@pytest.fixture
def user() -> str:
    """Name of a user that no other test uses; on pictures, a name."""
    return "ada" if SCREENSHOTS else f"u{uuid.uuid4().hex[:12]}"


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
