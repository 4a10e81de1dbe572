"""Which headers pass the proxy, and which it adds: what an answer may do in a browser."""

from __future__ import annotations

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
    "default-src 'self'; connect-src 'self' ws://127.0.0.1:{port} blob:; "
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


def is_page(path: str) -> bool:
    """Whether a path is a page that is opened, not an interface behind one: a page of another port
    may open those that we have, but ask nothing by it.
    """
    return not INTERFACES & set(path.split("/"))
