"""`Protocol`: HTTP whose connections do not wait for the header of a request without end."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 30.0
"""Time for the header of a request, after which its connection is closed; up to twice as long for one after the first."""


class Protocol(H11Protocol):
    """HTTP by h11, which bounds the length of headers, as other programs that may be installed do not."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self.loop.call_later(HEADER_SECONDS, self._close_if_still, None)

    def _close_if_still(self, before: object) -> None:
        """Close the connection if no request runs, and none has come since the last time that none ran."""
        if self.transport.is_closing():
            return
        runs = self.cycle is not None and not self.cycle.response_complete
        state = object() if runs else self.cycle
        if state is before:
            self.transport.close()
        else:
            self.loop.call_later(HEADER_SECONDS, self._close_if_still, state)
