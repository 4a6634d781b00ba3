"""OpenAPI descriptions of requests that FastAPI does not read: documents, forms, names of any case."""

from __future__ import annotations

from fastapi import FastAPI
from voservice import openapi, operations
from voservice.openapi import Object, Operation, answer, content, form, parameter

_WHOLE: Object = {"type": "integer", "minimum": 0}
_XML = ("text/xml",)
_RENDERED = ("text/xml", "application/json")
_NODE = (
    '<node xmlns="http://www.ivoa.net/xml/VOSpace/v2.0" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" '
    'xsi:type="ContainerNode"><properties/></node>'
)
_TRANSFER = (
    '<transfer xmlns="http://www.ivoa.net/xml/VOSpace/v2.0"><target>vos://example.org~cavern/home/ada/file</target>'
    '<direction>pullFromVoSpace</direction><protocol uri="ivo://ivoa.net/vospace/core#httpsget"/></transfer>'
)

_GET_NODE = Operation(
    answers={200: answer("The node", *_RENDERED), 303: answer("With view=data, to the bytes")},
    parameters=[
        parameter("detail", "min, max or properties"),
        parameter("limit", "Most nodes of a container", _WHOLE),
        parameter("uri", "The first node of a container to list"),
        parameter("sort", "Property by which nodes are listed"),
        parameter("order", "asc or desc"),
        parameter("view", "data leads to the bytes"),
        parameter("Accept", "text/xml or application/json"),
    ],
)
_PUT_NODE = Operation(
    answers={201: answer("The node as it was made", *_XML)}, body=content(*_XML, example=_NODE), required=True
)
_POST_NODE = Operation(
    answers={200: answer("The node as it is now", *_XML)}, body=content(*_XML, example=_NODE), required=True
)
_DELETE_NODE = Operation(answers={200: answer("It is gone")})

_BYTES: Object = {"*/*": {}}
_CONDITIONS = [
    parameter(name, f"As RFC 9110 has it of {name}", where="header")
    for name in ("If-Match", "If-None-Match", "If-Unmodified-Since")
]
_READING = [
    *_CONDITIONS,
    parameter("If-Modified-Since", "As RFC 9110 has it", where="header"),
    parameter("Range", "One range of bytes", where="header"),
    parameter("If-Range", "As RFC 9110 has it", where="header"),
    parameter("Want-Digest", "Digests to tell (RFC 3230): md5, adler32", where="header"),
    parameter("Want-Repr-Digest", "The same (RFC 9530): md5, adler", where="header"),
    parameter("Want-Content-Digest", "The same of what is sent", where="header"),
]
_STATED = [
    parameter("Content-MD5", "MD5 of the bytes (RFC 1864)", where="header"),
    parameter(
        "Digest", "Digests of the bytes (RFC 3230): md5, adler32, sha, sha-256, sha-512", where="header"
    ),
    parameter("Repr-Digest", "The same (RFC 9530), with adler for Adler-32", where="header"),
    parameter("Content-Digest", "The same", where="header"),
]
_READ_ANSWERS = {
    200: {"description": "The bytes", "content": _BYTES},
    204: answer("There are none"),
    206: {"description": "The bytes of the range", "content": _BYTES},
    304: answer("Unchanged"),
}

_RUN_ID = parameter("RUNID", "A name for the job")
_RUN = parameter("PHASE", "RUN starts the job at once")
_SEE_JOB = {303: answer("To the job")}
_TRANSFER_FORM = form(
    TARGET="URI of the node", DIRECTION="pullFromVoSpace or pushToVoSpace", PROTOCOL="URI of a protocol"
)
_CREATED_BY = {
    "transfers": content(*_XML, example=_TRANSFER) | _TRANSFER_FORM,
    "synctrans": content(*_XML, example=_TRANSFER) | _TRANSFER_FORM,
    "pkg": content(*_XML, example=_TRANSFER) | _TRANSFER_FORM,
    "bulk-pull": content(
        "application/json",
        schema={"type": "object"},
        example={
            "rows": [{"source": "https://example.org/f", "target": "vos://example.org~cavern/home/ada/f"}]
        },
    ),
    "async-delete": form(target="URI of the node to delete"),
    "async-setprops": content(*_XML, example=_NODE),
}
_WAIT = [
    parameter(
        "WAIT", "Seconds to wait while the job goes on, -1 for as long as possible", {"type": "integer"}
    ),
    parameter("PHASE", "Wait only while this is the phase"),
]


def _of_jobs(path: str) -> dict[str, Operation]:
    """Operations of a job list (UWS 1.1)."""
    change = form(
        ACTION="DELETE",
        PHASE="RUN or ABORT",
        DESTRUCTION="Time of its end",
        EXECUTIONDURATION="Seconds that it may run",
    )
    return {
        f"GET /{path}": Operation(
            answers={200: answer("The jobs", *_XML)},
            parameters=[
                parameter("PHASE", "Only jobs in this phase"),
                parameter(
                    "AFTER", "Only jobs that were made later", {"type": "string", "format": "date-time"}
                ),
                parameter("LAST", "Only so many, the newest", {"type": "integer", "minimum": 1}),
            ],
        ),
        f"POST /{path}": Operation(answers=_SEE_JOB, parameters=[_RUN, _RUN_ID], body=_CREATED_BY[path]),
        f"GET /{path}/{{job_id}}": Operation(answers={200: answer("The job", *_XML)}, parameters=_WAIT),
        f"POST /{path}/{{job_id}}": Operation(
            answers={303: answer("To the job, or to the list")}, body=change
        ),
        f"DELETE /{path}/{{job_id}}": Operation(answers={303: answer("To the list")}),
        f"GET /{path}/{{job_id}}/results/{{result_id}}": Operation(answers={303: answer("To the result")}),
        f"GET /{path}/{{job_id}}/{{field}}": Operation(
            answers={200: answer("That part of the job", "text/plain", *_XML)}, parameters=_WAIT
        ),
        f"POST /{path}/{{job_id}}/{{field}}": Operation(answers=_SEE_JOB, body=change),
    }


OPERATIONS = {
    **{
        f"{method} {path}": operation
        for path in ("/nodes", "/nodes/{path}")
        for method, operation in (
            ("GET", _GET_NODE),
            ("PUT", _PUT_NODE),
            ("POST", _POST_NODE),
            ("DELETE", _DELETE_NODE),
        )
    },
    "GET /files/{path}": Operation(answers=_READ_ANSWERS, parameters=_READING),
    "HEAD /files/{path}": Operation(answers=_READ_ANSWERS, parameters=_READING),
    "PUT /files/{path}": Operation(
        answers={201: answer("The bytes are stored")}, parameters=[*_CONDITIONS, *_STATED], body=_BYTES
    ),
    **{name: op for path in _CREATED_BY for name, op in _of_jobs(path).items()},
    "GET /synctrans": Operation(
        answers={303: answer("To the endpoint, or to the list of jobs")},
        parameters=[
            parameter("TARGET", "URI of the node"),
            parameter("DIRECTION", "pullFromVoSpace or pushToVoSpace"),
            parameter("PROTOCOL", "URI of a protocol"),
        ],
    ),
    "POST /synctrans": Operation(
        answers={303: answer("To the negotiated document, the endpoint or the package")},
        body=_CREATED_BY["synctrans"],
    ),
    "GET /xfer/{job_id}": Operation(answers={200: answer("The transfer's document", *_XML)}),
    "GET /pkg/{job_id}/run": Operation(
        answers={200: answer("The archive", "application/x-tar", "application/zip")}
    ),
    "GET /bulk-pull/{job_id}/results/files": Operation(
        answers={200: answer("A line of JSON for each file", "application/x-ndjson")},
        parameters=[
            parameter("from", "Number of the last event that is known", _WHOLE),
            parameter("follow", "false ends the answer with what there is"),
        ],
    ),
    **operations.OPERATIONS,
    "GET /availability": Operation(openapi.AVAILABILITY, [openapi.DETAIL]),
    "POST /availability": Operation(
        answers={303: answer("To the availability")}, body=form(state="ReadWrite, ReadOnly or Offline")
    ),
    "GET /capabilities": Operation(openapi.CAPABILITIES),
}
_KNOWN = ("token", "certificate")


def install(app: FastAPI, prefix: str) -> None:
    """Describe the API of *app*, whose paths begin with *prefix*."""
    openapi.complete(
        app,
        prefix=prefix,
        schemes={"token": openapi.TOKEN, "certificate": openapi.CERTIFICATE},
        callers=(*_KNOWN, None),
        others={
            "GET /availability": (None,),
            "GET /capabilities": (None,),
            "POST /availability": _KNOWN,
            "/logControl": _KNOWN,
        },
        error=openapi.LINE,
        operations=OPERATIONS,
    )
