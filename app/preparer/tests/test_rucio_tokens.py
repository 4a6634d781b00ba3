"""What core says of tokens of the issuer that Rucio refuses; tests/stack/test_keycloak_rucio.py has both."""

from __future__ import annotations

from typing import Any

import pytest
from preparer.rucio import lacking

GOOD: dict[str, Any] = {"aud": ["https://site.example", "rucio"], "scope": "profile openid email"}


@pytest.mark.parametrize(
    ("claims", "told"),
    [
        (
            {**GOOD, "aud": ["https://site.example", "other"]},
            "its audience is https://site.example, other, without rucio (preparer_rucio_audience)",
        ),
        ({**GOOD, "aud": "https://rucio"}, "its audience is https://rucio, without rucio ("),
        ({"scope": "openid profile"}, "its audience is none, without rucio (preparer_rucio_audience)"),
        ({**GOOD, "scope": "email"}, "its scope is without openid profile (preparer_rucio_scope)"),
        ({"aud": "rucio"}, "its scope is without openid profile (preparer_rucio_scope)"),
        # It has all that it was asked for with, or cannot be read here.
        (GOOD, "Rucio's expected_audience and expected_scope have to be what it is asked for with"),
        ({}, "Rucio's expected_audience and expected_scope have to be what it is asked for with"),
    ],
)
def test_what_a_refused_token_lacks_is_named_with_its_setting(claims: dict[str, Any], told: str) -> None:
    assert lacking(claims, "rucio", "openid profile").startswith(told)


def test_what_was_not_asked_for_is_not_missed() -> None:
    assert lacking({"aud": "other"}, "", "").startswith("Rucio's expected_audience")
