#!/usr/bin/env python3
"""Talks to a protocol of a node, with nothing but sockets.

    session.py [--udp] HOST:PORT FLOW REQUEST...

HOST:PORT is a node's session server: in a lab 127.0.0.1 and the port that `bees lab inspect` shows as SESSION.
FLOW is a protocol's name or the hash of a flow. Each packet that comes is printed
as a line; it ends when none has come for three seconds. docs/wire.md has the formats.
"""

import socket
import struct
import sys

QUIET = 3.0
TIMEOUT = 10.0


class Refused(Exception):
    """The node gave no session, and says why."""


class Stream:
    """A session over TCP: a line each way, then packets with their lengths."""

    def __init__(self, address, flow):
        self.socket = socket.create_connection(address, TIMEOUT)
        # However this ends, the node is to hear that nobody listens any more: an ordinary end only says that nobody
        # will speak, and the session would stay open for a while.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.file = self.socket.makefile("rb")
        self.socket.sendall(f"open {flow}\n".encode())
        answer = self.file.readline(200).decode()
        if not answer.startswith("ok "):
            raise Refused(answer.strip())
        self.flow = answer.split()[1]

    def send(self, packet):
        self.socket.sendall(struct.pack(">H", len(packet)) + packet)

    def receive(self):
        """The next packet; None when none comes for a while, or the session is over."""
        self.socket.settimeout(QUIET)
        try:
            head = self.file.read(2)
            return self.file.read(struct.unpack(">H", head)[0]) if len(head) == 2 else None
        except TimeoutError:
            return None

    def close(self):
        self.socket.close()


class Datagrams:
    """The same by UDP: an opening with a cookie, then packets behind a token. Any may be lost."""

    PACKET, CLOSE = 0, 1

    def __init__(self, address, flow):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.connect(address)
        self.socket.settimeout(0.5)
        cookie = ""
        for _ in range(20):
            # No answer is longer than the question, so the question is padded.
            self.socket.send(f"open {flow}{cookie}\n".encode().ljust(160, b"\0"))
            try:
                answer = self.socket.recv(2000).split(b"\n")[0].decode().split(" ")
            except (TimeoutError, ConnectionRefusedError):
                continue
            if answer[0] == "cookie":
                cookie = " " + answer[1]
            elif answer[0] == "ok":
                self.token, self.flow = bytes.fromhex(answer[1]), answer[2]
                return
            else:
                raise Refused(" ".join(answer))
        raise Refused("the node does not answer")

    def send(self, packet):
        self.socket.send(bytes([self.PACKET]) + self.token + packet)

    def receive(self):
        self.socket.settimeout(QUIET)
        try:
            while True:
                answer = self.socket.recv(2000)
                if answer[1:9] == self.token and answer[0] in (self.PACKET, self.CLOSE):
                    return answer[9:] if answer[0] == self.PACKET else None
        except TimeoutError:
            return None

    def close(self):
        self.socket.send(bytes([self.CLOSE]) + self.token)


def main(words):
    kind = Datagrams if "--udp" in words else Stream
    words = [word for word in words if word != "--udp"]
    if len(words) < 3:
        sys.exit(__doc__)
    host, port = words[0].rsplit(":", 1)
    try:
        session = kind((host, int(port)), words[1])
    except (Refused, OSError) as error:
        sys.exit(f"no session of {words[1]}: {error}")
    session.send(" ".join(words[2:]).encode())
    while (packet := session.receive()) is not None:
        print(packet.decode(errors="replace").rstrip())
    session.close()


if __name__ == "__main__":
    main(sys.argv[1:])
