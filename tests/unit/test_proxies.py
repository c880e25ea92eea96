"""The client's address: what proxies say counts where they are trusted, and nothing else anybody writes does."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushwire_gateway.proxies import HOPS_MAX, Proxies
from pushwire_gateway.settings import ConfigError, load

NETWORKS = [ip_network(text) for text in ("10.0.0.0/8", "192.168.1.1/32", "2001:db8:aaaa::/48")]
XFF = Proxies(NETWORKS)
FORWARDED = Proxies(NETWORKS, "forwarded")
PROXY, CLIENT, EVIL = "10.0.0.1", "203.0.113.9", "198.51.100.66"


def xff(*lines: str) -> list[tuple[bytes, bytes]]:
    return [(b"x-forwarded-for", line.encode("latin-1")) for line in lines]


def forwarded(*lines: str) -> list[tuple[bytes, bytes]]:
    return [(b"forwarded", line.encode("latin-1")) for line in lines]


@pytest.mark.parametrize(
    ("peer", "lines", "client"),
    [
        (PROXY, [], PROXY),
        (PROXY, [CLIENT], CLIENT),
        (PROXY, [f"{EVIL}, {CLIENT}"], CLIENT),
        (PROXY, [EVIL, CLIENT], CLIENT),
        (PROXY, [f"{EVIL},{CLIENT},10.1.1.1, 192.168.1.1"], CLIENT),
        (PROXY, [f"{EVIL}, 10.9.9.9, {CLIENT}"], CLIENT),
        (PROXY, ["10.2.2.2, 10.1.1.1"], "10.2.2.2"),
        ("2001:db8:aaaa::1", ["2001:DB8:0:0::9"], "2001:db8::9"),
        ("::ffff:10.0.0.1", [CLIENT], CLIENT),
        ("2001:db8:aaaa::1%eth0", [CLIENT], CLIENT),
        (PROXY, [f"::ffff:{CLIENT}"], CLIENT),
        (PROXY, [f"{EVIL}, ::ffff:10.1.1.1"], EVIL),  # trusted in its IPv6 form too: its word is EVIL
        (PROXY, [f"{CLIENT}:41234"], CLIENT),
        (PROXY, ["[2001:db8::7]:443"], "2001:db8::7"),
        (PROXY, ["[2001:db8::7]"], "2001:db8::7"),
        # What names no address is not passed: the proxy that wrote it is what is known.
        (PROXY, [f"{EVIL}, unknown"], PROXY),
        (PROXY, [f"{EVIL}, unknown, 10.1.1.1"], "10.1.1.1"),
        (PROXY, [f"{EVIL}, "], PROXY),
        (PROXY, [f"{EVIL},"], PROXY),
        (PROXY, [""], PROXY),
        (PROXY, [f"{EVIL}, 10.1.1.1.evil.io"], PROXY),
        (PROXY, [f"{EVIL}, 010.001.001.001"], PROXY),
        (PROXY, [f"{EVIL}, 167837953"], PROXY),
        (PROXY, [f"{EVIL}, 10.1.1.1/8"], PROXY),
        (PROXY, [f"{EVIL}, fe80::1%eth0"], PROXY),
        (PROXY, [f"{EVIL}, 10.1.1.1:99999999"], PROXY),
        (PROXY, [f"{EVIL}, [10.1.1.1]"], PROXY),
        (PROXY, [f"{EVIL}, 10.1.1.1\x00"], PROXY),
        (PROXY, [f"{EVIL}, \xb2\xb2.1.1.1"], PROXY),
        # Not from a proxy: nothing that is written counts.
        (EVIL, [CLIENT], EVIL),
        (EVIL, ["10.0.0.1"], EVIL),
        ("192.168.1.2", [CLIENT], "192.168.1.2"),
        ("2001:db8:aaab::1", [CLIENT], "2001:db8:aaab::1"),
        ("", [CLIENT], ""),
        ("/run/gateway.sock", [CLIENT], "/run/gateway.sock"),
    ],
)
def test_the_right_most_untrusted_hop_is_the_client(peer, lines, client):
    assert XFF.client_address(peer, xff(*lines)) == client


@pytest.mark.parametrize(
    ("lines", "client"),
    [
        ([f"for={CLIENT}"], CLIENT),
        ([f"for={EVIL}, for={CLIENT}"], CLIENT),
        ([f"for={EVIL}", f"FOR={CLIENT};proto=https;by=10.0.0.1"], CLIENT),
        ([f"for={CLIENT};proto=https, for=10.1.1.1"], CLIENT),
        (['for="[2001:db8:cafe::17]:4711"'], "2001:db8:cafe::17"),
        (['for="[2001:db8:cafe::17]"'], "2001:db8:cafe::17"),
        ([f'for="{CLIENT}:80";host="a,b;c=d"'], CLIENT),
        ([rf'for="{CLIENT[:-1]}\{CLIENT[-1]}"'], CLIENT),
        ([f'for={EVIL}, host="a\\",for={EVIL}";for={CLIENT}'], CLIENT),
        # A quote left open does not swallow what a proxy wrote behind it.
        ([f'for="{EVIL}, for={CLIENT}'], CLIENT),
        ([f'for="{EVIL}', f"for={CLIENT}"], CLIENT),
        ([f'for={EVIL};x=", for="[2001:db8::5]:1"'], "2001:db8::5"),
        ([f'"\\, for={CLIENT}'], CLIENT),
        # No address, or no grammar.
        ([f"for={EVIL}, for=unknown"], PROXY),
        ([f"for={EVIL}, for=_hidden"], PROXY),
        ([f"for={EVIL}, proto=https"], PROXY),
        ([f"for={EVIL}, for={CLIENT};for={EVIL}"], PROXY),
        ([f"for={EVIL}, for={CLIENT};"], PROXY),
        ([f"for={EVIL}, for=2001:db8::1"], PROXY),  # RFC 7239 §6: IPv6 is quoted and bracketed
        ([f"for={EVIL}, for = {CLIENT}"], PROXY),
        ([f"for={EVIL}, {CLIENT}"], PROXY),
        ([f"for={EVIL},"], PROXY),
        ([""], PROXY),
    ],
)
def test_forwarded_says_the_same_by_its_own_grammar(lines, client):
    assert FORWARDED.client_address(PROXY, forwarded(*lines)) == client
    assert FORWARDED.client_address(CLIENT, forwarded(*lines)) == CLIENT


def test_the_header_that_the_proxies_do_not_write_is_the_clients_own():
    both = [*xff(CLIENT), *forwarded(f"for={EVIL}")]
    assert XFF.client_address(PROXY, both) == CLIENT
    assert FORWARDED.client_address(PROXY, both) == EVIL
    assert XFF.client_address(PROXY, forwarded(f"for={EVIL}")) == PROXY


def test_without_trusted_proxies_the_socket_is_believed():
    nobody = Proxies()
    assert not nobody.trusts("127.0.0.1")
    assert nobody.client_address("127.0.0.1", xff(EVIL)) == "127.0.0.1"


def test_a_chain_is_followed_so_far_and_no_farther():
    trusted = ["10.1.1.1"] * (HOPS_MAX - 1)
    assert XFF.client_address(PROXY, xff(", ".join([EVIL, CLIENT, *trusted]))) == CLIENT
    assert XFF.client_address(PROXY, xff(", ".join([EVIL, CLIENT, "10.3.3.3", *trusted]))) == "10.3.3.3"
    names = [f"for={hop}" for hop in (EVIL, CLIENT, "10.3.3.3", *trusted)]
    assert FORWARDED.client_address(PROXY, forwarded(", ".join(names))) == "10.3.3.3"


@pytest.mark.parametrize(
    "junk", ['"' * 16_000, '\\"' * 8_000, "," * 16_000, 'a="' * 5_000, "for=" * 4_000, " " * 16_000]
)
def test_a_head_full_of_junk_hides_no_client(junk):
    assert FORWARDED.client_address(PROXY, forwarded(junk, f"for={CLIENT}")) == CLIENT
    assert XFF.client_address(PROXY, xff(junk, CLIENT)) == CLIENT


@given(st.text(st.characters(min_codepoint=0, max_codepoint=255), max_size=60))
def test_whatever_a_client_writes_what_its_proxy_saw_counts(text):
    assert XFF.client_address(PROXY, xff(text, CLIENT)) == CLIENT
    assert XFF.client_address(PROXY, xff(f"{text}, {CLIENT}")) == CLIENT
    assert FORWARDED.client_address(PROXY, forwarded(text, 'for="[2001:db8::1]:80";host="a,b"')) == "2001:db8::1"
    assert XFF.client_address(EVIL, xff(text)) == EVIL


def test_networks_come_from_the_settings():
    chosen = load(trusted_proxies=("10.0.0.0/8", "2001:db8::/32"), proxy_header="forwarded")
    proxies = Proxies(chosen.trusted_proxies, chosen.proxy_header)
    assert proxies.trusts("10.20.30.40")
    assert proxies.trusts("2001:db8:1::1")
    assert not proxies.trusts("11.0.0.1")
    assert proxies.client_address("10.1.1.1", forwarded(f"for={CLIENT}")) == CLIENT


@pytest.mark.parametrize(
    "network", ["0.0.0.0/0", "::/0", "10.0.0.1/8", "10.0.0.0/33", "localhost", "", "10.0.0.0-10.0.0.9"]
)
def test_settings_refuse_networks_that_are_none_or_everybody(network):
    with pytest.raises(ConfigError, match="trusted_proxies"):
        load(trusted_proxies=(network,))
