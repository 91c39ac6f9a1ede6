"""Operations on artifacts: the files that a job has left, and their bytes."""

from hashlib import sha256
from typing import Final

from dispatchd.client.answers import rows, text
from dispatchd.client.errors import BytesDiffer, NotAHub
from dispatchd.client.records import Artifact
from dispatchd.client.retries import Retries, asked
from dispatchd.client.steps import (
    Answer,
    Call,
    Document,
    Item,
    Operation,
    Stream,
    in_query,
)
from dispatchd.network.request_target import in_path

_PIECE: Final = 8 << 20
"""Part of a file in one answer (bytes)."""


def listed(retries: Retries, job_id: str) -> Operation[list[Artifact]]:
    """Return the artifacts of a job."""
    call = Call(
        name=f"list the artifacts of {job_id}",
        path=f"/api/v1/jobs/{in_path(job_id)}/artifacts",
        has="artifacts",
    )
    found = yield from asked(call, retries.of_safe, _rows)
    return [Artifact.of(each) for each in found]


def pieces(retries: Retries, job_id: str, artifact: Artifact) -> Stream[bytes]:
    """Yield the bytes of an artifact; the last ones only if all of them have its hash.

    Raises:
        BytesDiffer: They have another one.
        NotAHub: They are more or fewer than listed.
        ClientError: The hub refuses, or isn't to be reached.
    """
    offset, digest, name = 0, sha256(), f"download {artifact.path}"
    while offset < artifact.size:
        query = in_query(path=artifact.path, offset=offset, limit=_PIECE)
        call = Call(
            name=name,
            path=f"/api/v1/jobs/{in_path(job_id)}/artifact{query}",
            counts=("artifact-size",),
        )
        piece, url = yield from asked(call, retries.of_safe, _piece)
        offset += len(piece)
        if not piece or len(piece) > _PIECE or offset > artifact.size:
            reason = f"{url} has sent {len(piece)} bytes at {offset - len(piece)}"
            raise NotAHub(name, reason)
        digest.update(piece)
        if offset == artifact.size and digest.hexdigest() != artifact.sha256:
            reason = f"{url} has sent other bytes than its hash says"
            raise BytesDiffer(name, reason)
        yield Item(piece)
    if not offset and digest.hexdigest() != artifact.sha256:
        raise BytesDiffer(name, "it is listed as empty, with the hash of other bytes")


def _rows(call: Call, answer: Answer) -> list[Document]:
    return rows(call, answer, "hub-artifact")


def _piece(call: Call, answer: Answer) -> tuple[bytes, str]:
    return text(call, answer), answer.url
