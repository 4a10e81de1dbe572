"""A proxy of the environment is never asked for what is on this machine."""

from __future__ import annotations

import os
import urllib.request

NAMES = ("no_proxy", "NO_PROXY")  # where both are set, libraries read the first
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def spare_loopback() -> None:
    """Add this machine's own addresses to what goes to no proxy, where a proxy is set.

    Behind a proxy, as in most hospitals, the requests to Prefect's server on this machine would go
    there and come back as its error page. Hosts that a person excepted stay excepted.
    """
    if not urllib.request.getproxies_environment().keys() - {"no"}:
        return
    stated = next((os.environ[name] for name in NAMES if os.environ.get(name)), "")
    hosts = [host.strip() for host in stated.split(",") if host.strip()]
    if "*" in hosts:
        return
    together = ",".join([*hosts, *(own for own in LOOPBACK if own not in hosts)])
    os.environ.update(dict.fromkeys(NAMES, together))
