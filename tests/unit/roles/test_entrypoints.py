"""What the images' entrypoints make of passwords, against the vectors of the standards."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import pytest

FILES = Path(__file__).parents[3] / "roles/images/files"


def _script(path: str) -> Any:
    loader = SourceFileLoader(Path(path).name.replace("-", "_"), str(FILES / path))
    spec = spec_from_loader(loader.name, loader)
    assert spec
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.fixture
def postgres(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("PGHOST", "/tmp/postgresql")
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    return _script("postgres/postgres-entrypoint")


@pytest.fixture
def rabbitmq(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    return _script("rabbitmq/rabbitmq-entrypoint")


def test_scram_verifier_serves_the_exchange_of_rfc_7677(postgres: Any) -> None:
    """RFC 7677 section 3: the verifier has to accept that client's proof and give that server's signature."""
    salt = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
    head, keys = postgres.scram("pencil", salt, 4096).split("$", 1)[1].split("$")
    assert head == "4096:W22ZaJ0SNY7soEsUEjb6gQ=="
    stored, server = (base64.b64decode(key) for key in keys.split(":"))
    nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    exchange = (
        f"n=user,r=rOprNGfwEbeRWgbNEkqO,r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r={nonce}".encode()
    )
    proof = base64.b64decode("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
    signature = hmac.digest(stored, exchange, "sha256")
    client = bytes(a ^ b for a, b in zip(proof, signature, strict=True))
    assert hashlib.sha256(client).digest() == stored
    expected = "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
    assert base64.b64encode(hmac.digest(server, exchange, "sha256")).decode() == expected


def test_password_is_set_only_if_it_differs(postgres: Any) -> None:
    statements = postgres.set_password('o"dd', None, "secret")
    assert len(statements) == 1
    assert statements[0].startswith('ALTER ROLE "o""dd" LOGIN PASSWORD \'SCRAM-SHA-256$4096:')
    assert "secret" not in statements[0]
    kept = statements[0].split("'")[1]
    assert postgres.set_password('o"dd', kept, "secret") == []
    assert postgres.set_password('o"dd', kept, "other") != []
    assert postgres.set_password('o"dd', "md5" + "0" * 32, "secret") != []


def test_a_volume_of_another_image_is_refused_and_left_alone(
    postgres: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "HOME", tmp_path)
    if os.getuid() == 0:
        os.chown(tmp_path, 26, 26)
    monkeypatch.setattr("os.getuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(SystemExit, match="it holds the databases of another image"):
        postgres.take_volume()
    assert list(tmp_path.iterdir()) == []


def test_statements_quote_names_and_values(postgres: Any) -> None:
    assert postgres.identifier('a"; DROP') == '"a""; DROP"'
    assert postgres.literal("it's") == "'it''s'"


def test_rabbitmq_hash_is_that_of_its_documentation(rabbitmq: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example of RabbitMQ's guide on passwords."""
    monkeypatch.setattr(rabbitmq.secrets, "token_bytes", lambda _size: bytes.fromhex("908DC60A"))
    assert rabbitmq.password_hash("test12") == "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR"


def test_rabbitmq_setting_is_found_or_missed(rabbitmq: Any) -> None:
    assert (
        rabbitmq.setting("listeners.tcp.default = 5672\ndefault_user = preparer\n", "default_user")
        == "preparer"
    )
    with pytest.raises(SystemExit, match=r"/config/rabbitmq\.conf has no default_user"):
        rabbitmq.setting("# default_user of nothing\n", "default_user")
