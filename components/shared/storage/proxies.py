"""The proxy that the environment names: which it is, and whether what is installed can use it."""

from importlib.util import find_spec
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from components.shared.storage.downloads import shown
from components.shared.telling.errors import InputError

REQUESTS = ("socks", "PySocks")
HTTPX = ("socksio", "socksio")
"""Module and package that each HTTP library needs for SOCKS."""


def proxy_of(url: str) -> str:
    """Return the proxy that requests for ``url`` go through; empty for none."""
    parts = urlsplit(url)
    proxies = getproxies()
    proxy = proxies.get(parts.scheme.lower()) or proxies.get("all") or ""
    return "" if not proxy or proxy_bypass(parts.netloc.rpartition("@")[2]) else proxy


def through(url: str) -> str:
    """Say which proxy requests go through; empty for none."""
    proxy = proxy_of(url)
    return f" through the proxy {_bare(proxy)}" if proxy else ""


def check_proxy(url: str, where: str, needs: tuple[str, str]) -> None:
    """Check that the proxy for ``url`` can be used: one of SOCKS needs a package.

    Raises:
        InputError: it is a SOCKS proxy, and its package is not installed.
    """
    if (socks := _socks(url)) and find_spec(needs[0]) is None:
        raise InputError(
            f"{where}: {socks}, which needs the package {needs[1]}; install it "
            f"(pip install {needs[1]}), or name an HTTP proxy"
        )


def check_no_socks(url: str, where: str) -> None:
    """Check that the proxy for ``url`` is none of SOCKS, for a client that cannot use one."""
    if socks := _socks(url):
        raise InputError(
            f"{where}: {socks}, which the client of S3 cannot use; name an HTTP proxy, or the "
            "store's host in no_proxy"
        )


def _socks(url: str) -> str:
    """Say which proxy for ``url`` is one of SOCKS, and where it is named; empty for none."""
    proxy, scheme = proxy_of(url), urlsplit(url).scheme.lower()
    if not proxy.lower().startswith("socks"):
        return ""
    variable = f"{scheme}_proxy" if getproxies().get(scheme) == proxy else "all_proxy"
    return f"the proxy {_bare(proxy)} of the environment ({variable}) is SOCKS"


def _bare(proxy: str) -> str:
    return shown(proxy).rstrip("/")
