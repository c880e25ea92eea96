"""The counters of caps.py: what is counted as what, and that nothing is given back twice."""

from __future__ import annotations

from typing import Any

import pytest

from pushwire_gateway.caps import Admission, Caps, network_of
from pushwire_gateway.settings import load


def caps(**settings: Any) -> Caps:
    return Caps(load(**settings), descriptors=100_000)


def admitted(counters: Caps, ip: str) -> Admission:
    admission = counters.connect(ip)
    assert isinstance(admission, Admission), admission
    return admission


@pytest.mark.parametrize(
    ("network", "addresses"),
    [
        ("c0000201", ["192.0.2.1", "::ffff:192.0.2.1", "::FFFF:c000:201", "::ffff:192.0.2.1%eth0"]),
        ("c0000202", ["192.0.2.2"]),
        ("20010db800010002", ["2001:db8:1:2::1", "2001:DB8:1:2:ffff::9", "2001:db8:1:2:3:4:5:6%eth0"]),
        ("20010db800010003", ["2001:db8:1:3::1"]),
        ("fe80000000000000", ["fe80::1%eth0", "fe80::2%eth1", "fe80::3"]),
        ("00000001", ["0.0.0.1"]),
        ("0000000000000000", ["::1", "::"]),
        ("00000000", ["0.0.0.0"]),
        ("", ["", "unix:", "a\0b", "\ud800", "1.2.3", "01.2.3.4", "999.1.1.1", "1.2.3.4%eth0", "1::2::3"]),
    ],
)
def test_an_ipv6_site_and_a_mapped_ipv4_address_count_as_one(network, addresses):
    assert {network_of(address) for address in addresses} == {bytes.fromhex(network)}


def test_each_cap_refuses_by_its_name_and_opens_again():
    counters = caps(connections_max=4, connections_per_ip=3, unauthenticated_per_ip=2, unauthenticated_max=3)
    first, second = admitted(counters, "192.0.2.1"), admitted(counters, "192.0.2.1")
    assert counters.connect("192.0.2.1") == "unauthenticated_address"
    first.authenticated()
    third = admitted(counters, "192.0.2.1")
    second.authenticated()
    assert counters.connect("192.0.2.1") == "address"
    admitted(counters, "192.0.2.2")
    assert counters.connect("192.0.2.2") == "total"
    third.release()
    assert (counters.connections, counters.unauthenticated) == (3, 1)
    admitted(counters, "192.0.2.1").authenticated()


def test_the_total_of_unauthenticated_connections_has_its_own_cap():
    counters = caps(unauthenticated_max=2)
    one = admitted(counters, "192.0.2.1")
    admitted(counters, "192.0.2.2")
    assert counters.connect("192.0.2.3") == "unauthenticated"
    one.authenticated()
    admitted(counters, "192.0.2.3")


def test_a_place_cannot_be_given_back_twice():
    counters = caps()
    kept, given_back = admitted(counters, "192.0.2.1"), admitted(counters, "192.0.2.1")
    given_back.release()
    given_back.release()
    given_back.authenticated()
    kept.authenticated()
    kept.authenticated()
    assert (counters.connections, counters.unauthenticated) == (1, 0)
    kept.release()
    assert (counters.connections, counters.unauthenticated) == (0, 0)
    assert len(counters._by_address) == len(counters._unauthenticated_by_address) == 0


def test_zero_turns_the_cap_by_address_off():
    counters = caps(connections_per_ip=0, unauthenticated_per_ip=1)
    for _ in range(200):
        admitted(counters, "192.0.2.1").authenticated()
    assert counters.connections == 200


def test_a_subject_has_its_places_within_its_tenant():
    counters = caps()
    seats = [counters.take_subject("a", "ann", 2) for _ in range(2)]
    assert all(seats)
    assert counters.take_subject("a", "ann", 2) is None
    assert counters.take_subject("b", "ann", 2) is not None
    seats[0].release()
    seats[0].release()
    assert counters.take_subject("a", "ann", 2) is not None
    assert counters.take_subject("a", "ann", 2) is None


def test_descriptors_bound_the_total():
    assert Caps(load(), descriptors=1512).connections_max == 1000
    assert Caps(load(connections_max=7), descriptors=1512).connections_max == 7
    assert Caps(load(), descriptors=64).connections_max == 16
    assert Caps(load()).connections_max >= 16  # as the system says
