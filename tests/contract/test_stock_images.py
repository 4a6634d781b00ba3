"""OpenCADC's own HAProxy and PostgreSQL, which a deployment may have for single services, under everything else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from contract_site import Site, changed

CHOSEN: dict[str, Any] = {"contract_haproxy": "opencadc", "contract_databases": "opencadc"}
DATABASES = ("postgres_posixmapper", "srcnodedb")
LOGS = "cat /var/lib/pgsql/17/data/log/*"


@pytest.fixture(scope="module")
def stock(empty: Site) -> Site:
    """A site with every image from OpenCADC that there is, deployed onto nothing."""
    empty.run(book="playbooks/purge.yml", purge_data="true")
    empty.run(**CHOSEN)
    # The secrets are new as well.
    empty.forget()
    return empty


def test_everything_works_over_them_and_a_second_run_changes_nothing(stock: Site) -> None:
    for name in (*DATABASES, "haproxy"):
        assert stock.container(name).image.tags[0].startswith("cavern-contract/")
    before = stock.started()
    assert changed(stock.run("--check", "--diff", **CHOSEN)) == 0
    assert changed(stock.run(**CHOSEN)) == 0
    assert stock.started() == before
    stock.run(book="playbooks/status.yml", **CHOSEN)
    assert "Smoke test passed" in stock.run(book="playbooks/smoke.yml", **CHOSEN).stdout


@pytest.mark.slow
def test_the_embedded_services_work_over_them_too(stock: Site) -> None:
    stock.run(contract_flavour="embedded", **CHOSEN)
    smoked = stock.run(book="playbooks/smoke.yml", contract_flavour="embedded", **CHOSEN)
    assert "Smoke test passed" in smoked.stdout
    stock.run(**CHOSEN)


@pytest.mark.parametrize("name", DATABASES)
def test_published_accounts_log_in_nowhere(stock: Site, name: str) -> None:
    container = stock.container(name)
    (network,) = container.attrs["NetworkSettings"]["Networks"].values()
    assert not container.attrs["HostConfig"]["PortBindings"]

    def login(account: str, password: str) -> tuple[int, str]:
        command = ["psql", "-XAtd", "postgres", "-h", network["IPAddress"], "-U", account, "-c", "SELECT 1"]
        done = container.exec_run(command, environment={"PGPASSWORD": password})
        return done.exit_code, done.output.decode()

    for account in ("cadmin", "tapadm", "tapuser"):
        code, output = login(account, f"pw-{account}")
        assert code != 0
        assert "not permitted to log in" in output
    code, output = login("posixmapper" if name == "postgres_posixmapper" else "cavern", "wrong")
    assert (code != 0, "password authentication failed" in output) == (True, True)


@pytest.mark.slow
def test_the_databases_end_as_they_should_and_come_back(stock: Site) -> None:
    for name in DATABASES:
        stock.container(name).restart()
        stock.wait_until_healthy(name)
        _, log = stock.container(name).exec_run(["bash", "-c", LOGS])
        assert b"received fast shutdown request" in log
        assert b"automatic recovery in progress" not in log
    stock.wait_until_healthy("src-cavern")
    assert stock.sql("srcnodedb", "cavern", "SELECT count(*) > 0 FROM uws.job") == "t"


def test_health_is_that_of_the_schemas_not_of_the_port(stock: Site) -> None:
    container = stock.container("srcnodedb")
    stock.sql("srcnodedb", "cavern", "ALTER SCHEMA uws RENAME TO uws_away")
    try:
        code, output = container.exec_run(["bash", "/config/healthy"])
        assert (code, output.decode()) == (1, "cavern: not all of it belongs to cavern\n")
    finally:
        stock.sql("srcnodedb", "cavern", "ALTER SCHEMA uws_away RENAME TO uws")
    assert container.exec_run(["bash", "/config/healthy"]).exit_code == 0


@pytest.mark.parametrize(("database", "role"), [("cavern", "cavern"), ("prepare_data", "preparer")])
def test_a_backup_can_be_made_and_brought_back(stock: Site, database: str, role: str) -> None:
    """As the role does it, by Docker's own way into the container."""
    container = stock.container("srcnodedb")
    dumped = f"pg_dump --format=custom --no-password --dbname={database} >/tmp/dump"
    restored = "pg_restore --clean --if-exists --single-transaction --exit-on-error --no-password"
    code, output = container.exec_run(
        ["bash", "-c", f"{dumped} && {restored} --dbname={database} </tmp/dump"]
    )
    assert code == 0, output
    assert container.exec_run(["bash", "/config/healthy"]).exit_code == 0
    owners = "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname IN ('public', 'uws', 'vospace')"
    assert stock.sql("srcnodedb", database, owners) == role


@pytest.mark.slow
def test_a_database_of_the_other_image_is_refused_and_stays(stock: Site) -> None:
    numbers = stock.sql(
        "postgres_posixmapper", "mapping", "SELECT uid, username FROM mapping.users ORDER BY 1"
    )
    refused = stock.run(check=False, contract_haproxy="opencadc")
    assert refused.returncode != 0
    text = " ".join(refused.stdout.split())
    assert "the volume belongs to user 26, it holds the databases of another image" in text
    stock.run(**CHOSEN)
    assert numbers == stock.sql(
        "postgres_posixmapper", "mapping", "SELECT uid, username FROM mapping.users ORDER BY 1"
    )


@pytest.mark.slow
def test_haproxy_reports_to_docker_and_takes_a_changed_configuration(stock: Site) -> None:
    lines = [line for line in stock.log("haproxy").splitlines() if line.startswith("{")]
    assert "cavern" in {json.loads(line)["backend"] for line in lines}
    identifier = stock.container("haproxy").id
    done = stock.run(haproxy_transfer_timeout="30m", **CHOSEN)
    assert changed(done) == 1
    assert stock.container("haproxy").id == identifier
    with stock.session() as anonymous:
        assert anonymous.get(f"{stock.url}/reg/resource-caps", timeout=30).status_code == 200


@pytest.mark.slow
def test_a_database_of_this_projects_image_is_refused_and_stays(stock: Site) -> None:
    stock.run(book="playbooks/purge.yml", purge_data="true")
    stock.run("--tags", "host,images,network,srcnodedb")
    refused = stock.run("--tags", "srcnodedb", check=False, contract_databases="opencadc")
    assert refused.returncode != 0
    assert "holds the databases of this project's own image" in " ".join(refused.stdout.split())
    stock.run("--tags", "srcnodedb")
    assert stock.sql("srcnodedb", "cavern", "SELECT count(*) FROM pg_namespace WHERE nspname = 'uws'") == "1"
