"""A second HAProxy with the deployed configuration in front of other servers."""

from __future__ import annotations

import io
import re
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from deployment import Deployment


def _configuration(stack: Deployment, user: int, servers: dict[str, str]) -> bytes:
    """Return the deployed configuration as an archive of /config, with other addresses of *servers*."""
    configured = stack.state / "config/haproxy"
    replaced = {f"{stack.address(name)}:": address for name, address in servers.items()}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for file in sorted(path for path in configured.rglob("*") if path.is_file()):
            content = file.read_bytes()
            if file.name == "haproxy.cfg":
                text = content.decode()
                for begin, address in replaced.items():
                    text = re.sub(rf"(?m)^(    server \S+ ){re.escape(begin)}\d+", rf"\g<1>{address}", text)
                content = text.encode()
            entry = tarfile.TarInfo(f"config/{file.relative_to(configured)}")
            entry.size, entry.uid, entry.gid, entry.mode = len(content), user, user, 0o400
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def _answers(container: Any) -> bool:
    container.reload()
    if container.status != "running":
        raise RuntimeError(container.logs().decode())
    probe = ["curl", "-sf", "-o", "/dev/null", "http://127.0.0.1:8404/health"]
    return bool(container.exec_run(probe).exit_code == 0)


@contextmanager
def second_haproxy(stack: Deployment, name: str, servers: dict[str, str]) -> Iterator[str]:
    """Yield the address of a HAProxy with other addresses of *servers*, by the names of their containers."""
    haproxy = stack.container("haproxy")
    user = int(haproxy.attrs["Config"]["User"].partition(":")[0])
    second = stack.engine.containers.create(
        haproxy.attrs["Config"]["Image"],
        haproxy.attrs["Config"]["Cmd"],
        name=f"{stack.prefix}{name}",
        network=stack.network["name"],
        user=f"{user}:{user}",
    )
    try:
        second.put_archive("/", _configuration(stack, user, servers))
        second.start()
        deadline = time.monotonic() + 30
        while not _answers(second):
            if time.monotonic() > deadline:
                raise RuntimeError(second.logs().decode())
            time.sleep(0.1)
        yield stack.address(name)
    finally:
        second.remove(force=True)
