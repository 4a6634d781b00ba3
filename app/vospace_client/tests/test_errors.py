"""What failures say: whether a service is away, and when it wants to be asked again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from voservice.answers import seconds_asked
from vospace_client.errors import tells_of_outage


@pytest.mark.parametrize(
    ("detail", "away"),
    [
        ("http://rse/a: source answered 503 Service Unavailable", True),
        ("http://rse/a: source answered 500 Internal Server Error", False),
        ("http://rse/503/refused: source answered 500 Internal Server Error", False),
        ("http://rse/a: ClientConnectorError: Cannot connect to host rse:80 [Connect call failed]", True),
        ("http://rse/a: ConnectionTimeoutError: Connection timeout to host http://rse/a", True),
        ("http://rse/a: SocketTimeoutError: Timeout on reading data from socket", True),
        ("http://rse/a: ServerDisconnectedError: Server disconnected", True),
        ("http://rse/a: ClientOSError: [Errno 104] Connection reset by peer", True),
        ("java.net.ConnectException: Connection refused", True),
        ("java.net.SocketTimeoutException: connect timed out", True),
        ("http://rse/a: the source sent 3 of 5 bytes", False),
        ("http://rse/a: ClientPayloadError: Response payload is not completed", False),
        (None, False),
    ],
)
def test_an_outage_is_told_from_a_files_own_trouble(detail: str | None, away: bool) -> None:
    assert tells_of_outage(detail) is away


def test_retry_after_is_seconds_or_a_date() -> None:
    assert seconds_asked("7") == 7
    soon = datetime.now(UTC) + timedelta(seconds=60)
    assert 50 < (seconds_asked(format_datetime(soon, usegmt=True)) or 0) <= 60
    assert seconds_asked("Thu, 01 Jan 1970 00:00:00 GMT") == 0
    assert [seconds_asked(value) for value in (None, "", "soon")] == [None] * 3
