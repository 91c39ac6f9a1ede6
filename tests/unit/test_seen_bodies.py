"""Bodies of webhooks are known for as long as they are kept, those of GitHub and those of other hooks alike."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dispatchd.hub.storage.database import Database
from dispatchd.hub.storage.seen_bodies import (
    SeenBody,
    first_delivery,
    forget_bodies,
    note_body,
    note_seen_body,
    seen_body,
)

THEN, NOW = 1_795_600_000.0, 1_795_700_000.0
OLD, NEW = "a" * 64, "b" * 64


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database.open(f"sqlite:///{tmp_path}/hub.db")
    with database.transaction() as db:
        for payload_hash, at in ((OLD, THEN), (NEW, NOW)):
            note_body(db, payload_hash, "first", "push", now=at)
            note_seen_body(db, "hook", payload_hash, "first", now=at)
    yield database
    database.close()


def test_only_those_from_before_a_time_are_forgotten(database: Database) -> None:
    with database.transaction() as db:
        forget_bodies(db, THEN + 1)

    with database.snapshot() as db:
        assert first_delivery(db, OLD, "push") == ""
        assert first_delivery(db, NEW, "push") == "first"
        assert seen_body(db, "hook", OLD) is None
        assert seen_body(db, "hook", NEW) == SeenBody(at=NOW, delivery_id="first")


def test_at_their_very_time_they_are_still_known(database: Database) -> None:
    with database.transaction() as db:
        forget_bodies(db, THEN)

    with database.snapshot() as db:
        assert first_delivery(db, OLD, "push") == "first"
        assert seen_body(db, "another hook", OLD) is None
