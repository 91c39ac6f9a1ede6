"""Causes of a request without an answer, and the places where it failed."""

from enum import StrEnum

import httpx
from attrs import frozen

from dispatchd.agent.endpoint.transport import TransportSettings
from dispatchd.network.connection_trace import ConnectionTrace, Stage
from dispatchd.network.proxies import Proxy, authority, port_of


class Kind(StrEnum):
    """Cause of a missing answer."""

    NAME_RESOLUTION = "name_resolution"  # the endpoint's name can't be resolved here
    REFUSED = "refused"  # the machine answers, and nothing listens
    UNREACHABLE = "unreachable"  # no route, or no answer to the connection attempt
    PROXY_UNRESOLVED = "proxy_unresolved"  # the proxy's name can't be resolved here
    PROXY_REFUSED = "proxy_refused"  # nothing listens at the proxy's address
    PROXY_UNREACHABLE = "proxy_unreachable"  # no route to the proxy, or no answer
    PROXY_WANTS_AUTHENTICATION = "proxy_wants_authentication"  # 407
    PROXY_FORBIDS = "proxy_forbids"  # 403 to CONNECT
    PROXY_FAILED = "proxy_failed"  # another answer to CONNECT
    UNTRUSTED = "untrusted"  # no trusted CA has signed the certificate
    CERTIFICATE_EXPIRED = "certificate_expired"
    CERTIFICATE_NOT_YET_VALID = "certificate_not_yet_valid"
    HOSTNAME_MISMATCH = "hostname_mismatch"  # a valid certificate for another host
    CLIENT_CERTIFICATE_REQUIRED = "client_certificate_required"
    CLIENT_CERTIFICATE_REFUSED = "client_certificate_refused"
    TLS_VERSION = "tls_version"  # no version in common
    NOT_TLS = "not_tls"  # the answer isn't TLS
    TLS_FAILED = "tls_failed"  # any other end of a handshake
    NOT_HTTP = "not_http"  # the answer isn't HTTP
    RESET = "reset"
    CLOSED = "closed"  # without an answer
    TIMEOUT = "timeout"  # connected, and no complete answer in time
    FILES_UNUSABLE = "files_unusable"  # a certificate, key or credentials file
    FOREIGN_ORIGIN = "foreign_origin"  # refused here: it would go to another server
    OTHER = "other"


@frozen(kw_only=True)
class Explanation:
    """Cause of a failure, for the program (`kind`) and for a person (`message`, one line)."""

    kind: Kind
    message: str


@frozen(kw_only=True)
class Place:
    """Place of a failure: the other end, and the stage of the request."""

    stage: Stage
    fresh: bool
    endpoint: httpx.URL
    proxy: Proxy | None
    with_proxy: bool

    @property
    def target(self) -> str:
        """Host and port of the endpoint."""
        return authority(self.endpoint.host, port_of(self.endpoint))

    @property
    def peer(self) -> str:
        """Other end of the connection that failed, in words."""
        if self.with_proxy and self.proxy is not None:
            return self.proxy_name
        return f"the endpoint {self.target}"

    @property
    def proxy_name(self) -> str:
        """The proxy, and the setting or variable that names it."""
        if self.proxy is None:
            return "the proxy"
        return f"the proxy {self.proxy.at} (from {self.proxy.source})"


def place_of(error: BaseException, settings: TransportSettings) -> Place:
    """Return the place where a request failed, as its error shows it."""
    trace: object = None
    if isinstance(error, httpx.RequestError):
        try:
            trace = error.request.extensions.get("trace")
        except RuntimeError:  # it has none
            trace = None
    if not isinstance(trace, ConnectionTrace):
        trace = ConnectionTrace(proxy=None)
    return Place(
        stage=trace.stage,
        fresh=trace.fresh,
        endpoint=httpx.URL(settings.url),
        proxy=trace.proxy,
        with_proxy=trace.with_proxy,
    )
