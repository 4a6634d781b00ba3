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


@pytest.fixture
def file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """File with settings."""
    path = tmp_path / "settings.yml"
    monkeypatch.setenv("SETTINGS_FILE", str(path))
    return path


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Directory of secrets."""
    directory = tmp_path / "secrets"
    directory.mkdir()
    monkeypatch.setenv("SECRETS_DIR", str(directory))
    return directory


def test_a_file_gives_settings_and_the_environment_wins(file: Path) -> None:
    file.write_text("probe_count: 7\nworkers: '2'\noidc_audiences: [a, b]\noidc_require_audience: false\n")
    settings = load(Probe)
    assert settings.probe_count == 3
    assert settings.workers == 2
    assert settings.oidc_audiences == ["a", "b"]
    assert settings.oidc_require_audience is False


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("probe_cuont: 1", "probe_cuont: Extra inputs are not permitted"),
        ("workers: 0", "workers: Input should be greater than or equal to 1"),
        ("workers: [", "settings.yml: no settings: while parsing"),
        ("[workers]", "settings.yml: no settings: "),
        ("workers: {a: b}", "workers: Input should be a valid integer"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(
    file: Path, capsys: pytest.CaptureFixture[str], content: str, message: str
) -> None:
    file.write_text(content)
    with pytest.raises(SystemExit) as caught:
        load(Probe)
    assert message in f"{capsys.readouterr().err}{caught.value}"


def test_secrets_come_from_files_of_their_names(secrets: Path) -> None:
    (secrets / "database_password").write_text("s3cret\n")
    (secrets / "another_service").write_text("nobody's")
    settings = load(Probe)
    assert settings.database_password.get_secret_value() == "s3cret"
    assert "s3cret" not in repr(settings)


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "is empty"), (b" \n", "is empty"), (b"\xff", "not UTF-8")]
)
def test_files_without_a_secret(secrets: Path, content: bytes, message: str) -> None:
    (secrets / "database_password").write_bytes(content)
    with pytest.raises(SystemExit, match=rf"database_password: .*{message}"):
        load(Probe)


def test_a_secret_that_may_not_be_read_is_named(secrets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (secrets / "database_password").write_text("s3cret")

    def refuse(path: Path, *_arguments: object, **_options: object) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(SystemExit, match=r"database_password: cannot read .*Permission denied"):
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
        ("TRUSTED_PROXIES", "10.244.0.0/16,10.244.0.1/16", "10.244.0.1/16 has host bits set"),
        ("TRUSTED_PROXIES", "haproxy", "'haproxy' does not appear to be an IPv4 or IPv6 network"),
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
    assert told.startswith(f"{name.lower()}: ")
    assert message in told
