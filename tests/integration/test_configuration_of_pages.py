"""Each configuration on a page is read by what reads it: here, or by the test that is named."""

import json
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.cli import dispatchd
from support.documentation import PAGES, ROOT, fences
from support.toy import installed

LANGUAGES = {"toml", "yaml", "ini", "python", "mermaid"}

CLOUD = """
[cloud]
url = "https://hub.example.org"
license_id = "lic-0000"
server_id = "m1"
secret_file = "machine-secret"
"""


def of_a_daemon(text: str, folder: Path) -> None:
    file = folder / "config.toml"
    file.write_text(text if "[cloud]" in text else CLOUD + text)

    done = dispatchd("config", "check", "--portable", str(file))

    assert done.returncode == 0, done


def of_an_engines_package(text: str, _: Path) -> None:
    theirs = (ROOT / "examples" / "engine" / "pyproject.toml").read_text()
    [group] = tomllib.loads(text)["project"]["entry-points"]

    assert group in tomllib.loads(theirs)["project"]["entry-points"]


def loaded(text: str) -> Any:
    yaml: Any = pytest.importorskip("yaml")
    return yaml.safe_load(text)


def of_dagu(text: str, _: Path) -> None:
    """Compare it with the file that Dagu reads in the tests of its engine."""
    whole = loaded((ROOT / "examples" / "dagu.yaml").read_text())

    assert whole | loaded(text) == whole


def of_pre_commit(text: str, _: Path) -> None:
    hooks = loaded((ROOT / ".pre-commit-hooks.yaml").read_text())
    [repository] = loaded(text)["repos"]
    [hook] = repository["hooks"]

    assert hook["id"] in [each["id"] for each in hooks]
    assert re.search(hook["files"], "machines/m1.toml")


def of_ansible(text: str, folder: Path) -> None:
    file = folder / "inventory.ini"
    file.write_text(text)
    listed = run("ansible-inventory", "--list", "--inventory", str(file))
    groups = json.loads(listed.stdout)

    assert groups["dispatchd_machines"]["hosts"] == ["build-1", "build-2"]
    assert groups["hub"]["hosts"] == ["hub.example.org"]


def of_podman(text: str, folder: Path) -> None:
    """Let root's podman read it, which needs the folders besides."""
    file = folder / "storage.conf"
    own = "".join(f'{name} = "{folder / name}"\n' for name in ("graphroot", "runroot"))
    file.write_text(text.replace("[storage]\n", f"[storage]\n{own}"))
    info = run(
        "podman", "info", "--format={{json .Store}}", CONTAINERS_STORAGE_CONF=str(file)
    )
    store = json.loads(info.stdout)

    assert store["graphDriverName"] == "overlay"
    assert store["graphOptions"] == {"overlay.ignore_chown_errors": "true"}


def run(*command: str, **env: str) -> subprocess.CompletedProcess[str]:
    if shutil.which(command[0]) is None:
        pytest.skip(f"needs {command[0]}")
    return subprocess.run(
        command,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )


HERE: dict[tuple[str, str], list[Callable[[str, Path], None]]] = {
    ("README.md", "toml"): [of_a_daemon],
    ("docs/engines.md", "toml"): [
        *(of_a_daemon, of_a_daemon, of_an_engines_package, of_a_daemon),
    ],
    ("docs/engines.md", "yaml"): [of_dagu],
    ("docs/how-to/many-machines.md", "ini"): [of_ansible],
    ("docs/operating.md", "yaml"): [of_pre_commit],
    ("docs/security.md", "toml"): [of_podman],
    ("examples/engine/README.md", "toml"): [of_a_daemon],
}
"""Page and language -> a reader for each of these fences, in their order."""

ANYWHERE = {of_a_daemon, of_an_engines_package, of_dagu, of_pre_commit}
"""Readers that need nothing of the machine."""

ELSEWHERE = {
    ("docs/architecture.md", "mermaid"): (3, "unit/test_architecture.py"),
    ("docs/client.md", "python"): (8, "integration/test_client.py"),
    ("docs/github.md", "toml"): (2, "unit/test_github_docs.py"),
    ("docs/hub.md", "toml"): (1, "unit/test_schedules.py"),
    ("docs/login.md", "toml"): (2, "unit/test_login_docs.py"),
    ("docs/vendor.md", "python"): (2, "support/vendor.py"),
    ("docs/vendor.md", "toml"): (1, "support/vendor.py"),
    ("docs/webhooks.md", "toml"): (4, "unit/test_webhooks.py"),
}
"""Page and language -> how many fences, and the file below `tests` that has them read."""

NOT_READ = {
    (
        "docs/webhooks.md",
        "yaml",
    ): "Alertmanager isn't there; what it sends is (test_hub_webhooks.py)",
}


def found(page: str, language: str) -> list[str]:
    return [each.content for each in fences(page) if each.info == language]


def test_every_configuration_has_a_reader() -> None:
    there = {
        (page, fence.info): len(found(page, fence.info))
        for page in PAGES
        for fence in fences(page)
        if fence.info in LANGUAGES
    }

    known = {key: len(readers) for key, readers in HERE.items()}
    known |= {key: count for key, (count, _) in ELSEWHERE.items()}
    assert there == known | dict.fromkeys(NOT_READ, 1)


@pytest.mark.parametrize(
    ("page", "language"),
    [
        pytest.param(*key, marks=[pytest.mark.host] * (not {*readers} <= ANYWHERE))
        for key, readers in HERE.items()
    ],
)
def test_it_is_read(
    page: str, language: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(installed(tmp_path)))
    blocks = found(page, language)
    for reader, text in zip(HERE[page, language], blocks, strict=True):
        reader(text, tmp_path)


@pytest.mark.parametrize(("page", "language"), ELSEWHERE)
def test_another_test_reads_it(page: str, language: str) -> None:
    _, file = ELSEWHERE[page, language]

    assert Path(page).name in (ROOT / "tests" / file).read_text()
