"""Which addresses webhooks may be sent to."""

from __future__ import annotations

import ipaddress
from typing import Final
from urllib.parse import urlsplit

import msgspec

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

URL_CHARS: Final = 2_048

# Where clouds answer any program on a machine with that machine's own credentials, at an
# address that is not link-local.
_METADATA: Final = frozenset(
    ipaddress.ip_address(text) for text in ("100.100.100.200", "192.0.0.192", "fd00:ec2::254")
)
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_PRIVATE: Final = tuple(
    ipaddress.ip_network(text)
    for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
)


class AddressPolicy(msgspec.Struct, frozen=True):
    """What is allowed besides the public internet."""

    loopback: bool = False
    private: bool = False

    def refusal(self, address: Address) -> str | None:
        """Why nothing is sent there; None if it may be."""
        for one in _all_in(address):
            said = self._refusal(one)
            if said is not None:
                return f"{address} {said}"
        return None

    def _refusal(self, address: Address) -> str | None:
        if address.is_link_local or address in _METADATA:
            return "is link-local, where nothing is ever sent"
        if address.is_unspecified or address.is_multicast:
            return "is no address of one host"
        if address.is_loopback:
            return None if self.loopback else "is this machine"
        if any(address in network for network in _PRIVATE if network.version == address.version):
            return None if self.private else "is private"
        return None if address.is_global else "is reserved"

    def check_url(self, text: str) -> str | None:
        """What is wrong with an endpoint's URL, as far as can be told before its host is looked
        up; None if nothing is."""
        if len(text) > URL_CHARS or not text.isascii() or not text.isprintable() or " " in text:
            return f"must be a URL of at most {URL_CHARS} ASCII characters"
        try:
            url = urlsplit(text)
            host, _ = url.hostname, url.port
        except ValueError:
            return "is no URL"
        if url.scheme not in ("http", "https") or not host:
            return "must begin with https:// or http:// and name a host"
        if url.username is not None or url.password is not None:
            return "must not hold a user or password"
        if url.fragment:
            return "must not have a fragment"
        try:
            address = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            return None
        return self.refusal(address)


def _all_in(address: Address) -> list[Address]:
    """The address, and those that are wrapped in it."""
    found: list[Address] = [address]
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return [address.ipv4_mapped]
        found += [one for one in (address.sixtofour, *(address.teredo or ())) if one is not None]
        if address in _NAT64:
            found = [ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)]
    return found
