"""From a request to its act: the routes are a table of method and path."""

from collections.abc import Mapping

import h11

from dispatchd.agent.control.calls import (
    Act,
    Call,
    Lines,
    Peer,
    Refused,
    Reply,
    Text,
    parameters_of,
    target_parts,
)
from dispatchd.errors import ContractViolation
from dispatchd.protocol import json_text as raw_json
from dispatchd.protocol.job import Json

Routes = Mapping[tuple[str, str], Act]
"""Acts by method and path, as in `("POST", "/v1/jobs/{job}/block")`; the first match counts."""


async def carry_out(
    routes: Routes, head: h11.Request, content: bytes, peer: Peer | None
) -> Reply | Text | Lines:
    """Carry out a permitted request.

    Raises:
        Refused: There is no such act, or the act refuses.
    """
    method = head.method.decode()
    path, query = target_parts(head.target.decode())
    act, parameters = _find(routes, method, path)
    call = Call(
        method=method,
        path=path,
        parameters=parameters,
        query=query,
        body=_document(content),
        peer=peer,
    )
    return await act(call)


def _find(
    routes: Routes, method: str, path: tuple[str, ...]
) -> tuple[Act, dict[str, str]]:
    allowed: list[str] = []
    for (route_method, pattern), act in routes.items():
        parameters = parameters_of(pattern, path)
        if parameters is not None and route_method == method:
            return act, parameters
        if parameters is not None:
            allowed.append(route_method)
    shown = "/" + "/".join(path)
    if allowed:
        reason = f"{shown} takes {' and '.join(allowed)}, not {method}"
        raise Refused(status=405, reason=reason, allow=allowed)
    raise Refused(status=404, reason=f"there is no {shown}")


def _document(content: bytes) -> Json:
    if not content:
        return None
    try:
        return raw_json.loads(content.decode())
    except UnicodeDecodeError as error:
        raise Refused(status=400, reason=f"the body must be UTF-8 ({error})") from error
    except ContractViolation as violation:
        raise Refused(status=400, reason=f"the body {violation.rule}") from violation
