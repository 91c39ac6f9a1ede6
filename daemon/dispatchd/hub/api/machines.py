"""Routes of machines, for the hub's owner: list, add, rotate, bind and revoke."""

from collections.abc import Callable
from http import HTTPStatus
from typing import Final

from attrs import evolve, frozen
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dispatchd.hub.api.views import machine_document
from dispatchd.hub.auth.hashing import hashed, new_secret
from dispatchd.hub.auth.license_signing_key import public_key
from dispatchd.hub.connections.tls import pinned_certificate
from dispatchd.hub.context import Context
from dispatchd.hub.domain.binding import FREE, Binding
from dispatchd.hub.domain.model import Machine
from dispatchd.hub.domain.scopes import ADMIN, READ
from dispatchd.hub.http_bodies import Refused, read_body
from dispatchd.network.enrolment_key import EnrolmentKey
from dispatchd.network.signing_key import fingerprint
from dispatchd.protocol.job import Json

_KEY_LIFE_S: Final = 7 * 24 * 3600
"""Lifetime of an enrolment key (seconds)."""


@frozen
class Machines:
    """Routes on which machines are added, listed and revoked."""

    context: Context

    def routes(self) -> list[Route]:
        """Return the routes, for the application."""
        one = "/api/v1/machines/{name:job}"
        return [
            Route("/api/v1/machines", self.list, methods=["GET"]),
            Route("/api/v1/machines", self.add, methods=["POST"]),
            Route(f"{one}/rotate", self.rotate, methods=["POST"]),
            Route(f"{one}/bind", self.bind, methods=["POST"]),
            Route(f"{one}/revoke", self.revoke, methods=["POST"]),
        ]

    async def list(self, request: Request) -> Response:
        """Return every machine."""
        await self.context.require(request, READ)
        documents = await self.context.use(lambda: machine_documents(self.context))
        return JSONResponse({"machines": [*documents]})

    async def add(self, request: Request) -> Response:
        """Add a machine: it gets an enrolment key, or a fixed secret where it has no license.

        Raises:
            Refused: The name is taken.
        """
        await self.context.require(request, ADMIN)
        body = await read_body(request, "machine-request")
        name, fixed = str(body["name"]), bool(body.get("fixed_secret"))
        given = new_secret("machine" if fixed else "enrol")
        machine = invited(
            name,
            given,
            fixed=fixed,
            license_id=self.context.settings.license_id,
            now=self.context.now(),
        )
        if not await self.context.use(
            lambda: self.context.stores.machines.add(machine)
        ):
            raise Refused(HTTPStatus.CONFLICT, f"there is already a machine {name}")
        answer = await self._given(machine, given)
        return JSONResponse(answer, status_code=HTTPStatus.CREATED)

    async def rotate(self, request: Request) -> Response:
        """Give a machine a new enrolment key, or a new secret where it has a fixed one.

        Its old secret stays valid until it has activated the key.
        """
        await self.context.require(request, ADMIN)
        now = self.context.now()
        given = {True: new_secret("machine"), False: new_secret("enrol")}

        def decide(machine: Machine) -> Machine:
            if machine.revoked_at:
                raise Refused(
                    HTTPStatus.CONFLICT,
                    "the machine has been revoked; add it under another name",
                )
            if is_fixed(machine):
                return evolve(machine, secret_hash=hashed(given[True]))
            return evolve(
                machine,
                key_hash=hashed(given[False]),
                key_expires_at=now + _KEY_LIFE_S,
                activated_at=0,
            )

        machine = await self._change(request, decide)
        return JSONResponse(await self._given(machine, given[is_fixed(machine)]))

    async def bind(self, request: Request) -> Response:
        """Bind a machine to workflows and repositories: it gets no other job from now on.

        The jobs that it has continue.
        """
        await self.context.require(request, ADMIN)
        body = await read_body(request, "machine-binding-request")
        binding = Binding(
            workflows=_names(body.get("workflows")),
            repositories=_names(body.get("repositories")),
        )
        machine = await self._change(request, lambda current: current)
        await self.context.use(
            lambda: self.context.stores.bindings.put(machine.name, binding)
        )
        self.context.waiting.wake_all()
        return await self._shown(machine)

    async def revoke(self, request: Request) -> Response:
        """Revoke a machine. It can no longer pull or report jobs."""
        await self.context.require(request, ADMIN)
        now = self.context.now()
        machine = await self._change(
            request,
            lambda current: evolve(current, revoked_at=current.revoked_at or now),
        )
        # Its answer says that the machine is revoked.
        self.context.waiting.polls.end(machine.server_id)
        return await self._shown(machine)

    async def _shown(self, machine: Machine) -> Response:
        stores, now = self.context.stores, self.context.now()

        def document() -> dict[str, Json]:
            return machine_document(
                machine,
                now=now,
                binding=stores.bindings.get(machine.name),
                running=stores.reader.running().get(machine.server_id, 0),
            )

        return JSONResponse(await self.context.use(document))

    async def _change(
        self, request: Request, decide: Callable[[Machine], Machine]
    ) -> Machine:
        name = request.path_params["name"]
        machine = await self.context.use(
            lambda: self.context.stores.machines.change(name, decide)
        )
        if machine is None:
            raise Refused(HTTPStatus.NOT_FOUND, f"there is no machine {name}")
        return machine

    async def _given(self, machine: Machine, given: str) -> dict[str, Json]:
        """Return the document of a machine with its new credentials, which are shown only this once."""
        binding = await self.context.use(
            lambda: self.context.stores.bindings.get(machine.name)
        )
        document = machine_document(machine, now=self.context.now(), binding=binding)
        if is_fixed(machine):
            return {**document, "secret": given}
        public = await self.context.use(lambda: public_key(self.context.stores.tokens))
        join_key = await self.context.use(lambda: self._join_key(public, given))
        return {
            **document,
            "enrolment_key": given,
            **({"join_key": join_key} if join_key else {}),
            "key_expires_at": machine.key_expires_at,
            "public_key": public,
            "fingerprint": fingerprint(public),
        }

    def _join_key(self, public: str, given: str) -> str:
        """Return the key that also says by what the machine knows this hub; empty while its certificate can't be read. Blocks."""
        try:
            certificate = pinned_certificate(self.context.settings.tls_cert_file)
        except (OSError, ValueError):
            # The log has said so already (`tls_not_reloaded`).
            return ""
        return EnrolmentKey.of_pem(public, certificate, given).text


def machine_documents(context: Context) -> list[dict[str, Json]]:
    """Return the documents of all machines, by name. Blocks."""
    now = context.now()
    bindings = context.stores.bindings.all()
    heard_at = context.stores.reader.heard_at(
        lease_s=context.settings.leases.seconds, now=now
    )
    running = context.stores.reader.running()
    return [
        machine_document(
            machine,
            now=now,
            heard_at=heard_at.get(machine.server_id, 0.0),
            binding=bindings.get(machine.name, FREE),
            running=running.get(machine.server_id, 0),
        )
        for machine in context.stores.machines.list()
    ]


def _names(names: Json) -> tuple[str, ...] | None:
    return tuple(map(str, names)) if isinstance(names, list) else None


def invited(
    name: str, given: str, *, fixed: bool, license_id: str, now: float
) -> Machine:
    """Return a new machine with its enrolment key, or with its secret if that is fixed."""
    if fixed:
        return Machine(
            name=name,
            server_id=name,
            license_id=license_id,
            secret_hash=hashed(given),
            added_at=now,
        )
    return Machine(
        name=name,
        license_id=license_id,
        key_hash=hashed(given),
        key_expires_at=now + _KEY_LIFE_S,
        added_at=now,
    )


def is_fixed(machine: Machine) -> bool:
    """Return whether a machine has a fixed secret, not one from an activation."""
    return not machine.key_hash
