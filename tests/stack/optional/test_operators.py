"""What operators see and do on the page, in a real browser."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from browser import chromium, context, look, sign_in
from deployment import Deployment
from playwright.sync_api import BrowserContext, expect
from prepare_data_client.did import DID
from tasks import ended, strange_message, submit

__all__ = ["chromium", "context"]


@pytest.fixture
def mode(stack: Deployment) -> Iterator[str]:
    """Where Cavern's mode is set; afterwards it serves everybody again."""
    url = f"{stack.url}/src/cavern/availability"
    yield url
    with stack.session("cavernadmin") as http:
        http.post(url, data={"state": "ReadWrite"}, timeout=30).raise_for_status()


def test_operators_see_how_the_service_does_and_act(
    stack: Deployment,
    context: BrowserContext,
    http: requests.Session,
    user: str,
    rse: Callable[[str, bytes], Path],
    mode: str,
    operator: str,
) -> None:
    names = [f"{uuid.uuid4().hex}.dat" for _ in range(2)]
    rse(DID.parse(f"testing:{names[0]}").path(), b"there")
    for name, state in zip(names, ("SUCCEEDED", "FAILED"), strict=True):
        task = submit(http, stack.url, files=[{"did": f"testing:{name}"}], rse="SITE")
        assert ended(http, task)["state"] == state
    letter = strange_message(stack)

    page = context.new_page()
    sign_in(page, operator)
    # Everybody's tasks.
    expect(page.get_by_role("row", name=user).first).to_be_visible()
    page.get_by_role("link", name="Operators").click()
    health = page.get_by_role("table", name="Health of the services")
    for service in ("Ledger", "Broker", "Issuer", "VOSpace", "Registry"):
        expect(health.get_by_role("row", name=service).first).to_contain_text("Answers")
    hours = page.get_by_role("table", name="What tasks that ended in each hour came to")
    shown = hours.get_by_role("row").last.get_by_role("cell")
    tasks, staged, failed = (int(shown.nth(place).inner_text().replace(",", "")) for place in (1, 2, 3))
    assert min(staged, failed) >= 1
    assert tasks >= 2
    look(page, "operators")

    page.get_by_role("link", name="Dead letters").click()
    expect(page.get_by_role("row", name=letter)).to_contain_text("rejected")
    look(page, "dead-letters")
    page.get_by_role("button", name="Publish them again").click()
    expect(page.get_by_text("There are none.")).to_be_visible()

    page.get_by_role("link", name="Operators").first.click()
    page.get_by_label("VOSpace is").select_option("ReadOnly")
    page.get_by_role("button", name="Set").click()
    expect(page.get_by_role("heading", name="Operators")).to_be_visible()
    file = f"{stack.url}/src/cavern/files/home/{user}/{names[0]}"
    assert http.put(file, data=b"x", timeout=30).status_code == 503
    assert http.get(file, timeout=30).content == b"there"
