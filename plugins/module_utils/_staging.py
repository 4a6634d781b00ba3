# Copyright (c) 2026, the Cavern deployment team
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Client of prepare-data and its results, shared by the staging modules. Private to the collection."""

from __future__ import annotations

import importlib
import traceback
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.skasrc.cavern.plugins.module_utils import _http

library: Any = None
IMPORT_ERROR: str | None = None
"""Why the client library cannot be imported, None if it can."""
try:
    library = importlib.import_module("prepare_data_client")
except ImportError:
    IMPORT_ERROR = traceback.format_exc()

# Without the library, `connect` fails before anything could raise them.
PrepareDataError: Any = getattr(library, "PrepareDataError", Exception)
NotFound: Any = getattr(library, "NotFound", Exception)

# Documented in plugins/doc_fragments/staging.py.
STAGING_SPEC: dict[str, dict[str, Any]] = {
    **_http.CONNECTION_SPEC,
    **_http.TOKEN_SPEC,
    "service_url": {"type": "str"},
}
STAGING_RULES: dict[str, Any] = {
    "required_one_of": [("url", "service_url"), ("token", "token_file")],
    "mutually_exclusive": [("token", "token_file")],
}


def connect(module: AnsibleModule) -> Any:
    """Return the client that the module's options describe; invalid options end the module."""
    if IMPORT_ERROR is not None:
        module.fail_json(msg=missing_required_lib("prepare-data-client"), exception=IMPORT_ERROR)
    params = module.params
    try:
        for option in ("url", "service_url"):
            if params[option]:
                _http.check_url(option, params[option])
        _http.check_ca(params["ca_path"])
        url = params["service_url"] or params["url"].rstrip("/") + "/prepare-data"
        return library.Client(
            url,
            token=_http.read_token(params),
            ca=params["ca_path"],
            timeout=params["request_timeout"],
            use_proxy=params["use_proxy"],
        )
    except (ValueError, PrepareDataError) as error:
        return module.fail_json(msg=str(error))


def file_results(files: Iterable[Any]) -> list[dict[str, Any]]:
    """Return the files of a task as results."""
    return [dict(file.raw) for file in files]


def summary(task: Any, files: list[dict[str, Any]] | None) -> dict[str, Any]:
    """Return the result for a task that both modules share."""
    result: dict[str, Any] = {"task_id": task.id, "state": task.state, "task": dict(task.raw)}
    if files is not None:
        result |= {"files": files, "counts": dict(Counter(file["state"] for file in files))}
    return result


def failures(files: Iterable[Mapping[str, Any]], shown: int = 5) -> str:
    """Return why the first failed files failed."""
    failed = [file for file in files if file["state"] == "FAILED"]
    reasons = [
        f"{f['did']}: {f.get('fault') or 'failed'}: {f.get('detail') or ''}".rstrip(": ")
        for f in failed[:shown]
    ]
    if len(failed) > shown:
        reasons.append(f"and {len(failed) - shown} more")
    return "; ".join(reasons)
