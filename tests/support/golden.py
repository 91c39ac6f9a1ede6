"""The golden examples of `contracts/`: one folder for each contract, valid and invalid ones."""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "contracts" / "examples"


def name_of(example: Path) -> str:
    return str(example.relative_to(EXAMPLES).with_suffix(""))


def examples(contract: str, kind: str = "valid") -> list[Path]:
    return sorted((EXAMPLES / contract / kind).glob("*.json"))


def read(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document
