"""Settings: where they come from, and what is said of wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field
from voservice.config import ServiceSettings, load


class Probe(ServiceSettings):
    """Settings of a service with one of its own."""

    probe_count: int = Field(ge=1)


@pytest.fixture(autouse=True)
def count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROBE_COUNT", "3")


def test_secrets_come_from_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("s3cret\n")
    monkeypatch.setenv("DATABASE_PASSWORD_FILE", str(file))
    settings = load(Probe)
    assert settings.database_password.get_secret_value() == "s3cret"
    assert "s3cret" not in repr(settings)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot read"), (b"", "is empty"), (b" \n", "is empty"), (b"\xff", "not UTF-8")],
)
def test_files_without_a_secret(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes | None, message: str
) -> None:
    file = tmp_path / "password"
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setenv("DATABASE_PASSWORD_FILE", str(file))
    with pytest.raises(SystemExit, match=rf"DATABASE_PASSWORD_FILE: .*{message}"):
        load(Probe)


def test_a_value_and_a_file_of_it_contradict_each_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "password").write_text("one")
    monkeypatch.setenv("DATABASE_PASSWORD_FILE", str(tmp_path / "password"))
    monkeypatch.setenv("DATABASE_PASSWORD", "two")
    with pytest.raises(SystemExit, match="set one of them"):
        load(Probe)


def test_lists_and_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUBLIC_URL", "https://vo.example/")
    monkeypatch.setenv("OIDC_ISSUER", "https://vo.example/iam/")
    monkeypatch.setenv("OIDC_ALGORITHMS", " RS256, PS256,")
    monkeypatch.setenv("LOG_LEVEL", "debug")
    settings = load(Probe)
    assert settings.public_url == "https://vo.example"
    assert settings.oidc_issuer == "https://vo.example/iam/"
    assert settings.oidc_audiences == ["https://vo.example"]
    assert settings.oidc_algorithms == ["RS256", "PS256"]
    assert settings.log_level == "DEBUG"
    monkeypatch.setenv("OIDC_AUDIENCES", "a,b")
    assert load(Probe).oidc_audiences == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("PROBE_COUNT", "0", "greater than or equal to 1"),
        ("PROBE_COUNT", "many", "valid integer"),
        ("OIDC_ALGORITHMS", "RS256,none", "none is not among RS256"),
        ("OIDC_ALGORITHMS", "HS256", "HS256 is not among"),
        ("OIDC_ALGORITHMS", ",", "nothing is not among"),
        ("OIDC_ISSUER", "vo.example/iam", "is not an http or https URL"),
        ("OIDC_ISSUER", "https://vo.example/iam?x=1", "without query"),
        ("PUBLIC_URL", "ftp://vo.example", "is not an http or https URL"),
        ("REGISTRY_URL", "https://", "is not an http or https URL"),
        ("LOG_LEVEL", "loud", "'DEBUG', 'INFO'"),
        ("WORKERS", "0", "greater than or equal to 1"),
        ("OIDC_REQUIRE_AUDIENCE", "perhaps", "valid boolean"),
    ],
)
def test_wrong_values_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as caught:
        load(Probe)
    assert caught.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith(f"{name}: ")
    assert message in told
