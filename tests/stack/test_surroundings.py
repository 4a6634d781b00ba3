"""The surroundings in which people work: whatever their shell, their Python and their Docker are set up for."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from deployment import INVENTORY, ROOT, Deployment

TOKEN = re.compile(r"[\w-]+\.[\w-]+\.[\w-]+\n")
NOBODY = 65534
SOCKET = Path("/var/run/docker.sock")


def make(
    *arguments: str, env: Mapping[str, str] | None = None, cwd: Path = ROOT, prefix: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Run make for the deployment under test, in an environment that has more variables."""
    return subprocess.run(
        [*prefix, "make", "--silent", f"INVENTORY={(ROOT / INVENTORY).resolve()}", *arguments],
        cwd=cwd,
        env=os.environ | (env or {}),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def site(stack: Deployment) -> Deployment:
    """The deployment, with an environment in which nothing is left to install."""
    assert make("token", "USER=ada").returncode == 0
    return stack


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize(
    "surroundings",
    [
        {"LC_ALL": "C"},
        {"LANG": "xx_XX.UTF-8"},
        {"LC_ALL": "xx_XX.UTF-8"},
        {"HTTPS_PROXY": "http://127.0.0.1:1", "https_proxy": "http://127.0.0.1:1", "NO_PROXY": ""},
        {"ANSIBLE_COLLECTIONS_PATH": "/nowhere"},
        {"ANSIBLE_CALLBACKS_ENABLED": "ansible.posix.timer,ansible.posix.profile_tasks"},
        {"ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.minimal"},
        {"ANSIBLE_VERBOSITY": "3"},
        {"ANSIBLE_DEBUG": "true"},
        {"ARGS": "-v"},
        {"ARGS": "-vvv"},
        {"PYTHONPATH": "/nowhere", "PYTHONHOME": "/nowhere"},
        {"DOCKER_HOST": "tcp://127.0.0.1:1"},
    ],
    ids=lambda surroundings: " ".join(f"{name}={value}" for name, value in surroundings.items()),
)
def test_make_token_prints_a_token_alone(surroundings: dict[str, str]) -> None:
    done = make("token", "USER=ada", env=surroundings)
    assert done.returncode == 0, done.stderr
    assert TOKEN.fullmatch(done.stdout), done.stdout


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("book", ["playbooks/smoke.yml", "playbooks/status.yml"])
def test_own_names_never_go_to_a_proxy(book: str) -> None:
    """Playbooks that somebody runs without make, too."""
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:1")
    done = subprocess.run(
        [ROOT / ".venv/bin/ansible-playbook", "-i", INVENTORY, book],
        cwd=ROOT,
        env=os.environ | proxies,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.fixture
def anybodys() -> Iterator[Path]:
    """A directory that all users can reach, which is not so below pytest's own."""
    with TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        yield directory


def test_a_copied_checkout_is_itself_and_anybodys(site: Deployment, anybodys: Path) -> None:
    """A copy at a path with a blank, with the environment of its original, and a user who may talk to Docker only."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to become somebody else")
    copy = anybodys / "a copy"
    files = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    for name in filter(None, files):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, copy / name)
    # What tells where an environment is from, and leads to it.
    for name in (
        "pyvenv.cfg",
        ".deploy",
        "bin/ansible-playbook",
        "collections/ansible_collections/skasrc/cavern",
    ):
        (copy / ".venv" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / ".venv" / name, copy / ".venv" / name, follow_symlinks=False)
    state = copy / "state"
    (state / "certs").mkdir(parents=True)
    shutil.copy(site.state / "secrets.yml", state)
    shutil.copy(site.ca, state / "certs")
    # Whose roles a run uses is seen by what only the copy's say.
    task = copy / "playbooks/token.yml"
    task.write_text(
        task.read_text() + "\n    - name: Whose\n      ansible.builtin.debug: {msg: the copy's}\n"
    )
    role = copy / "roles/secrets/tasks/main.yml"
    role.write_text(role.read_text() + "\n- name: Whose\n  ansible.builtin.debug: {msg: the copy's role}\n")
    home = anybodys / "home"
    home.mkdir()
    for path in (home, copy, *copy.rglob("*")):
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    nobody = (
        *("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", f"--groups={SOCKET.stat().st_gid}"),
        *("sh", "-c", 'umask 077 && exec "$@"', "sh"),
    )
    # The system's Python, which all may use.
    env = {
        "HOME": str(home),
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LOGNAME": "nobody",
        "PIP_CONFIG_FILE": "",
    }
    settings = f'ARGS=-e \'{{"deployment_state_dir": "{state}"}}\''
    pip = home / ".config/pip/pip.conf"
    pip.parent.mkdir(parents=True)
    pip.write_text("[install]\nuser = true\n")
    done = make("token", "USER=ada", settings, env=env, cwd=copy, prefix=nobody)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[0] == "the copy's role"
    assert TOKEN.fullmatch(f"{said[1]}\n")
    assert said[2] == "the copy's"
    assert str(ROOT) not in (copy / ".venv/bin/ansible-playbook").read_text()
    looked = make("status", settings, env=env, cwd=copy, prefix=nobody)
    assert looked.returncode == 0, looked.stderr
    assert "healthy" in looked.stdout
