"""Stand-in for Tomcat with one web application, whose path is the name of its war file."""

from __future__ import annotations

import sys
from pathlib import Path

import uvicorn

from standin import cavern, mapper, reg
from standin.delay import Delay
from standin.settings import ConfigurationError, System

WEBAPPS = Path("/usr/share/tomcat/webapps")
APPLICATIONS = {"cavern": cavern.application, "posix-mapper": mapper.application, "reg": reg.application}


def main() -> None:
    """Serve the application on 8080, or say why not."""
    (war,) = WEBAPPS.glob("*.war")
    path = "/" + war.stem.replace("#", "/")
    try:
        system = System()
        application = Delay(APPLICATIONS[war.read_text().strip()](system, system.public_url(), path))
    except ConfigurationError as error:
        sys.exit(f"SEVERE: {error}")
    uvicorn.run(application, host="0.0.0.0", port=8080, log_level="info", server_header=False)


main()
