"""Settings, read once from the command line and the environment, and checked as they are made."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any, Final, get_type_hints
from urllib.parse import urlsplit

from store.artifacts.blobs import folder_of
from store.commands import Limits
from store.engine import POSTGRES_READERS, database_url

PREFIX: Final = "RUNSTREAM_"

_BROKERS: Final = ("redis", "rediss", "memory")
_LOG_LEVELS: Final = ("debug", "info", "warning", "error", "critical")


class SettingsError(ValueError):
    """A setting does not fit; `name` is the option's."""

    def __init__(self, name: str, detail: str) -> None:
        super().__init__(f"{option(name)} (or {variable(name)}): {detail}")
        self.name = name
        self.detail = detail


def option(name: str) -> str:
    """How the command line calls a setting."""
    return "--" + name.replace("_", "-")


def variable(name: str) -> str:
    """How the environment calls a setting."""
    return PREFIX + name.upper()


def _setting(default: Any, help: str, **how: Any) -> Any:
    """A field with its line for `--help`; `least` and `most` bound a number."""
    secret = how.get("secret", False)
    return field(default=default, repr=not secret, metadata={"help": help, **how})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All that one server is told from outside. Raises SettingsError for what cannot be meant."""

    host: str = _setting("127.0.0.1", "The address to listen on.")
    port: int = _setting(8080, "The port to listen on; 0 takes a free one.", least=0, most=65_535)
    database: str = _setting(
        "sqlite:///runstream.db",
        "sqlite:///path or postgresql://…; a driver suffix is accepted.",
        secret=True,
    )
    postgres_readers: int = _setting(
        POSTGRES_READERS,
        "Connections to PostgreSQL that read, in each process; four more write.",
        least=6,
    )
    redis: str | None = _setting(
        None,
        "redis://… to carry hints between processes; without it each process tells itself.",
        secret=True,
    )
    redis_namespace: str | None = _setting(
        None, "Processes hear each other that share it; by default those on one database do."
    )
    api_key: str | None = _setting(
        None, "The first API key of the project `default`: 16 or more characters.", secret=True
    )
    workers: int = _setting(1, "How many processes serve the port.", least=1, most=256)

    slow_consumer_s: float = _setting(
        30.0, "A reader over its bound, or without progress, for this long is let go.", least=0.1
    )
    heartbeat_s: float = _setting(
        15.0, "A stream that was silent for this long gets a heartbeat.", least=0.05
    )
    authenticate_s: float = _setting(
        10.0, "How long a WebSocket may stay without a token.", least=0.1
    )
    drain_s: float = _setting(
        10.0, "How long a stopping server takes to send its connections away.", least=0
    )
    retention_days: float = _setting(7.0, "How long changes stay in the log.", least=0)
    delete_final_after_days: float | None = _setting(
        None, "Delete final runs after so many days; without it they are kept.", least=0
    )

    connections: int = _setting(
        100_000, "Streams that one process holds; more are sent away.", least=1
    )
    connections_per_project: int | None = _setting(
        None, "Streams of one project in one process.", least=1
    )
    connections_per_address: int | None = _setting(
        None, "Streams from one address in one process; mind the proxies.", least=1
    )
    sse_connections: int | None = _setting(
        None, "Streams of server-sent events in one process.", least=1
    )
    unauthenticated: int = _setting(
        4_000,
        "Connections in one process that have not yet said what they want, and as many WebSockets "
        "without a token; beyond, those go that have waited longest.",
        least=1,
    )
    handshake_s: float = _setting(
        10.0, "How long the head of a request may take to come.", least=0.1
    )
    body_patience_s: float = _setting(
        30.0, "How long a body may stand still, or come slower than 1 KB a second.", least=0.1
    )
    bodies_bytes: int = _setting(
        512_000_000, "How much of bodies one process holds while they come.", least=65_536
    )
    key_requests_per_s: float = _setting(
        0.0, "HTTP requests and new streams with one API key, in one process; 0: any number.",
        least=0,
    )  # fmt: skip
    token_requests_per_s: float = _setting(
        200.0, "HTTP requests and new streams with one public access token; 0: any number.",
        least=0,
    )  # fmt: skip
    key_messages_per_s: float = _setting(
        0.0, "Messages on one WebSocket of an API key; 0: any number.", least=0
    )
    token_messages_per_s: float = _setting(
        200.0, "Messages on one WebSocket of a public access token; 0: any number.", least=0
    )
    guesses_per_s: float = _setting(
        20.0, "Unknown keys that are looked up for one address; 0: any number.", least=0
    )
    subscriptions: int = _setting(1_000, "Subscriptions on one connection.", least=1)
    message_bytes: int = _setting(65_536, "The longest message a client may send.", least=1_024)
    mailbox_bytes: int = _setting(
        1_000_000, "How much one connection may be owed before it counts as slow.", least=1_024
    )
    replay_changes: int = _setting(
        100_000, "A resume further behind than this starts from a snapshot.", least=1
    )
    deflate: bool = _setting(
        False, "Compress WebSocket messages: twice the CPU, three times the memory."
    )
    allowed_origins: tuple[str, ...] = _setting(
        ("*",), "Origins that browsers may call from, with commas between; * is any."
    )
    trusted_proxies: tuple[str, ...] = _setting(
        (), "Addresses whose X-Forwarded-For is believed, with commas between."
    )

    artifacts: str | None = _setting(
        None,
        "Where artifacts are kept: a folder, or an object store like s3://bucket/folder; by "
        "default a folder beside the SQLite file, or runstream-artifacts in the working directory.",
        secret=True,
    )
    artifact_bytes: int = _setting(1_000_000_000, "The largest artifact.", least=1)
    webhook_private_addresses: bool = _setting(
        False,
        "Send webhooks to loopback and private addresses too; loopback is allowed anyway while "
        "the server itself listens there only.",
    )

    payload_bytes: int = _setting(Limits().payload_bytes, "The largest payload.", least=1)
    output_bytes: int = _setting(Limits().output_bytes, "The largest output.", least=1)
    metadata_bytes: int = _setting(Limits().metadata_bytes, "The largest metadata.", least=2)
    tags_per_run: int = _setting(Limits().tags, "The most tags of one run.", least=0)
    tag_chars: int = _setting(Limits().tag_chars, "The longest tag.", least=1)
    nesting: int = _setting(Limits().nesting, "How deep JSON may nest.", least=1, most=200)
    batch_items: int = _setting(Limits().batch_items, "The most items of one request.", least=1)
    body_bytes: int = _setting(32_000_000, "The largest body of any request.", least=1_024)

    loop: str = _setting("uvloop", "The event loop: uvloop or asyncio.")
    log_level: str = _setting("info", "One of " + ", ".join(_LOG_LEVELS) + ".")
    access_log: bool = _setting(False, "Log each request.")

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            _check_bounds(each, value)
        _set(self, "database", _database(self.database))
        _set(self, "log_level", self.log_level.lower())
        if not self.host or any(c.isspace() or c == "/" for c in self.host):
            raise SettingsError("host", f"{self.host!r} is no address")
        if self.redis is not None and urlsplit(self.redis).scheme not in _BROKERS:
            raise SettingsError("redis", "expected an address like redis://localhost:6379")
        if self.api_key is not None and not (
            16 <= len(self.api_key) <= 1_000 and self.api_key.isascii() and self.api_key.isprintable()
            and " " not in self.api_key
        ):  # fmt: skip
            raise SettingsError(
                "api_key", "an API key has 16 or more characters, printable ASCII without spaces"
            )
        if self.loop not in ("uvloop", "asyncio"):
            raise SettingsError("loop", "expected uvloop or asyncio")
        if self.log_level not in _LOG_LEVELS:
            raise SettingsError("log_level", "expected one of " + ", ".join(_LOG_LEVELS))
        if self.artifacts is not None:
            try:
                folder_of(self.artifacts)
            except ValueError as error:
                raise SettingsError("artifacts", str(error)) from None
        for origin in self.allowed_origins:
            if origin != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/\s?#]+", origin):
                raise SettingsError(
                    "allowed_origins", f"{origin!r} is no origin; write it like https://example.com"
                )
        if self.workers > 1 and self.port == 0:
            raise SettingsError("workers", "several workers need a fixed port, not 0")

    @property
    def limits(self) -> Limits:
        """How large the parts of a run may be."""
        return Limits(
            payload_bytes=self.payload_bytes,
            output_bytes=self.output_bytes,
            metadata_bytes=self.metadata_bytes,
            tags=self.tags_per_run,
            tag_chars=self.tag_chars,
            nesting=self.nesting,
            batch_items=self.batch_items,
        )

    @property
    def is_loopback(self) -> bool:
        """Whether nobody but this machine can reach the address it listens on."""
        return is_loopback(self.host)

    @classmethod
    def read(cls, environment: Mapping[str, str], **given: Any) -> Settings:
        """Settings out of what was given, else of the environment, else the defaults.

        Text is read as the field's type; None or an empty text means not given.
        """
        hints = get_type_hints(cls)
        values: dict[str, Any] = {}
        for each in fields(cls):
            value = given.pop(each.name, None)
            if value is None:
                value = environment.get(variable(each.name))
            if value is None or value == "":
                continue
            values[each.name] = (
                _parse(each.name, hints[each.name], value) if isinstance(value, str) else value
            )
        if given:
            raise TypeError(f"there is no setting {next(iter(given))!r}")
        return cls(**values)


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own."""
    name = host.strip("[]").rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def _set(settings: Settings, name: str, value: Any) -> None:
    object.__setattr__(settings, name, value)  # it is frozen only once it is made


def _check_bounds(each: Field[Any], value: Any) -> None:
    if value is None or isinstance(value, str | bool | tuple):
        return
    least, most = each.metadata.get("least"), each.metadata.get("most")
    if value != value or abs(value) == float("inf"):
        raise SettingsError(each.name, "expected a finite number")
    if least is not None and value < least:
        raise SettingsError(each.name, f"{value} is less than {least}")
    if most is not None and value > most:
        raise SettingsError(each.name, f"{value} is more than {most}")


def _database(url: str) -> str:
    """The database's address with the driver that is used here."""
    try:
        return database_url(url).render_as_string(hide_password=False)
    except ValueError as error:
        raise SettingsError("database", str(error)) from None


_TRUE: Final = frozenset({"1", "true", "yes", "on"})
_FALSE: Final = frozenset({"0", "false", "no", "off", ""})


def _parse(name: str, type_: Any, text: str) -> Any:
    text = text.strip()
    kinds = (
        getattr(type_, "__args__", (type_,))
        if type(None) in getattr(type_, "__args__", ())
        else (type_,)
    )
    try:
        if bool in kinds:
            if text.lower() in _TRUE or text.lower() in _FALSE:
                return text.lower() in _TRUE
            raise SettingsError(name, f"{text!r} is neither true nor false")
        if int in kinds:
            return int(text)
        if float in kinds:
            return float(text)
    except ValueError as error:
        if isinstance(error, SettingsError):
            raise
        raise SettingsError(name, f"{text!r} is no number") from None
    if str in kinds:
        return text
    return tuple(part.strip() for part in text.split(",") if part.strip())
