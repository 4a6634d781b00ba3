"""XRootD for the members of a virtual organisation (VO): a grid's authority, and proxies with attributes of VOMS."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ansible_collections.skasrc.cavern.plugins.module_utils import _x509
from deployment import Deployment

VO = "skatest"
PORT = 1096
USER = 8004
SERVER = "voms.example"
DOCKERFILE = """
FROM {base}
USER root
RUN groupadd --gid {user} xrootd && useradd --uid {user} --gid {user} --home-dir /tmp xrootd \\
 && apt-get --quiet=2 update \\
 && apt-get --quiet=2 install --yes --no-install-recommends xrootd-server xrootd-voms-plugins voms-clients
ENV X509_CERT_DIR=/grid/certificates X509_VOMS_DIR=/grid/vomsdir
USER {user}:{user}
WORKDIR /tmp
CMD ["xrootd", "-c", "/grid/xrootd.cfg", "-n", "voms"]
"""
CONFIG = f"""
all.export / r/o
all.adminpath /tmp/admin
all.pidpath /tmp/admin
oss.localroot /rse
xrd.port {PORT}
xrd.protocol http:{PORT} libXrdHttp.so
xrd.tls /grid/server.pem /grid/server.key
xrd.tlsca certdir /grid/certificates
http.desthttps yes
http.selfhttps2http no
http.secxtractor libXrdVoms.so
ofs.authorize 1
acc.authdb /grid/authdb
xrootd.chksum max 2 adler32 md5
"""


class Grid:
    """The files of a grid's authority below a directory, and the container of its XRootD."""

    def __init__(self, directory: Path, address: str) -> None:
        """Issue the certificates of XRootD at *address*, of the VO's server, and of the user who stages."""
        self.directory, self.address = directory, address
        self.url = f"https://{address}:{PORT}"
        self.ca = directory / "ca.pem"
        self.proxy = directory / "proxy/proxy.pem"
        """Where the proxy is, in a directory of its own."""
        # XRootD runs as a user of its own.
        directory.chmod(0o755)
        authority = _x509.create_ca("Grid", 30, "rsa")
        names = _x509.Names("xrootd.example", (), (address,))
        pairs = {
            "server": _x509.issue_server(authority, names, 30, "rsa"),
            "voms": _x509.issue_server(authority, _x509.Names(SERVER), 30, "rsa"),
            "user": _x509.issue_client(authority, "staging", 30, "rsa"),
        }
        self._write("ca.pem", authority.certificate_pem)
        for name, pair in pairs.items():
            self._write(f"{name}.pem", pair.certificate_pem)
            self._write(f"{name}.key", pair.key_pem, 0o400)
        os.chown(directory / "server.key", USER, USER)
        digest = self._openssl("ca.pem", "-hash")
        self._write(f"certificates/{digest}.0", authority.certificate_pem)
        issuer = self._name("ca.pem")
        policy = f"access_id_CA X509 '{issuer}'\npos_rights globus CA:sign\ncond_subjects globus '\"*\"'\n"
        self._write(f"certificates/{digest}.signing_policy", policy.encode())
        self._write(f"vomsdir/{VO}/{SERVER}.lsc", f"{self._name('voms.pem')}\n{issuer}\n".encode())
        self._write("xrootd.cfg", CONFIG.encode())
        self._write("authdb", f"o {VO} / rl\n".encode())
        self.proxy.parent.mkdir()

    def _write(self, name: str, content: bytes, mode: int = 0o644) -> None:
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(mode)

    def _openssl(self, name: str, option: str) -> str:
        command = [
            "openssl",
            "x509",
            "-in",
            str(self.directory / name),
            "-noout",
            option,
            "-nameopt",
            "compat",
        ]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def _name(self, certificate: str) -> str:
        return self._openssl(certificate, "-subject").removeprefix("subject=")

    @contextmanager
    def serving(self, stack: Deployment) -> Iterator[Any]:
        """Run XRootD over the RSE's files on the deployment's network; yields the container."""
        image = f"{stack.image_prefix}/voms:test"
        recipe = DOCKERFILE.format(base=stack.image("base"), user=USER)
        subprocess.run(
            ["docker", "build", "--quiet", "--tag", image, "-"], input=recipe, text=True, check=True
        )
        network = stack.network["name"]
        endpoint = stack.engine.api.create_endpoint_config(ipv4_address=self.address)
        container = stack.engine.containers.create(
            image,
            # Whatever becomes of this run, the next one clears it away with the rest.
            labels={"int.skao.src.cavern.project": stack.project},
            volumes={
                str(self.directory): {"bind": "/grid", "mode": "rw"},
                str(stack.data / "rse_data"): {"bind": "/rse", "mode": "ro"},
            },
            networking_config={network: endpoint},
            network=network,
        )
        try:
            container.start()
            yield container
        finally:
            container.remove(force=True)
            stack.engine.images.remove(image, force=True)

    def sign_in(self, container: Any, *options: str) -> None:
        """Make the user's proxy anew, as voms-proxy-init would with a server of the VO."""
        command = ["voms-proxy-fake", "-rfc", "-bits", "2048", "-hours", "12", "-out", "/grid/proxy/new.pem"]
        command += ["-cert", "/grid/user.pem", "-key", "/grid/user.key", "-certdir", "/grid/certificates"]
        done = container.exec_run([*command, *options], user="0")
        assert done.exit_code == 0, done.output.decode()
        made = self.proxy.with_name("new.pem")
        made.chmod(0o644)
        made.replace(self.proxy)

    def join(self) -> list[str]:
        """Options by which the VO says that the user is a member."""
        return [
            *("-hostcert", "/grid/voms.pem", "-hostkey", "/grid/voms.key"),
            *("-voms", VO, "-fqan", f"/{VO}/Role=NULL/Capability=NULL", "-uri", f"{SERVER}:15000"),
        ]
