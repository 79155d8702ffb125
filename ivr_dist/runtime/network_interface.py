"""Network interface of collectives: the address that gloo chooses silently, and wrongly on many machines."""

from __future__ import annotations

import fcntl
import ipaddress
import os
import socket
import struct
from contextlib import suppress

_LOOPBACK = "127.0.0.1"
_SIOCGIFADDR = 0x8915
"""The ioctl of Linux that returns the IPv4 address of an interface."""


def interfaces() -> dict[str, str]:
    """IPv4 addresses by interface; interfaces without one are left out."""
    addresses = {}
    for _, name in socket.if_nameindex():
        with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            reply = fcntl.ioctl(any_socket.fileno(), _SIOCGIFADDR, struct.pack("256s", name.encode()))
            addresses[name] = socket.inet_ntoa(reply[20:24])
    return addresses


def gloo_address() -> str:
    """Return the address that gloo announces to the workers of other machines; empty if gloo would find none.

    It is the address of `GLOO_SOCKET_IFNAME`, else the first local address that the host name resolves to, else
    loopback, which other machines cannot reach.
    """
    configured = os.environ.get("GLOO_SOCKET_IFNAME")
    if configured:
        return interfaces().get(configured.partition(",")[0], "")
    with suppress(OSError):
        for family, kind, protocol, _, address in socket.getaddrinfo(
            socket.gethostname(), None, type=socket.SOCK_STREAM
        ):
            with suppress(OSError), socket.socket(family, kind, protocol) as probe:
                probe.bind(address)
                return str(address[0])
    return _LOOPBACK


def is_loopback(address: str) -> bool:
    """Whether an address is reachable from this machine only."""
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback
