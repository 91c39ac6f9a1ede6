"""Keys that need a restart: those of the code are those of the documentation."""

from pathlib import Path

import attrs

from dispatchd.agent.config.keys import RESTART, File

OPERATING = Path(__file__).parents[2] / "docs" / "operating.md"


def test_the_documentation_lists_the_keys_that_need_a_restart() -> None:
    rows = []
    for table in attrs.fields(attrs.resolve_types(File)):
        kind = table.type
        fields = attrs.fields(kind) if kind is not None and attrs.has(kind) else ()
        keys = [f"`{each.name}`" for each in fields if each.metadata == RESTART]
        if keys:
            rows.append(f"| `[{table.name}]` | {', '.join(keys)} |")

    text = OPERATING.read_text()
    head = "| table | keys that need a restart |\n| --- | --- |\n"
    listed = text.partition(head)[2].partition("\n\n")[0].splitlines()

    assert listed == rows
