"""Where a Redis is and how to be let in, out of a URL."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

PORT: Final = 6379


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """The options of a URL with TLS."""

    ca_certs: str | None = None
    certfile: str | None = None
    keyfile: str | None = None
    verify: bool = True
    check_hostname: bool = True

    def context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.ca_certs)
        context.check_hostname = self.verify and self.check_hostname
        if not self.verify:
            context.verify_mode = ssl.CERT_NONE
        if self.certfile is not None:
            context.load_cert_chain(self.certfile, self.keyfile)
        return context

    def client_options(self) -> dict[str, Any]:
        """The same for redis-py, which makes its own context."""
        return {
            "ssl_ca_certs": self.ca_certs,
            "ssl_certfile": self.certfile,
            "ssl_keyfile": self.keyfile,
            "ssl_cert_reqs": "required" if self.verify else "none",
            "ssl_check_hostname": self.verify and self.check_hostname,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """One server. Its text is safe to log: the password is not in it."""

    host: str = "localhost"
    port: int = PORT
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    db: int = 0
    tls: Tls | None = None

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    def at(self, host: str, port: int) -> Address:
        """Another node of the same cluster, which takes the same login."""
        return replace(self, host=host, port=port)


def parse_url(url: str) -> Address:
    """`redis[s][+cluster]://[[username]:password@]host[:port][/db][?tls options]`.

    The options, for `rediss` only: `ssl_ca_certs`, `ssl_certfile`, `ssl_keyfile` (files),
    `ssl_cert_reqs` (`required`, `none`), `ssl_check_hostname` (`true`, `false`). Anything else is
    a ValueError, which never shows the password.
    """
    parts = urlsplit(url)
    scheme = parts.scheme.removesuffix("+cluster")
    path = parts.path.strip("/")
    if path and not (path.isascii() and path.isdigit()):
        raise ValueError(f"a Redis URL's path is the number of a database, not {path!r}")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    tls = _tls(options) if scheme == "rediss" else None
    if options:
        raise ValueError(f"a {scheme}:// URL has no option {', '.join(sorted(options))}")
    try:
        port = parts.port or PORT
    except ValueError:
        raise ValueError("the port in a Redis URL is a number up to 65535") from None
    return Address(
        host=parts.hostname or "localhost",
        port=port,
        username=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
        db=int(path or 0),
        tls=tls,
    )


def _tls(options: dict[str, str]) -> Tls:
    """Takes what it knows out of the options."""
    verify = _one_of(options, "ssl_cert_reqs", {"required": True, "none": False})
    check = _one_of(options, "ssl_check_hostname", {"true": True, "false": False})
    return Tls(
        ca_certs=options.pop("ssl_ca_certs", None),
        certfile=options.pop("ssl_certfile", None),
        keyfile=options.pop("ssl_keyfile", None),
        verify=verify,
        check_hostname=check,
    )


def _one_of(options: dict[str, str], name: str, meanings: dict[str, bool]) -> bool:
    text = options.pop(name, None)
    if text is None:
        return True
    if text.lower() not in meanings:
        raise ValueError(f"{name} is one of {', '.join(meanings)}, not {text!r}")
    return meanings[text.lower()]
