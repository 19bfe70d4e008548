"""A line to a server that can be cut while something goes over it."""

from __future__ import annotations

import contextlib
import socket
import threading


class Line:
    """Hands connections on to a server, until it is cut.

    Args:
      port: of the server, on this machine.

    Attributes:
      port: its own.
      room: bytes that go to the server before the line is cut by itself; None: no such number.
    """

    def __init__(self, port: int) -> None:
        self._server, self._open, self._lock = port, [], threading.Lock()
        self.room: int | None = None
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Ends all connections; new ones are reset."""
        with self._lock:
            self.room = 0
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)  # whoever waits for it wakes up
                connection.close()
            self._open.clear()

    def mend(self) -> None:
        """Lets new connections through."""
        with self._lock:
            self.room = None

    def _accept(self) -> None:
        while True:
            here, _ = self._listening.accept()
            here.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")  # closing resets
            if self.room == 0:
                here.close()
                continue
            there = socket.create_connection(("127.0.0.1", self._server))
            with self._lock:
                self._open += [here, there]
            threading.Thread(target=self._hand_on, args=(here, there, True), daemon=True).start()
            threading.Thread(target=self._hand_on, args=(there, here, False), daemon=True).start()

    def _hand_on(self, source: socket.socket, to: socket.socket, up: bool) -> None:
        try:
            while block := source.recv(1 << 14):
                if up and self.room is not None:
                    if len(block) >= self.room:
                        to.sendall(block[: self.room])
                        self.cut()
                        return
                    self.room -= len(block)
                to.sendall(block)
            to.shutdown(socket.SHUT_WR)
        except OSError:
            pass
