"""What the proxy lets through: paths and lengths that are read in one way, headers up and down, and
what an answer may do in a browser.
"""

from __future__ import annotations

from http.cookies import CookieError, SimpleCookie

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection

# Of one connection alone.
HOP = {
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
}
NOT_UP = {"host", "authorization", "cookie", "origin", "referer", "forwarded"}
NOT_DOWN = {
    "server",
    "date",
    "content-security-policy",
    "content-security-policy-report-only",
    "x-frame-options",
    "x-content-type-options",
    "referrer-policy",
    "permissions-policy",
}
PAGE = (
    "default-src 'self'; connect-src 'self' ws://{host} blob:; "
    "media-src 'self' blob:; img-src 'self' data: blob:; "
    "style-src 'self' 'unsafe-inline'; script-src 'self'{more}; font-src 'self' data:; "
    "worker-src 'self' blob:; frame-src 'self' blob:; object-src 'none'; "
    "frame-ancestors 'none'; form-action 'self'; base-uri 'self'"
)
# An artifact is somebody's file: shown by itself, it runs nothing and asks for nothing
DATA = (
    "sandbox; default-src 'none'; img-src 'self' data: blob:; style-src 'unsafe-inline'; "
    "frame-ancestors 'self'; form-action 'none'; base-uri 'none'"
)
GUARDS = {
    # where the browser knows it: no early connection (`<link rel=preconnect>`), which no policy of
    # contents covers, neither of the page nor of an artifact that it shows in a frame
    "Connection-Allowlist": "(response-origin)",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-DNS-Prefetch-Control": "off",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
INTERFACES = frozenset(
    ("api", "ajax-api", "graphql", "get-artifact", "model-versions", "metrics", "v1", "gateway")
)


def guards(host: str, scripts: str | None) -> dict[str, str]:
    """Headers of an answer of `host`: of a page, whose scripts may do so much more; of data for
    None.
    """
    policy = DATA if scripts is None else PAGE.format(host=host, more=scripts)
    frames = "SAMEORIGIN" if scripts is None else "DENY"
    return {"Content-Security-Policy": policy, "X-Frame-Options": frames, **GUARDS}


def is_page(path: str) -> bool:
    """Whether a path is a page that is opened, not an interface behind one: a page of another port
    may open those that we have, but ask nothing by it.
    """
    return not INTERFACES & set(path.split("/"))


def is_ambiguous(call: HTTPConnection) -> bool:
    """Whether the server behind may read an address, or where its body ends, otherwise than we do:
    what is no path, leads upwards or to an empty name at its start, or says its length twice."""
    raw = call.scope.get("raw_path") or call.url.path.encode()
    path = call.scope["path"].replace("\\", "/")
    dots = {".", ".."} & {segment.partition(";")[0] for segment in path.split("/")}
    lengths = call.headers.getlist("content-length")
    twice = len(lengths) > 1 or (lengths and "transfer-encoding" in call.headers)
    odd_length = bool(lengths) and not (lengths[0].isascii() and lengths[0].isdigit())
    odd_path = not raw.startswith(b"/") or raw.startswith(b"//") or bool(dots)
    return bool(odd_path or twice or odd_length)


def cookies_of(headers: Headers) -> dict[str, str]:
    """Names and values of a call's cookies; none where they cannot be read."""
    try:
        return {name: one.value for name, one in SimpleCookie(headers.get("cookie", "")).items()}
    except CookieError:
        return {}


def named_in(connection: str) -> set[str]:
    """Headers that hold for one connection alone, as its header `Connection` says."""
    return {name.strip().lower() for name in connection.split(",")}
