"""The files in ``/config``, in the syntax that OpenCADC's services read."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

from standin.database import Pool

# The applications look in their user's home, which the start script links to /config.
HOME_CONFIG = Path.home() / "config"
CATALINA = Path("/etc/tomcat/catalina.properties")


class ConfigurationError(Exception):
    """A file or a key that the service cannot do without."""


class Properties:
    """A file of ``key = value`` lines: split at the first ``=``, ``#`` and ``!`` begin comments, keys may repeat."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.values: dict[str, list[str]] = {}
        path = HOME_CONFIG / name
        if not path.is_file():
            raise ConfigurationError(f"{name}: no such file")
        for line in path.read_text(encoding="utf-8").splitlines():
            if not line.strip() or line.lstrip().startswith(("#", "!")):
                continue
            key, equals, value = line.partition("=")
            if not equals:
                raise ConfigurationError(f"{name}: a line without '=': {line!r}")
            self.values.setdefault(key.strip(), []).append(value.strip())

    def all(self, key: str) -> list[str]:
        """Values of a key that may be missing or repeat."""
        return self.values.get(key, [])

    def one(self, key: str) -> str:
        """The value of a key that must be there once."""
        found = self.all(key)
        if len(found) != 1 or not found[0]:
            raise ConfigurationError(f"{self.name}: {key} must have one value, it has {found}")
        return found[0]


def java_properties(text: str) -> dict[str, str]:
    """Keys and values as ``java.util.Properties.load`` reads them: Latin-1, escapes, lines that go on in the next.

    Of a key that repeats the last value counts.
    """
    found = {}
    lines = iter(text.splitlines())
    for first in lines:
        line = first.lstrip(" \t\f")
        if not line or line[0] in "#!":
            continue
        while (len(line) - len(line.rstrip("\\"))) % 2:
            line = line[:-1] + next(lines, "").lstrip(" \t\f")
        match = re.match(r"(?P<key>(?:\\.|[^\\=: \t\f])*)[ \t\f]*[=:]?[ \t\f]*(?P<value>.*)", line)
        if match:
            found[_unescaped(match["key"])] = _unescaped(match["value"])
    return found


def _unescaped(text: str) -> str:
    letters = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}

    def one(match: re.Match[str]) -> str:
        code, letter = match.groups()
        return chr(int(code, 16)) if code else letters.get(letter, letter)

    # Two halves of a character beyond the first plane become one.
    plain = re.sub(r"\\(?:u([0-9a-fA-F]{4})|(.))", one, text)
    return plain.encode("utf-16", "surrogatepass").decode("utf-16")


class System:
    """Java's system properties: Tomcat's own, and what the start script has appended."""

    def __init__(self) -> None:
        self.values = java_properties(CATALINA.read_text(encoding="latin-1"))

    def one(self, key: str) -> str:
        """The value of a property that must be set."""
        value = self.values.get(key, "")
        if not value:
            raise ConfigurationError(f"catalina.properties: {key} is missing")
        return value

    def public_url(self) -> str:
        """Scheme, host and port that every absolute URL is made from.

        What Tomcat has no value for it leaves as it stands in its own configuration; nothing is refused.
        """
        scheme, name, port = (
            self.values.get(f"tomcat.connector.{key}") or f"${{tomcat.connector.{key}}}"
            for key in ("scheme", "proxyName", "proxyPort")
        )
        return f"{scheme}://{name}{'' if port == '443' or not port.isdecimal() else f':{port}'}"

    def pool(self, prefix: str) -> Pool:
        """A database pool: number of connections, account, and where."""
        size = self.one(f"{prefix}.maxActive")
        if not size.isdecimal():
            raise ConfigurationError(f"catalina.properties: {prefix}.maxActive is no number")
        url = self.one(f"{prefix}.url")
        if not url.startswith("jdbc:postgresql://"):
            raise ConfigurationError(f"catalina.properties: {prefix}.url is no JDBC URL of PostgreSQL: {url}")
        return Pool(
            int(size),
            url.removeprefix("jdbc:"),
            self.one(f"{prefix}.username"),
            self.one(f"{prefix}.password"),
        )


def local_authority() -> dict[str, str]:
    """Trusted services by standard identifier; each key and each value has to be a URI."""
    found = {}
    for key, values in Properties("cadc-registry.properties").values.items():
        if key.startswith("ca.nrc.cadc.reg.client."):
            continue
        for text in (key, *values):
            if not urlsplit(text).scheme:
                raise ConfigurationError(f"cadc-registry.properties: {text!r} is no URI")
        found[key] = values[0]
    return found
