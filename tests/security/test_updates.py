"""Images have bills of materials and receive Debian's security updates."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from deployment import Deployment, playbook

# In every image, from the shared base.
PACKAGE = "libssl3t64"
# As if built before the package was updated.
OUTDATED = """
FROM {image}
LABEL int.skao.src.cavern.updates=
USER 0
RUN sed -i '/^Package: {package}$/,/^$/s/^Version: .*/Version: 3.0.1-1/' /var/lib/dpkg/status
USER 8000:8000
"""


def bills(stack: Deployment) -> dict[str, dict[str, Any]]:
    """Return the deployment's bills of materials by image name."""
    return {
        path.name.removesuffix(".cdx.json"): json.loads(path.read_text())
        for path in (stack.state / "sbom").glob("*.cdx.json")
    }


def named(image: str) -> str:
    """Return the last part of an image's name, without its tag."""
    return image.rpartition("/")[2].rpartition(":")[0]


def test_every_image_has_a_valid_bill_of_materials(stack: Deployment) -> None:
    found, validator = bills(stack), JsonStrictValidator(SchemaVersion.V1_6)
    images = {service["image"] for service in stack.services.values()}
    assert set(found) - {"base"} == {named(image) for image in images}
    for image in images:
        bill = found[named(image)]
        assert validator.validate_str(json.dumps(bill)) is None
        assert (
            f"sha256:{bill['metadata']['component']['hashes'][0]['content']}"
            == stack.engine.images.get(image).id
        )
        libraries = [component for component in bill["components"] if component["type"] == "library"]
        assert all(
            component["version"] and component["purl"].startswith(("pkg:deb/debian/", "pkg:pypi/"))
            for component in libraries
        )
        assert sum("hashes" in component for component in libraries) > 0.9 * len(libraries)
        assert PACKAGE in {component["name"] for component in libraries}


def test_a_bill_lists_what_is_installed(stack: Deployment) -> None:
    core = stack.services["core"]
    listed = {
        (c["name"], c["version"])
        for c in bills(stack)[named(core["image"])]["components"]
        if c["type"] == "library"
    }
    container = stack.engine.containers.get(core["container"])
    debian = container.exec_run(
        ["dpkg-query", "--show", "--showformat", "${Package} ${Version}\n"]
    ).output.decode()
    program = "import importlib.metadata as m; [print(d.name, d.version) for d in m.distributions()]"
    python = container.exec_run(["python", "-c", program]).output.decode()
    installed = {tuple(line.split()) for line in (debian + python).splitlines()}
    assert {"fastapi", "openssl-provider-legacy", "preparer"} & {name for name, _version in installed}
    assert installed == listed


def status() -> dict[str, Any]:
    done = playbook("playbooks/status.yml", "-e", "status_json=true", callback="skasrc.cavern.messages")
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_status_shows_the_age_of_images_and_pending_updates(stack: Deployment) -> None:
    told = status()
    assert {entry["name"] for entry in told["images"]} == {
        service["image"] for service in stack.services.values()
    }
    for entry in told["images"]:
        assert entry["age_days"] >= 0
        assert entry["created"] == bills(stack)[named(entry["name"])]["metadata"]["timestamp"]
        assert (entry["updates"] is None) == (told["updates_unknown"] is not None)


def test_without_the_archive_updates_are_unknown_and_nothing_fails(stack: Deployment) -> None:
    nowhere = "images_debian_security_mirror=http://127.0.0.1:9/debian-security"
    done = playbook("playbooks/status.yml", "-e", nowhere, callback="skasrc.cavern.messages")
    assert "Whether updates of Debian wait for them is unknown: " in done.stdout
    assert "updates wait\n" not in done.stdout


@pytest.fixture
def outdated(stack: Deployment) -> Iterator[str]:
    """The registry's image, which lacks an update."""
    if status()["updates_unknown"] is not None:
        pytest.skip("Debian's archive of updates cannot be reached")
    image: str = stack.services["reg"]["image"]
    before = stack.engine.images.get(image)
    recipe = OUTDATED.format(image=image, package=PACKAGE).encode()
    stack.engine.images.build(fileobj=io.BytesIO(recipe), tag=image, rm=True)
    yield image
    before.tag(image)
    playbook("site.yml", "--tags", "images,reg,rse_web")


def test_an_image_that_lacks_an_update_is_rebuilt(stack: Deployment, outdated: str) -> None:
    (entry,) = [entry for entry in status()["images"] if entry["name"] == outdated]
    (update,) = [update for update in entry["updates"] if update.startswith(f"{PACKAGE} ")]
    assert update.startswith(f"{PACKAGE} 3.0.1-1 -> ")
    tags = ("--tags", "images,reg,rse_web")
    # An ordinary run accepts it; make upgrade rebuilds it.
    assert "updates of Debian wait" not in playbook("site.yml", *tags, "--check", "--diff").stdout
    upgrading = (*tags, "-e", "images_updates=true")
    assert f"updates of Debian wait: {update}" in playbook("site.yml", *upgrading, "--check", "--diff").stdout
    playbook("site.yml", *upgrading)
    versions = {c["name"]: c["version"] for c in bills(stack)[named(outdated)]["components"]}
    assert versions[PACKAGE] != "3.0.1-1"
    for key in ("reg", "rse_web"):
        container = stack.engine.containers.get(stack.services[key]["container"])
        assert container.image.id == stack.engine.images.get(outdated).id
    assert "changed=0 " in playbook("site.yml", *upgrading).stdout
