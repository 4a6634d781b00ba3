"""Client of prepare-data: `Client`, what it returns, and what it raises."""

from prepare_data_client.api import Client
from prepare_data_client.errors import (
    Fault,
    InvalidItem,
    InvalidTask,
    NotFound,
    PrepareDataError,
    Refused,
    Unauthorized,
    Unreachable,
    WaitTimeout,
)
from prepare_data_client.models import Estimate, File, Item, Task

__all__ = [
    "Client",
    "Estimate",
    "Fault",
    "File",
    "InvalidItem",
    "InvalidTask",
    "Item",
    "NotFound",
    "PrepareDataError",
    "Refused",
    "Task",
    "Unauthorized",
    "Unreachable",
    "WaitTimeout",
]
