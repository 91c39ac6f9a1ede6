"""Artifacts on the wire: bytes arrive as they were, and a machine sends no path that the contract refuses."""

from contextlib import suppress

from hypothesis import example, given
from hypothesis import strategies as st

from dispatchd.errors import ContractViolation
from dispatchd.protocol.contracts import check
from dispatchd.protocol.uploads.artifacts import (
    Artifact,
    ArtifactChunk,
    ArtifactList,
    path_problem,
)

PROOF = {"license_id": "l", "server_id": "m", "secret": "s"}
HASH = "0" * 64
PATHS = st.lists(
    st.one_of(st.text(max_size=5), st.sampled_from(["..", ".", "", "...", "a\n"])),
    min_size=1,
    max_size=4,
).map("/".join)


@given(
    st.one_of(st.binary(max_size=5000), st.binary(max_size=50).map(lambda b: b * 99))
)
@example(b"")
def test_a_chunk_arrives_as_it_was(data: bytes) -> None:
    chunk = ArtifactChunk(file=HASH, offset=7, data=data)
    fields = chunk.to_wire()
    check("artifact-request", {**PROOF, **fields})
    assert ArtifactChunk.from_wire(fields) == chunk


def is_refused(path: str) -> bool:
    file = Artifact(path=path, size=1, sha256=HASH)
    body = {**PROOF, **ArtifactList(attempt=1, files=[file]).to_wire()}
    with suppress(ContractViolation):
        check("artifacts-request", body)
        return False
    return True


@given(PATHS)
@example("a" * 1024)
@example("a" * 1025)
@example("a\u2028b")
@example("a\x85")
@example("back\\slash")
def test_a_machine_and_the_contract_agree_about_paths(path: str) -> None:
    assert bool(path_problem(path)) is is_refused(path)
