"""HTTP protocol of uvicorn for one connection; it keeps the connection's stage in the table."""

import asyncio  # noqa: TID251  # what uvicorn's own class is made for
from collections.abc import Mapping
from typing import Any, Final

import h11
from typing_extensions import override
from uvicorn.protocols.http.h11_impl import H11Protocol

from dispatchd.hub.connections.table import Connection, Connections, Stage

_DROPPED_SPEED: Final = 32 * 1024 * 1024
"""Speed at which an answered body is read on and dropped (bytes per second)."""

_FAREWELL_S: Final = 1.0
"""Time that a connection has to close during a stop once all has been sent (seconds). With TLS, asyncio waits for the
other end to close too, for 30 s by default (`ssl_shutdown_timeout`); a client with an idle connection doesn't look."""


class WatchedProtocol(H11Protocol):
    """Protocol of one connection.

    Args:
        connections: The table.
        taken: The connections in it by their descriptors.
        options: The options of uvicorn's own class.
    """

    def __init__(
        self,
        *,
        connections: Connections,
        taken: Mapping[int, Connection],
        **options: Any,  # noqa: ANN401  # uvicorn's
    ) -> None:
        super().__init__(**options)
        self._table, self._taken = connections, taken
        self._connection: Connection | None = None

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        descriptor = transport.get_extra_info("socket").fileno()
        self._connection = self._taken.get(descriptor)
        if self._connection is not None:
            self._connection.end_by(transport.abort)
        self._observe()
        if self._table.is_closing:
            self.shutdown()

    @override
    def shutdown(self) -> None:
        super().shutdown()
        if self.transport.is_closing():
            self._end_soon()

    @override
    def data_received(self, data: bytes) -> None:
        if self._connection is not None:
            self._connection.grow(len(data))
        super().data_received(data)
        self._observe()
        if self._stage() is Stage.DROPPING and not self.transport.is_closing():
            # A sender that continues takes little of the event loop's time.
            self.flow.pause_reading()
            self.loop.call_later(len(data) / _DROPPED_SPEED, self.flow.resume_reading)

    @override
    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._observe()
        if self._table.is_closing:
            self._end_soon()

    @override
    def pause_writing(self) -> None:
        super().pause_writing()
        self._observe()

    @override
    def resume_writing(self) -> None:
        super().resume_writing()
        self._observe()

    def _end_soon(self) -> None:
        self.loop.call_later(_FAREWELL_S, self._end_if_sent)

    def _end_if_sent(self) -> None:
        if self not in self.connections:
            return
        if self.transport.get_write_buffer_size():
            self._end_soon()
        else:
            self.transport.abort()

    def _observe(self) -> None:
        if self._connection is not None:
            to_go = self.transport.get_write_buffer_size()
            stage = self._stage()
            size = to_go if stage is Stage.READER else 0
            self._table.move(self._connection, stage, size)

    def _stage(self) -> Stage:
        theirs = self.conn.their_state
        is_first = self.cycle is None
        is_answered = is_first or self.cycle.response_complete
        if self.flow.write_paused:
            return Stage.READER
        if theirs is h11.SEND_BODY:
            return Stage.DROPPING if is_answered else Stage.BODY
        if not is_answered:
            return Stage.ANSWER
        has_begun = bool(self.conn.trailing_data[0])
        return Stage.HEAD if is_first or has_begun else Stage.IDLE
