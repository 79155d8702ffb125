"""Which address of this machine collectives go by: gloo's choice is silent, and wrong on many machines."""

from __future__ import annotations

import fcntl
import ipaddress
import os
import socket
import struct
from contextlib import suppress

_LOOPBACK = "127.0.0.1"
_SIOCGIFADDR = 0x8915
"""Linux's request for an interface's IPv4 address."""


def interfaces() -> dict[str, str]:
    """IPv4 addresses by interface, of those that have one."""
    found = {}
    for _, name in socket.if_nameindex():
        with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            answer = fcntl.ioctl(any_socket.fileno(), _SIOCGIFADDR, struct.pack("256s", name.encode()))
            found[name] = socket.inet_ntoa(answer[20:24])
    return found


def gloo_address() -> str:
    """The address at which gloo has other workers reach this machine's; empty where it would find none.

    It is that of `GLOO_SOCKET_IFNAME`, else the first own one that the host name stands for, else loopback, which other
    machines cannot reach.
    """
    named = os.environ.get("GLOO_SOCKET_IFNAME")
    if named:
        return interfaces().get(named.partition(",")[0], "")
    with suppress(OSError):
        for family, kind, protocol, _, place in socket.getaddrinfo(socket.gethostname(), None, type=socket.SOCK_STREAM):
            with suppress(OSError), socket.socket(family, kind, protocol) as tried:
                tried.bind(place)
                return str(place[0])
    return _LOOPBACK


def is_loopback(address: str) -> bool:
    """Whether only this machine itself can reach an address."""
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback
