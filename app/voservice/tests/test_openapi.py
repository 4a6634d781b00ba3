"""OpenAPI documents, completed by what FastAPI cannot know."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI, Request
from pydantic import BaseModel
from voservice import openapi
from voservice.testing_api import check


class Row(BaseModel):
    """A row."""

    name: str


class Rows(BaseModel):
    """Many."""

    rows: list[Row]


def application(**options: Any) -> FastAPI:
    app = FastAPI()
    body = {"content": {"application/json": {"schema": Rows.model_json_schema()}}}

    @app.get("/v/things/{path:path}")
    async def read(request: Request) -> str:
        return request.url.path

    @app.post("/v/things", openapi_extra={"requestBody": body})
    async def write(request: Request) -> str:
        return request.url.path

    settings: dict[str, Any] = {
        "prefix": "/v",
        "schemes": {"token": openapi.TOKEN},
        "callers": ("token",),
        "others": {"GET /things/{path}": ("token", None)},
        "error": openapi.LINE,
    }
    openapi.complete(app, **settings | options)
    return app


def test_a_document_is_completed() -> None:
    said = openapi.Operation(
        {200: openapi.answer("A thing", "text/xml")}, [openapi.parameter("limit", "Most")]
    )
    document = application(operations={"GET /things/{path}": said}).openapi()
    check(document)
    read = document["paths"]["/v/things/{path}"]["get"]
    assert {(one["name"], one["in"]) for one in read["parameters"]} == {("path", "path"), ("limit", "query")}
    assert read["responses"].keys() == {"200", "default"}
    assert read["responses"]["200"]["content"].keys() == {"text/xml"}
    assert read["security"] == [{"token": []}, {}]
    write = document["paths"]["/v/things"]["post"]
    assert write["security"] == [{"token": []}]
    schema = write["requestBody"]["content"]["application/json"]["schema"]
    assert schema["properties"]["rows"]["items"] == {"$ref": "#/components/schemas/Row"}


def test_it_is_made_once() -> None:
    app = application()
    assert app.openapi() is app.openapi()


@pytest.mark.parametrize(
    "options", [{"operations": {"PUT /things": openapi.Operation()}}, {"others": {"/gone": ("token",)}}]
)
def test_a_description_of_what_is_not_there_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="not implemented"):
        application(**options).openapi()


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("paths", "/v/things/{path}", "get", "parameters"), []),
        (("components", "schemas"), {}),
        (("components", "securitySchemes"), {}),
    ],
)
def test_a_document_with_something_missing_is_noticed(place: tuple[str, ...], value: object) -> None:
    document = application().openapi()
    node = document
    for step in place[:-1]:
        node = node[step]
    node[place[-1]] = value
    with pytest.raises(Exception):  # noqa: B017, PT011 - whatever the validator raises
        check(document)
