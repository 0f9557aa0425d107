"""A proxy on loopback in front of a registry that counts what goes through it.

It understands as much of HTTP as it needs to tell requests apart. Each connection of a client
has one of its own to the registry. A client that tries TLS first is told that this is plain
HTTP, as registries do, and not counted.
"""

import socket
import threading

PIECE_BYTES = 1 << 16
HEAD_BYTES_MAX = 1 << 20
NO_TLS = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n400 Bad Request"


class CountingProxy:
    """Passes everything on to `upstream` (`HOST:PORT`) until `stop`."""

    def __init__(self, upstream):
        host, _, port = upstream.rpartition(":")
        self.upstream = (host, int(port))
        self.lock = threading.Lock()
        self.requests = self.sent_bytes = self.received_bytes = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def counted(self):
        """Requests, bytes to the registry and bytes from it, so far."""
        with self.lock:
            return self.requests, self.sent_bytes, self.received_bytes

    def stop(self):
        # A listener that is only closed goes on accepting where a thread waits in it.
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        try:
            with client, client.makefile("rb") as asked:
                if not asked.peek(1)[:1].isalpha():
                    asked.read1(PIECE_BYTES)
                    client.sendall(NO_TLS)
                    return
                with socket.create_connection(self.upstream) as server:
                    with server.makefile("rb") as answered:
                        while self._exchange(client, asked, server, answered):
                            pass
        except (OSError, ValueError):
            # One of the two went away: the other one sees its connection end.
            return

    def _exchange(self, client, asked, server, answered):
        """One request and its answer; whether another may follow."""
        head = _head(asked)
        if not head:
            return False
        self._count(1, len(head), 0)
        server.sendall(head)
        for piece in _body(asked, head, ends_with_connection=False):
            self._count(0, len(piece), 0)
            server.sendall(piece)
        method = head.split(b" ", 1)[0]
        while True:
            answer = _head(answered)
            if not answer:
                return False
            status = int(answer.split(b" ", 2)[1])
            self._count(0, 0, len(answer))
            client.sendall(answer)
            if status >= 200:
                break
        if method == b"HEAD" or status in (204, 304):
            return True
        for piece in _body(answered, answer, ends_with_connection=True):
            self._count(0, 0, len(piece))
            client.sendall(piece)
        return _field(answer, b"content-length") is not None or _is_chunked(answer)

    def _count(self, requests, sent, received):
        with self.lock:
            self.requests += requests
            self.sent_bytes += sent
            self.received_bytes += received


def _head(stream):
    """The lines up to the empty one, which is among them; nothing at the stream's end."""
    lines, length = [], 0
    while True:
        line = stream.readline(HEAD_BYTES_MAX)
        length += len(line)
        if not line or length > HEAD_BYTES_MAX:
            return b""
        lines.append(line)
        if line in (b"\r\n", b"\n"):
            return b"".join(lines)


def _field(head, name):
    for line in head.split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.strip().lower() == name:
            return value.strip()
    return None


def _is_chunked(head):
    return (_field(head, b"transfer-encoding") or b"").lower() == b"chunked"


def _body(stream, head, ends_with_connection):
    """The pieces of a body, as they are on the wire."""
    if _is_chunked(head):
        yield from _chunks(stream)
        return
    length = _field(head, b"content-length")
    if length is None and not ends_with_connection:
        return
    left = float("inf") if length is None else int(length)
    while left > 0:
        piece = stream.read1(int(min(left, PIECE_BYTES)))
        if not piece:
            return
        left -= len(piece)
        yield piece


def _chunks(stream):
    while True:
        line = stream.readline()
        yield line
        size = int(line.split(b";")[0], 16)
        if size == 0:
            break
        yield stream.read(size + 2)
    while True:
        line = stream.readline()
        yield line
        if line in (b"\r\n", b"\n", b""):
            return
