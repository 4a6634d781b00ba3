"""Metadata and keys of the issuer (OpenID Connect Discovery 1.0), and a liveness check."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter

from iam.dependencies import Shared
from iam.services.grants import GRANTS, SCOPES
from iam.services.signer import ALGORITHM

router = APIRouter()


@router.get("/.well-known/openid-configuration")
async def metadata(shared: Shared) -> dict[str, Any]:
    """Endpoints of the issuer and what they offer."""
    issuer = shared.settings.oidc_issuer
    here = issuer.rstrip("/")
    return {
        "issuer": issuer,
        "jwks_uri": f"{here}/jwks",
        "authorization_endpoint": f"{here}/authorize",
        "token_endpoint": f"{here}/token",
        "userinfo_endpoint": f"{here}/userinfo",
        "revocation_endpoint": f"{here}/revoke",
        "introspection_endpoint": f"{here}/introspect",
        "grant_types_supported": list(GRANTS),
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
        "id_token_signing_alg_values_supported": [ALGORITHM],
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "code_challenge_methods_supported": ["S256"],
        "authorization_response_iss_parameter_supported": True,
        "subject_types_supported": ["public"],
        "scopes_supported": list(SCOPES),
        "claims_supported": ["sub", "preferred_username", "groups"],
    }


@router.get("/jwks")
async def jwks(shared: Shared) -> dict[str, Any]:
    """Public keys that verify the tokens (RFC 7517)."""
    return shared.signer.jwks


@router.get("/health")
async def health() -> dict[str, str]:
    """Whether the service lives."""
    return {"status": "ok", "time": time.strftime("%FT%TZ", time.gmtime())}
