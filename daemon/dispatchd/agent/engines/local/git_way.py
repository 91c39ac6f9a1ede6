"""Git's connection to a server: proxy, CAs and client certificate, as settings of git (git-config(1), http.*).

They are passed in git's environment, including the proxy's password, which is in no argument and in no file.
"""

import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, Self

import httpx
from attrs import field, frozen

from dispatchd.agent.config.load import Config
from dispatchd.network.proxies import (
    Proxy,
    ProxySetting,
    check_proxy,
    find_proxy,
    is_excepted,
    parsed,
    read_credentials,
    use_proxy,
)

DIRECT: Final = "none"
"""Value of `checkout.proxy` for a connection without any proxy."""

_BUNDLE: Final = "ca.pem"


@frozen(kw_only=True)
class GitSettings:
    """Settings of one git, and the secrets in them."""

    settings: Mapping[str, str] = field(repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)


@frozen(kw_only=True)
class GitWay:
    """Git's connection to servers: as the daemon's to its endpoint, except for the settings of `[checkout]`.

    `proxy` is that of `[checkout]`, `cloud_proxy` that of `[cloud]`. NO_PROXY makes exceptions from `cloud_proxy` here,
    because a repository is on another host than the endpoint. Each has its file with credentials. Without either the
    environment decides.
    """

    proxy: str = ""
    proxy_credentials_file: Path | None = None
    cloud_proxy: str = ""
    cloud_credentials_file: Path | None = None
    ca_file: Path | None = None
    client_cert_file: Path | None = None
    client_key_file: Path | None = None
    environment: Mapping[str, str] = field(factory=dict, repr=False)

    @classmethod
    def of(cls, config: Config, environment: Mapping[str, str]) -> Self:
        """Return the connection settings of a configuration; `environment` is the daemon's own."""
        cloud, checkout, folder = config.cloud, config.checkout, config.file.parent

        def path(name: str) -> Path | None:
            return folder / name if name else None

        return cls(
            proxy=checkout.proxy,
            proxy_credentials_file=path(checkout.proxy_credentials_file),
            cloud_proxy=cloud.proxy,
            cloud_credentials_file=path(cloud.proxy_credentials_file),
            ca_file=path(checkout.ca_file or cloud.ca_file),
            client_cert_file=path(cloud.client_cert_file),
            client_key_file=path(cloud.client_key_file),
            environment=environment,
        )

    def problems(self, url: str) -> Iterator[tuple[str, str]]:
        """Yield configuration key and expected value for each setting of an address that can't be used now."""
        try:
            proxy = self.proxy_setting(url)
        except httpx.InvalidURL as error:
            yield "checkout_url", f"must be a URL ({error})"
            return
        if proxy is not None:
            yield from check_proxy(proxy, "checkout.proxy")
        if self.proxy_credentials_file is not None:
            try:
                read_credentials(self.proxy_credentials_file)
            except OSError as error:
                file = self.proxy_credentials_file
                expected = f"must be a readable file: {file}: {error.strerror}"
                yield "checkout.proxy_credentials_file", expected
            except ValueError as error:
                yield "checkout.proxy_credentials_file", str(error)

    def proxy_setting(self, url: str) -> ProxySetting | None:
        """Return the proxy for the address of a repository as it is written in its source, or None for none."""
        where = parsed(url)
        if self.proxy == DIRECT:
            return None
        if self.proxy:
            return find_proxy(where, self.proxy, {}, "checkout.proxy")
        if self.cloud_proxy and is_excepted(where, self.environment):
            return None
        return find_proxy(where, self.cloud_proxy, self.environment)

    def used_proxy(self, url: str) -> Proxy | None:
        """Return the proxy for an address, with its current credentials.

        Raises:
            OSError: The proxy's file can't be read.
            ValueError: The proxy or its file can't be used.
        """
        proxy = self.proxy_setting(url)
        if proxy is None:
            return None
        own = self.proxy_credentials_file if self.proxy else self.cloud_credentials_file
        return use_proxy(proxy, own)

    def settings(self, url: str, scratch: Path) -> GitSettings:
        """Return git's settings for an address, from the current content of files. Blocks.

        Args:
            url: The repository's address.
            scratch: A folder of this attempt, mode 0700, for the CAs.

        Raises:
            OSError: A file can't be read.
            ValueError: A file or the proxy can't be used.
        """
        proxy = self.used_proxy(url)
        cas = self._certificates(scratch)
        settings = {
            # An empty value means no proxy.
            "http.proxy": "" if proxy is None else proxy.full_url,
            **cas,
        }
        if proxy is not None and "http.sslCAInfo" in cas:
            settings["http.proxySSLCAInfo"] = cas["http.sslCAInfo"]
        if self.client_cert_file is not None:
            settings["http.sslCert"] = str(self.client_cert_file)
            key = self.client_key_file or self.client_cert_file
            settings["http.sslKey"] = str(key)
        auth = None if proxy is None else proxy.auth
        if auth is not None:
            # As in the daemon: credentials go with the first request, not after a challenge.
            settings["http.proxyAuthMethod"] = "basic"
        return GitSettings(
            settings=settings, secrets=(auth[1],) if auth and auth[1] else ()
        )

    def _certificates(self, scratch: Path) -> dict[str, str]:
        """Return the settings for the CAs: those of the system beside those that are configured.

        A repository may be on any host, so the CA of the endpoint alone isn't enough.
        """
        # OpenSSL, and so the daemon, reads that variable; libcurl, and so git, doesn't.
        of_variable = self.environment.get("SSL_CERT_FILE", "")
        if self.ca_file is None and not of_variable:
            return {}
        system = ssl.get_default_verify_paths()
        files = [self.ca_file, Path(of_variable or system.cafile or "/dev/null")]
        bundle = scratch / _BUNDLE
        texts = [_read(file).rstrip() for file in files if file is not None]
        bundle.write_bytes(b"\n".join(texts) + b"\n")
        settings = {"http.sslCAInfo": str(bundle)}
        if system.capath:
            settings["http.sslCAPath"] = system.capath
        return settings


def _read(file: Path) -> bytes:
    """Return the content of a file with CAs.

    Raises:
        OSError: It can't be read; the text names it.
    """
    try:
        return file.read_bytes()
    except OSError as error:
        reason = f"the CA file {file} can't be read ({error.strerror})"
        raise OSError(error.errno, reason) from error
