"""The address that gloo announces, compared with gloo."""

from __future__ import annotations

import socket

import pytest

from ivr_dist.orchestration import doctor
from ivr_dist.runtime import device, network_interface


def test_interfaces() -> None:
    assert network_interface.interfaces()["lo"] == "127.0.0.1"


def test_loopback() -> None:
    assert network_interface.is_loopback("127.0.1.1") and network_interface.is_loopback("::1")
    assert not network_interface.is_loopback("10.0.0.3") and not network_interface.is_loopback("fe80::1%eth0")


def named(monkeypatch: pytest.MonkeyPatch, address: str | None) -> None:
    """The host name stands for this address, or for none."""

    def look_up(host: str, port: None, *, type: int) -> list[object]:
        assert (host, type) == (socket.gethostname(), socket.SOCK_STREAM)
        if address is None:
            raise socket.gaierror(-2, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0))]

    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", look_up)


def test_gloo_takes_the_address_of_the_host_name(monkeypatch: pytest.MonkeyPatch) -> None:
    named(monkeypatch, "127.0.0.5")
    assert network_interface.gloo_address() == "127.0.0.5"
    # Not an address of this machine: documentation's own network (RFC 5737).
    named(monkeypatch, "203.0.113.9")
    assert network_interface.gloo_address() == "127.0.0.1"
    named(monkeypatch, None)
    assert network_interface.gloo_address() == "127.0.0.1"
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo,eth0")
    assert network_interface.gloo_address() == "127.0.0.1"
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "no-such0")
    assert network_interface.gloo_address() == ""


def test_doctor_tells_what_gloo_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    named(monkeypatch, None)
    found = doctor._network()
    assert (found.verdict, found.what) == ("note", "network")
    assert "gloo uses 127.0.0.1" in found.found and "GLOO_SOCKET_IFNAME" in found.remedy
    monkeypatch.setattr(network_interface, "gloo_address", lambda: "10.0.0.3")
    found = doctor._network()
    assert (found.verdict, found.found, found.remedy) == ("ok", found.found, "")
    assert "gloo uses 10.0.0.3" in found.found and "lo 127.0.0.1" in found.found
    monkeypatch.undo()
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "no-such0")
    found = doctor._network()
    assert found.verdict == "BAD" and "GLOO_SOCKET_IFNAME=no-such0" in found.found


def test_machines_that_others_cannot_reach() -> None:
    assert list(doctor._reachable({"one": "127.0.0.1"})) == [], "alone it need not be reached"
    assert list(doctor._reachable({"one": "10.0.0.1", "two": "10.0.0.2"})) == []
    (found,) = doctor._reachable({"one": "10.0.0.1", "two": "127.0.1.1", "three": ""})
    assert found.verdict == "BAD" and "three, two" in found.found


def test_doctor_tells_the_version_of_nccl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "available", lambda: False)
    assert device.describe_collectives() == "gloo"
    monkeypatch.setattr(device, "available", lambda: True)
    monkeypatch.setattr(device.torch.cuda.nccl, "version", lambda: (2, 27, 5))
    assert device.describe_collectives() == "gloo, NCCL 2.27.5"
