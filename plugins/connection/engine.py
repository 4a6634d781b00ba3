# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = """
name: engine
author: The Cavern deployment team (@ska-telescope)
version_added: 0.1.0
short_description: Run tasks beside Docker Engine, wherever that runs
description:
  - For an Engine that does not run on this machine's own kernel, network and file system, such as that of Docker
    Desktop and a rootless one. Tasks run in a container of that Engine which shares the network of the Engine's
    machine, and so find what they find on a host with an Engine of its own - Debian's tools, root, the Engine's socket,
    and the addresses of containers.
  - Starts the container when it is needed, from an image that the Engine builds of Debian packages, and replaces it
    when its image or its mounts change. C(purge.yml) removes it.
  - Uses the command C(docker) of this machine, and so whichever Engine that is set to by C(DOCKER_HOST),
    C(DOCKER_CONTEXT) or the current context. Needs neither root nor anything else on this machine.
  - Refuses an Engine with which a deployment cannot work.
options:
  remote_addr:
    description: Name of the container, which is also the beginning of its volume's.
    type: str
    vars:
      - name: deployment_engine_host
  remote_user:
    description: User in the container.
    type: str
    default: root
    vars:
      - name: ansible_user
  base_image:
    description: Debian image from which the container's is built.
    type: str
    vars:
      - name: deployment_engine_host_image
  mirror:
    description: Debian archive from which packages are installed.
    type: str
    vars:
      - name: deployment_debian_mirror
  owner:
    description:
      - Directory of the secrets on this machine, by which a checkout knows the container as its own.
      - The container of another is neither used nor replaced.
    type: path
    vars:
      - name: deployment_controller_dir
  takeover:
    description: Take over the container of another checkout, and the deployment with it.
    type: bool
    default: false
    vars:
      - name: deployment_takeover
  directory:
    description: Directory of the deployment in the container, which a volume of the Engine holds.
    type: str
    vars:
      - name: deployment_project_dir
  mounts:
    description:
      - Directories of this machine that the container has, each with C(source) here and C(target) there.
      - The container cannot write to one with C(read_only=true).
    type: list
    elements: dict
    vars:
      - name: deployment_engine_host_mounts
"""

import csv
import hashlib
import io
import json
import os
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ansible.errors import AnsibleConnectionFailure, AnsibleFileNotFound
from ansible.plugins.connection import ConnectionBase
from ansible.utils.display import Display
from ansible_collections.skasrc.cavern.plugins.module_utils import _engine

display = Display()

LABEL = "int.skao.src.cavern.engine-host"
"""Label of the container, which tells of what it was made, and of its image."""
OWNER = f"{LABEL}.owner"
"""Label of the container with the directory of whose it is."""
DOCKERFILE = """\
ARG BASE
FROM $BASE
ARG MIRROR
RUN rm -rf /etc/apt/sources.list /etc/apt/sources.list.d/* \\
 && . /etc/os-release && echo "deb $MIRROR $VERSION_CODENAME main" >/etc/apt/sources.list \\
 && apt-get -qq update \\
 && DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends \\
      ca-certificates debian-archive-keyring docker-cli iproute2 mmdebstrap nftables \\
      python3 python3-cryptography python3-docker python3-yaml >/dev/null \\
 && rm -rf /var/lib/apt/lists/*
"""
# The Engine writes /etc/hosts anew whenever it starts the container; the volume keeps what the deployment wrote.
START = """\
hosts=$0/engine-hosts
[ -e "$hosts" ] || cp /etc/hosts "$hosts"
mount --bind "$hosts" /etc/hosts
exec sleep infinity
"""
# mmdebstrap mounts and makes devices, and nft and its trial change a network. What root has in a container besides is
# the default.
PRIVILEGES = ["--cap-add=SYS_ADMIN", "--cap-add=NET_ADMIN", "--security-opt=apparmor=unconfined"]


class Connection(ConnectionBase):
    """Runs commands in a container beside the Engine."""

    transport = "skasrc.cavern.engine"
    has_pipelining = True

    def _connect(self) -> Connection:
        if not self._connected:
            self._start()
            self._connected = True
        return self

    def close(self) -> None:
        self._connected = False

    def exec_command(
        self, cmd: str, in_data: bytes | None = None, sudoable: bool = True
    ) -> tuple[int, bytes, bytes]:
        self._connect()
        done = self._docker(*self._exec("/bin/sh", "-c", cmd), data=in_data or b"")
        return done.returncode, done.stdout, done.stderr

    def put_file(self, in_path: str, out_path: str) -> None:
        self._connect()
        if not Path(in_path).exists():
            raise AnsibleFileNotFound(f"{in_path} does not exist")
        with open(in_path, "rb") as source:
            done = self._docker(*self._exec("dd", f"of={out_path}", "bs=1M", "status=none"), stdin=source)
        if done.returncode:
            raise AnsibleConnectionFailure(f"{out_path} cannot be written: {_said(done)}")

    def fetch_file(self, in_path: str, out_path: str) -> None:
        self._connect()
        done = self._docker(*self._exec("cat", in_path))
        if done.returncode:
            raise AnsibleConnectionFailure(f"{in_path} cannot be read: {_said(done)}")
        Path(out_path).write_bytes(done.stdout)

    def _exec(self, *command: str) -> list[str]:
        user = self._option("remote_user")
        return ["exec", "--interactive", f"--user={user}", self._container, *command]

    def _option(self, name: str) -> Any:
        return self.get_option(name)  # type: ignore[no-untyped-call]  # Ansible has no types

    @property
    def _container(self) -> str:
        return str(self._option("remote_addr"))

    def _docker(
        self, *arguments: str, data: bytes | None = None, stdin: Any = None
    ) -> subprocess.CompletedProcess[bytes]:
        given = {"stdin": stdin} if stdin is not None else {"input": data or b""}
        try:
            return subprocess.run(["docker", *arguments], capture_output=True, check=False, **given)
        except FileNotFoundError as error:
            raise AnsibleConnectionFailure(
                "this machine has no command `docker`: install Docker Desktop, or Docker's command line client"
            ) from error

    def _ask(self, *arguments: str) -> Any:
        """Return what a command of Docker prints as JSON, None if what it is about does not exist."""
        done = self._docker(*arguments)
        if done.returncode == 0:
            return json.loads(done.stdout)
        said = _said(done)
        if "no such" in said.lower() or "no container with name" in said:
            return None
        raise AnsibleConnectionFailure(f"Docker Engine cannot be asked: {said}")

    def _change(self, *arguments: str, data: bytes = b"") -> None:
        done = self._docker(*arguments, data=data)
        if done.returncode:
            raise AnsibleConnectionFailure(f"`docker {arguments[0]}` failed: {_said(done)}")

    # -- the container -------------------------------------------------------------------------------------

    def _start(self) -> None:
        """Start the container if it does not run, or is not as it should be."""
        found = self._ask("container", "inspect", "--format={{json .}}", self._container)
        arguments = self._arguments()
        wanted = _digest([self._image(), *arguments])
        labels = ((found or {}).get("Config") or {}).get("Labels") or {}
        if found is not None and LABEL not in labels:
            raise AnsibleConnectionFailure(
                f"a container named {self._container} exists and is not of this collection: remove or rename it, or "
                "set deployment_engine_host"
            )
        owner = os.path.realpath(Path(self._option("owner")).expanduser())
        other = labels.get(OWNER, owner)
        if other != owner and not self._option("takeover"):
            raise AnsibleConnectionFailure(
                f"the container {self._container} is that of the deployment with its secrets in {other}; this one has "
                f"them in {owner}. To deploy beside it, give this one another deployment_project, with the names and "
                "addresses that a second site needs (docs/operator.md, Another site). To take it over with its "
                "volumes, set deployment_takeover to true for this run"
            )
        if labels.get(LABEL) == wanted and other == owner:
            if not found["State"]["Running"]:
                self._change("start", self._container)
            return
        self._create(found, arguments, {LABEL: wanted, OWNER: owner})

    def _create(self, former: Any, arguments: list[str], labels: dict[str, str]) -> None:
        information = self._ask("info", "--format={{json .}}")
        version = self._ask("version", "--format={{json .Server}}")
        reason = _engine.unsuitable(version, information)
        if reason:
            raise AnsibleConnectionFailure(reason)
        if urlsplit(self._option("mirror")).username is not None:
            raise AnsibleConnectionFailure(
                "deployment_debian_mirror: has a name or password, which the image of the container would keep; name "
                "an archive that takes none"
            )
        image = self._image()
        display.display(
            f"{self._container}: runs beside the engine of {information['Name']} "
            f"({information['OperatingSystem']} {information['ServerVersion']}), from {image}"
        )
        if self._ask("image", "inspect", "--format={{json .Id}}", image) is None:
            display.display(f"{image}: built from {self._option('base_image')}")
            build = {"BASE": self._option("base_image"), "MIRROR": self._option("mirror")}
            settings = [f"--build-arg={name}={value}" for name, value in build.items()]
            self._change(
                "build",
                "--quiet",
                f"--tag={image}",
                f"--label={LABEL}",
                *settings,
                "-",
                data=DOCKERFILE.encode(),
            )
        if former is not None:
            self._change("rm", "--force", self._container)
        for mount in self._option("mounts") or []:
            # The Engine would make it root's.
            Path(mount["source"]).expanduser().mkdir(parents=True, exist_ok=True)
        socket = self._socket(information)
        self._change(
            *["run", "--detach", f"--name={self._container}", "--network=host"],
            *[f"--label={name}={value}" for name, value in labels.items()],
            *["--restart=unless-stopped", "--init", *PRIVILEGES, f"--env={_engine.PLACE}={self._container}"],
            *[_mount("bind", socket, _engine.SOCKET), *arguments, image],
            *["sh", "-c", START, str(self._option("directory"))],
        )

    def _arguments(self) -> list[str]:
        mounts = [
            _mount(
                "bind",
                str(Path(mount["source"]).expanduser().absolute()),
                mount["target"],
                read_only=bool(mount.get("read_only")),
            )
            for mount in self._option("mounts") or []
        ]
        return [_mount("volume", self._container, str(self._option("directory"))), *mounts]

    def _image(self) -> str:
        source = [DOCKERFILE, START, self._option("base_image"), self._option("mirror")]
        return f"cavern-engine-host:{_digest(source)[:12]}"

    def _socket(self, information: dict[str, Any]) -> str:
        """Return the path of the Engine's socket on the Engine's machine."""
        if not any("rootless" in option for option in information["SecurityOptions"] or []):
            return _engine.SOCKET
        # It has the home directory, and its socket there, in common with this machine.
        host = os.environ.get("DOCKER_HOST") or str(
            self._ask("context", "inspect", "--format={{json .Endpoints.docker.Host}}")
        )
        return host.removeprefix("unix://")


def _mount(kind: str, source: str, target: str, *, read_only: bool = False) -> str:
    """Return the option of `docker run`, which is a line of CSV: a directory's name may have commas and colons."""
    fields = [f"type={kind}", f"source={source}", f"target={target}", *(["readonly"] if read_only else [])]
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(fields)
    return f"--mount={line.getvalue()}"


def _digest(parts: list[str]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _said(done: subprocess.CompletedProcess[bytes]) -> str:
    return (done.stderr or done.stdout).decode(errors="replace").strip()[-2000:]
