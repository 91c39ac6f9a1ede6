"""What changes a license: the endpoint's own word, and no page of a proxy however long it stands in the way."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from attrs import define

from support.clock import advance
from support.daemon import DaemonHere, running_daemon, write_config
from support.endpoint import Answer, Endpoint, Request, as_json, endpoint
from support.licenses import KEY, Issuer, config_lines
from support.torture import few
from support.until import in_time

HTML = {"content-type": "text/html"}
WORD = as_json({"message": "not any more"}, 401)
PAGES = {
    "a sign-on page": Answer(status=401, body=b"<html>Sign in</html>", headers=HTML),
    "a page": Answer(status=410, body=b"<html><h1>Gone</h1></html>", headers=HTML),
    "plain text": Answer(
        status=410, body=b"gone", headers={"content-type": "text/plain"}
    ),
    "nothing": Answer(status=401),
    "JSON without a message": as_json({"error": "unauthorized"}, 401),
    "a list": as_json(["message"], 410),
    "a redirect": Answer(status=302, headers={"location": "https://login.example/"}),
}


@define
class Site:
    """A machine with a license, and the endpoint that it has it from."""

    hub: Endpoint
    issuer: Issuer
    folder: Path
    config: Path
    page: Answer | None = None
    """What answers every call in the endpoint's place."""

    def answer(self, request: Request) -> Answer | None:
        return self.page or self.issuer.answer(request)

    def refused(self) -> object:
        """Return what the machine has written down of a refusal."""
        activation = self.folder / "state" / "activation.json"
        return json.loads(activation.read_text()).get("refused")

    async def run(self, job_id: str) -> None:
        self.hub.cut_held_polls()
        self.hub.hand_out({"id": job_id, "dag_name": "it"})
        await self.hub.until_finished(job_id)

    async def behind_the_page(self, page: Answer, daemon: DaemonHere) -> None:
        """Have a page in the way, for minutes, over a restart of the daemon."""
        self.page = page
        # The next heartbeat is a day away; each start asks anew.
        await daemon.stop()
        daemon.log_file.unlink()
        daemon.start()
        calls = len(self.hub.calls("license-heartbeat"))
        await in_time(lambda: len(self.hub.calls("license-heartbeat")) >= calls + 6)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    issuer, folder = Issuer(), tmp_path / "machine"
    async with endpoint() as hub:
        config = write_config(folder, hub.url, {"it": ["/bin/true"]})
        lines = [
            line
            for line in config.read_text().splitlines()
            if not line.startswith(("license_id", "server_id", "secret_file"))
        ]
        config.write_text("\n".join([*lines, config_lines(issuer)]))
        (folder / "key").write_text(KEY)
        found = Site(hub, issuer, folder, config)
        hub.script = found.answer
        yield found


@pytest.mark.parametrize("page", few(PAGES, 3))
async def test_a_page_does_not_change_a_license_and_pulling_is_back_at_once(
    site: Site, page: str
) -> None:
    async with running_daemon(site.config) as daemon:
        await site.run("before")
        await site.behind_the_page(PAGES[page], daemon)
        assert not site.refused()
        log = daemon.log_file.read_text()
        site.page = None
        # A minute at most, whatever the waits have grown to.
        await advance(61)
        await site.run("after")

    assert "deactivated" not in log
    assert "revoked" not in log
    assert "license_call_failed" in log
    assert "page?)" in log or "redirect" in log


async def test_a_gateways_json_does_not_change_a_license_of_an_endpoint_with_the_header(
    site: Site,
) -> None:
    """The token says that the endpoint has it, so that a machine that starts behind the gateway knows it too."""
    site.issuer.claims = {"contract_header": True}
    async with running_daemon(site.config) as daemon:
        await site.run("before")
        await site.behind_the_page(WORD, daemon)
        assert not site.refused()
        site.page = None
        await advance(61)
        await site.run("after")
        log = daemon.log_file.read_text()

    assert "it lacks the endpoint's header Dispatch-Contract (a proxy's" in log


@pytest.mark.parametrize("has_header", [True, False])
async def test_the_endpoints_own_word_counts_at_once(
    site: Site,
    has_header: bool,  # noqa: FBT001  # a column of the table
) -> None:
    site.issuer.claims = {"contract_header": has_header}
    async with running_daemon(site.config) as daemon:
        await site.run("before")
        header = {"dispatch_contract": "1"} if has_header else {}
        await daemon.stop()
        site.issuer.refusal = as_json({"message": "no more"}, 401, **header)
        daemon.start()
        line = await daemon.until_logged("license_blocked")

    assert "deactivated" in line["reason"]
    assert site.refused()


async def test_an_endpoint_that_went_back_to_a_release_without_the_header_is_believed(
    site: Site,
) -> None:
    site.issuer.claims = {"contract_header": True}
    async with running_daemon(site.config) as daemon:
        await site.run("before")
        site.issuer.claims = {}
        # Its next token says so.
        await daemon.stop()
        daemon.start()
        await site.run("between")
        await daemon.stop()
        site.issuer.refusal = WORD
        daemon.log_file.unlink()
        daemon.start()
        line = await daemon.until_logged("license_blocked")

    assert "deactivated" in line["reason"]
