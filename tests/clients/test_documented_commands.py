"""Every command that README.md, newcomer.md, client.md and operator.md give, as somebody types it who follows them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from deployment import INVENTORY, ROOT, Deployment
from documents import Block, blocks

DOCUMENTS = ("README.md", "docs/newcomer.md", "docs/client.md", "docs/operator.md")
ELSEWHERE = {
    "README.md: client ── POST [[did, path on the RSE, destination], …] ──> core ──> RabbitMQ ──> celery-worker": (
        "a picture"
    ),
    "README.md: make up      # install Docker if needed, build the images, start eleven services, stage a test file": (
        "what runs this test"
    ),
    "docs/client.md: # without path=, Rucio's hash algorithm gives the path (or --algorithm identity)": (
        "a list of files: app/prepare_data_client/tests"
    ),
    'docs/client.md: [["testing:prepare_data_test.txt", "testing/84/1c/prepare_data_test.txt", "./testing"],': (
        "another form of that list"
    ),
    "docs/operator.md: ansible-galaxy collection install --offline skasrc-cavern-*.tar.gz": (
        "tests/stack/test_collection.py"
    ),
    "docs/operator.md: certbot register --agree-tos --email you@example.org": (
        "needs an authority: tests/stack/test_acme.py"
    ),
}
"""Blocks that this test does not run, and why not or where they run."""
# Each answer of curl is kept, since a reader takes from it what the next command needs.
PRELUDE = """
set -euo pipefail
curl() { command curl --fail-with-body --silent --show-error "$@" | tee -a "$ANSWERS"; echo; }
task_id() { sed -En 's/.*"task_id":"([^"]+)".*/\\1/p' "$ANSWERS"; }
"""


def commands(document: str) -> list[Block]:
    """Return the blocks of a document that hold commands."""
    return [block for block in blocks(document) if block.language in {"", "bash"}]


@pytest.fixture
def administrator(stack: Deployment) -> Iterator[str]:
    """The administrator's token; what the documentation has him make is not there yet, and does not stay."""
    cavern = f"{stack.url}/src/cavern"
    with stack.session("cavernadmin") as http:
        gone = http.delete(f"{cavern}/nodes/test_container", timeout=30)
        assert gone.status_code in {200, 404}, gone.text
        yield stack.token("cavernadmin")
        http.post(f"{cavern}/availability", data={"state": "ReadWrite"}, timeout=30).raise_for_status()


@pytest.mark.parametrize("document", [*DOCUMENTS[:-1], pytest.param(DOCUMENTS[-1], marks=pytest.mark.slow)])
def test_documented_commands_run(
    stack: Deployment, clients: Path, administrator: str, tmp_path: Path, document: str
) -> None:
    # What README.md puts there, for those who read another page.
    file = stack.data / "rse_data/testing/84/1c/prepare_data_test.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("hello\n")
    here = {
        "haproxy.cadc.dao.nrc.ca": stack.public_name,
        "state/certs/ca.pem": stack.ca,
        "data/rse_data": f"{stack.data}/rse_data",
        "docker exec src-": f"docker exec {stack.prefix}src-",
        "docker exec -i src-": f"docker exec -i {stack.prefix}src-",
        "properties.jsonl": f"{tmp_path}/properties.jsonl",
        "<task_id>": "$(task_id)",
    }
    script = [PRELUDE]
    for block in commands(document):
        if block.name not in ELSEWHERE:
            script += [f"echo '{document}:{block.line}'", block.text]
    text = "\n".join(script)
    for documented, ours in here.items():
        text = text.replace(documented, ours)
    environment = os.environ | {
        "PATH": f"{clients}:{os.environ['PATH']}",
        "ANSWERS": str(tmp_path / "answers"),
        "INVENTORY": INVENTORY,
        # What the documentation says of the CA.
        **dict.fromkeys(("CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"), stack.ca),
        "PREPARE_DATA_URL": f"{stack.url}/prepare-data",
        "TOKEN": administrator,
    }
    done = subprocess.run(
        ["bash", "-c", text], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def test_what_runs_elsewhere_is_there() -> None:
    assert set(ELSEWHERE) <= {block.name for document in DOCUMENTS for block in commands(document)}
