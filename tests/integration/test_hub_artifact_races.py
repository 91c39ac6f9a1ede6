"""Artifacts of many senders at once, of hub processes that share a folder, and of a hub that was killed in between."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import pytest
from typing_extensions import override

from dispatchd.hub.config.load import ArtifactSettings
from dispatchd.hub.domain.errors import NoSuchArtifact
from dispatchd.hub.storage.artifacts.files import ArtifactFiles
from dispatchd.hub.storage.artifacts.store import ArtifactStore, Sender
from dispatchd.hub.storage.database import Database
from dispatchd.protocol.uploads.artifacts import Artifact, ArtifactChunk, ArtifactList
from support.hub import hub
from support.machine import Machine

PART = 1 << 16


def store_at(folder: Path, database: Database) -> ArtifactStore:
    files = ArtifactFiles(folder / "artifacts")
    return ArtifactStore(files=files, settings=ArtifactSettings(), database=database)


def sender(job_id: str, machine: str = "m1", claim: int = 1) -> Sender:
    return Sender(job_id=job_id, machine=machine, claim=claim)


def file_of(content: bytes, path: str = "a") -> Artifact:
    digest = sha256(content).hexdigest()
    return ArtifactList(
        attempt=1, files=[Artifact(path=path, size=len(content), sha256=digest)]
    ).files[0]


def put(store: ArtifactStore, content: bytes, who: Sender, now: float = 1.0) -> None:
    """Send a file as a machine does, from where the hub has it."""
    file = file_of(content)
    listed = ArtifactList(attempt=1, files=[file])
    [standing] = store.put_list(who, listed, now=now)
    offset, whole = standing.offset, standing.is_whole
    while not whole:
        data = content[offset : offset + PART]
        chunk = ArtifactChunk(file=file.sha256, offset=offset, data=data)
        answer = store.append(who, chunk, now=now)
        offset, whole = answer.offset, answer.is_whole


def test_calls_at_once_leave_each_file_whole(
    tmp_path: Path, database: Database
) -> None:
    store = store_at(tmp_path, database)
    content = os.urandom(10 * PART + 1)
    with ThreadPoolExecutor(8) as threads:
        # Repeated calls of one machine, other jobs with the same bytes, and a look for what nobody needs.
        futures = [
            threads.submit(put, store, content, sender(job_id, machine))
            for job_id, machine in (*(("j", "m1"),) * 4, ("k", "m1"), ("l", "m2"))
        ]
        sweeps = [threads.submit(store.remove_unused, now=2.0) for _ in range(20)]
        for future in futures:
            future.result(60)
        for sweep in sweeps:
            sweep.result(60)

    for job_id in "jkl":
        [row] = store.of_job(job_id)
        assert store.has(row)
        assert store.read(row, 0, len(content) + 1) == content
    assert [path.name for path in store.files.all()] == [file_of(content).sha256]
    assert not [*store.files.parts()]


def test_what_a_call_began_again_while_another_completed_it_is_removed(
    tmp_path: Path, database: Database
) -> None:
    store, content, who = store_at(tmp_path, database), os.urandom(PART), sender("j")
    put(store, content, who)
    file = file_of(content)
    store.files.part(who.job_id, who.machine, file.sha256).touch()

    chunk = ArtifactChunk(file=file.sha256, offset=0, data=content)
    answer = store.append(who, chunk, now=2.0)

    assert answer.is_whole
    assert not [*store.files.parts()]


def test_files_that_come_and_go_at_once_are_never_named_and_gone(
    tmp_path: Path, database: Database
) -> None:
    store = store_at(tmp_path, database)
    content = b"shared by all"

    def come(number: int) -> None:
        put(store, content, sender(f"j{number}"), now=1e6 + number)
        [row] = store.of_job(f"j{number}")
        assert store.has(row), number
        store.put_list(
            sender(f"j{number}"), ArtifactList(attempt=2, files=[]), now=1e6 + number
        )

    def sweep(number: int) -> None:
        # Its clock is far ahead of some of them, and of others not.
        store.remove_unused(now=1e6 + 3600 + number)

    with ThreadPoolExecutor(8) as threads:
        futures = [threads.submit(come, number) for number in range(60)]
        futures += [threads.submit(sweep, number) for number in range(0, 60, 2)]
        for future in futures:
            future.result(60)


def test_a_file_that_is_named_while_it_is_looked_for_stays(
    tmp_path: Path, database: Database
) -> None:
    content = b"old, and new again"

    class Meanwhile(ArtifactFiles):
        @override
        def all(self) -> Iterator[Path]:
            for path in super().all():
                put(store_at(tmp_path, database), content, sender("k"))
                yield path

    store = store_at(tmp_path, database)
    put(store, content, sender("j"))
    store.prune(before=2.0)
    files = Meanwhile(tmp_path / "artifacts")
    racing = ArtifactStore(files=files, settings=store.settings, database=database)

    assert racing.remove_unused(now=1e6) == 0
    assert store.has(store.of_job("k")[0])
    store.prune(before=2.0)
    assert store.remove_unused(now=1e6) == 1


def test_a_hub_that_was_killed_before_its_rows_gets_the_bytes_again(
    tmp_path: Path, database: Database
) -> None:
    store, content = store_at(tmp_path, database), b"text"
    file, who = file_of(content), sender("j")
    store.put_list(who, ArtifactList(attempt=1, files=[file]), now=1.0)
    path = store.files.part("j", "m1", file.sha256)
    whole = ArtifactChunk(file=file.sha256, offset=0, data=content)
    assert store.files.append(path, whole) == (0, 4)
    with store.files.completing(path, file.sha256, now=1.0):
        pass

    assert not store.has(store.of_job("j")[0])
    assert store.append(who, whole, now=2.0).is_whole
    assert store.has(store.of_job("j")[0])
    assert not [*store.files.parts()]


def test_who_names_another_size_gets_nothing_into_a_complete_file(
    tmp_path: Path, database: Database
) -> None:
    store, content = store_at(tmp_path, database), b"the content of others"
    put(store, content, sender("j"))
    digest = file_of(content).sha256
    larger = Artifact(path="a", size=len(content) + 4, sha256=digest)
    evil = sender("k", "m2")
    store.put_list(evil, ArtifactList(attempt=1, files=[larger]), now=1.0)

    chunk = ArtifactChunk(file=digest, offset=0, data=content + b"evil")
    assert store.append(evil, chunk, now=1.0).offset == 0
    assert store.read(store.of_job("j")[0], 0, 100) == content
    assert not store.has(store.of_job("k")[0])


def test_parts_of_what_is_listed_no_more_go(tmp_path: Path, database: Database) -> None:
    store, content = store_at(tmp_path, database), os.urandom(PART)
    file, who = file_of(content), sender("j")
    store.put_list(who, ArtifactList(attempt=1, files=[file]), now=1.0)
    part = ArtifactChunk(file=file.sha256, offset=0, data=content[:100])
    store.append(who, part, now=1.0)
    assert [*store.files.parts()]

    store.put_list(who, ArtifactList(attempt=2, files=[]), now=1.0)

    assert not [*store.files.parts()]
    with pytest.raises(NoSuchArtifact):
        store.append(who, part, now=1.0)


@pytest.mark.host
async def test_two_hubs_of_one_database_share_a_folder_or_keep_none(
    tmp_path: Path, postgresql_url: str
) -> None:
    content = os.urandom(3 * PART)
    shared = f'[artifacts]\nfolder = "{tmp_path / "shared"}"'
    async with (
        hub(tmp_path / "one", database_url=postgresql_url, more=shared) as one,
        hub(tmp_path / "two", database_url=postgresql_url, more=shared) as two,
        hub(tmp_path / "other", database_url=postgresql_url) as other,
    ):
        await one.submit({"id": "j", "dag_name": "ci"})
        held = await Machine(http=one.http).pull()
        assert "artifacts" in held.job["extensions"]
        file = file_of(content)
        listed = ArtifactList(attempt=1, files=[file]).to_wire()
        await held.machine.call("artifacts", "j", **listed)
        for number, server in enumerate((one, two, one)):
            start = number * PART
            data = content[start : start + PART]
            chunk = ArtifactChunk(file=file.sha256, offset=start, data=data)
            reply = await Machine(http=server.http).call(
                "artifact", "j", **chunk.to_wire()
            )
            assert reply.json()["offset"] == start + PART, reply.text
        reply = await two.http.get("/api/v1/jobs/j/artifact?path=a")
        assert reply.content == content
        await other.submit({"id": "k", "dag_name": "ci"})
        alone = await Machine(http=other.http, name="m2").pull()
        assert "artifacts" not in alone.job["extensions"]
