"""The OpenAPI document is valid, and the service does what it says."""

from __future__ import annotations

from voservice.testing_api import answers_as_described


async def test_the_api_is_as_its_document_describes_it(app, ada) -> None:
    await answers_as_described(app, "/src/cavern/openapi.json", ada)
