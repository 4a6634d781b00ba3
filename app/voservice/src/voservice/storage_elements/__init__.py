"""Clients of Rucio Storage Elements (RSEs): their location, verification and credentials.

A credential is read or obtained when a request needs it, is kept only in memory, and is sent only to URLs below the
storage element's own: a redirect to another server is followed without it.
"""

from voservice.storage_elements.client import Element, Elements
from voservice.storage_elements.credentials import CredentialRefused, CredentialUnavailable
from voservice.storage_elements.settings import StorageElement, StorageElements

__all__ = [
    "CredentialRefused",
    "CredentialUnavailable",
    "Element",
    "Elements",
    "StorageElement",
    "StorageElements",
]
