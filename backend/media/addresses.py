"""Which IP addresses belong to the open internet, and how messages show an address.

An allow-list: global unicast, minus the special-purpose registries of IANA as of 2025-10, in a table of ours, since
Python's own differs from release to release. What is reachable in principle but serves no images (anycast of
protocols, relays, a cloud's own services) is left out too.
"""

from __future__ import annotations

import ipaddress

import httpx

_V4_SPECIAL = (
    "0.0.0.0/8",  # this network
    "10.0.0.0/8",  # private
    "100.64.0.0/10",  # shared by carriers; one cloud's metadata
    "127.0.0.0/8",  # loopback
    "168.63.129.16/32",  # a cloud's own services, in a public range
    "169.254.0.0/16",  # link-local; most clouds' metadata
    "172.16.0.0/12",  # private
    "192.0.0.0/24",  # protocol assignments, the dummy address, one cloud's metadata
    "192.0.2.0/24",  # documentation
    "192.31.196.0/24",  # AS112
    "192.52.193.0/24",  # AMT
    "192.88.99.0/24",  # 6to4 relays, deprecated
    "192.168.0.0/16",  # private
    "192.175.48.0/24",  # AS112
    "198.18.0.0/15",  # benchmarking
    "198.51.100.0/24",  # documentation
    "203.0.113.0/24",  # documentation
    "224.0.0.0/4",  # multicast
    "240.0.0.0/4",  # reserved, broadcast
)
_V6_GLOBAL = "2000::/3"  # all that IANA has given out as unicast; fc00::/7, fe80::/10, fec0::/10, ff00::/8 lie outside
_V6_SPECIAL = (
    "2001::/23",  # protocol assignments: Teredo, benchmarking, ORCHID, AMT, drones
    "2001:db8::/32",  # documentation
    "2002::/16",  # 6to4: an IPv4 address inside, any one
    "2620:4f:8000::/48",  # AS112
    "3fff::/20",  # documentation
)
_V4 = tuple(ipaddress.IPv4Network(net) for net in _V4_SPECIAL)
_V6 = tuple(ipaddress.IPv6Network(net) for net in _V6_SPECIAL)
_GLOBAL = ipaddress.IPv6Network(_V6_GLOBAL)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # an IPv4 address as networks without IPv4 write it


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the open internet: not private, loopback, link-local (metadata) or reserved."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv4Address):
        return not any(ip in net for net in _V4)
    if ip.ipv4_mapped is not None or ip in _NAT64:
        return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
    return ip in _GLOBAL and not any(ip in net for net in _V6)


def public_url(url: str) -> str:
    """An address as messages and logs show it: without user, password and query, where credentials stand."""
    try:
        parts = httpx.URL(url)
    except (httpx.InvalidURL, UnicodeError):
        return "an address that is no URL"
    return f"{parts.scheme}://{parts.host}{f':{parts.port}' if parts.port else ''}{parts.path}"[:160]


def same_origin(first: str, second: str) -> bool:
    """Whether two addresses have one scheme, host and port, as the connection is made: by one parser."""
    try:
        origins = [(url.scheme, url.host, port_of(url)) for url in (httpx.URL(first), httpx.URL(second))]
    except (httpx.InvalidURL, UnicodeError):
        return False
    return origins[0] == origins[1]


def port_of(url: httpx.URL) -> int:
    return url.port or (443 if url.scheme == "https" else 80)
