"""Headers of a machine's calls are those of docs/what-leaves.md, and no others; nothing goes anywhere else."""

import re
from pathlib import Path

from support.daemon import running_daemon, write_config
from support.endpoint import endpoint

PAGE = Path(__file__).parents[2] / "docs" / "what-leaves.md"


async def test_the_headers_of_the_page_are_those_that_are_sent(tmp_path: Path) -> None:
    part = PAGE.read_text().partition("\n## With each call\n")[2].partition("\n## ")[0]
    first = [line.split(" | ")[0] for line in part.splitlines() if line[:3] == "| `"]
    named = {name for cell in first for name in re.findall(r"`([^`]+)`", cell)}
    async with endpoint() as server:
        config = write_config(tmp_path, server.url, {"it": ["/bin/echo", "hello"]})
        async with running_daemon(config):
            server.hand_out({"id": "j", "dag_name": "it"})
            await server.until(lambda seen: "j" in seen.finished)
    sent = {name for request in server.requests for name in request.headers}
    others = {
        name
        for request in server.requests
        if request.call != "pull"
        for name in request.headers
    }

    assert sent == named
    assert others == named - {"prefer"}
