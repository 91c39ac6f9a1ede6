"""Activation and license heartbeat over HTTP. Implements `tracking.ports.Licensing`; see contracts/README.md."""

from typing import Final

from attrs import define

from dispatchd import __version__
from dispatchd.agent.endpoint.caller import Caller
from dispatchd.agent.endpoint.responses import Proof, json_object
from dispatchd.errors import ContractViolation, ProtocolError
from dispatchd.protocol.contracts import check
from dispatchd.protocol.job import Json

_PATH: Final = "/api/v1/licenses"


@define
class LicenseEndpoint:
    """The two calls with which a machine gets and refreshes its identity."""

    _caller: Caller
    _timeout_s: float

    async def activate(
        self, key: str, server_id: str, machine_name: str
    ) -> tuple[str, str]:
        """Return the token and the machine's secret for a license key."""
        reply = await self._call(
            "activate",
            {
                "key": key,
                "server_id": server_id,
                "machine_name": machine_name,
                "client_version": __version__,
            },
        )
        return str(reply["token"]), str(reply["heartbeat_secret"])

    async def heartbeat(
        self, license_id: str, server_id: str, secret: str, *, marked: bool
    ) -> str:
        """Return a fresh token."""
        reply = await self._call(
            "heartbeat",
            {
                "license_id": license_id,
                "server_id": server_id,
                "heartbeat_secret": secret,
                "client_version": __version__,
            },
            Proof.HEADER if marked and not self._caller.is_bare else None,
        )
        return str(reply["token"])

    async def _call(
        self, call: str, body: dict[str, Json], proof: Proof | None = None
    ) -> dict[str, Json]:
        name = f"license {call}" if call == "heartbeat" else call
        reply = await self._caller.post(
            name, f"{_PATH}/{call}", body, deadline_s=self._timeout_s
        )
        self._caller.refuse_errors(name, reply, about_a_job=False, proof=proof)
        document = json_object(name, reply)
        contract = "activate-reply" if call == "activate" else "license-heartbeat-reply"
        try:
            check(contract, document)
        except ContractViolation as violation:
            reason = f"the reply breaks the contract: {violation}"
            raise ProtocolError(call=name, reason=reason) from violation
        self._caller.note_own(reply)
        return document
