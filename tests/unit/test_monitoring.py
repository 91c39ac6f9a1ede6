"""The rules and the dashboard that come with dispatchd speak of metrics that exist, in queries that parse."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[2] / "docs"
MONITORING = DOCS / "monitoring"
DASHBOARD: dict[str, Any] = json.loads((MONITORING / "dashboard.json").read_text())
OF_HUB: dict[str, Any] = json.loads((MONITORING / "hub-dashboard.json").read_text())
BOTH = pytest.mark.parametrize(
    "dashboard", [DASHBOARD, OF_HUB], ids=["machines", "hub"]
)


def documented() -> set[str]:
    rows = re.findall(
        r"^\| `(dispatchd_\w+)[^|]*\| (\w+)",
        (DOCS / "metrics.md").read_text(),
        re.MULTILINE,
    )
    return {
        name + suffix
        for name, kind in rows
        for suffix in (("_bucket",) if kind == "histogram" else ("",))
    }


def documented_of_hub() -> set[str]:
    text = (DOCS / "hub.md").read_text()
    return {*re.findall(r"^\| `(dispatchd_hub_\w+)", text, re.MULTILINE)}


def queries(dashboard: dict[str, Any]) -> Iterator[str]:
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            yield target["expr"]


def promtool(*arguments: str) -> None:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed here (Debian: prometheus)")
    done = subprocess.run(
        [program, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_metric_is_documented() -> None:
    used = {
        name
        for text in (
            *queries(DASHBOARD),
            *queries(OF_HUB),
            (MONITORING / "alerts.yml").read_text(),
        )
        for name in re.findall(r"\bdispatchd_\w+", text)
    }

    assert used
    assert used - documented() - documented_of_hub() == set()


@pytest.mark.parametrize(
    ("dashboard", "metrics"),
    [(DASHBOARD, documented()), (OF_HUB, documented_of_hub())],
    ids=["machines", "hub"],
)
def test_every_metric_is_on_the_dashboard(
    dashboard: dict[str, Any], metrics: set[str]
) -> None:
    shown = {
        name
        for text in queries(dashboard)
        for name in re.findall(r"dispatchd_\w+", text)
    }

    assert metrics - shown == set()


@BOTH
def test_panels_are_whole_and_do_not_overlap(dashboard: dict[str, Any]) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        assert panel["title"]
        assert panel["description"]
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)


@pytest.mark.host
def test_the_rules_are_good() -> None:
    promtool("check", "rules", str(MONITORING / "alerts.yml"))


@pytest.mark.host
def test_the_rules_fire_when_they_should() -> None:
    promtool("test", "rules", str(MONITORING / "alerts.test.yml"))


@pytest.mark.host
@BOTH
def test_the_queries_of_the_dashboard_parse(
    tmp_path: Path, dashboard: dict[str, Any]
) -> None:
    rules = [
        {
            "record": f"query:{number}",
            "expr": query.replace("$__rate_interval", "5m").replace("$instance", ".*"),
        }
        for number, query in enumerate(queries(dashboard))
    ]
    file = tmp_path / "rules.yml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))

    promtool("check", "rules", str(file))
