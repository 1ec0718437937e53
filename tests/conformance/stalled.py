"""Many clients ask for a large answer and take none of it, while others are asked for a small one.

usage: stalled.py PORT HOW-MANY
"""

import socket
import sys
import time

port, many = int(sys.argv[1]), int(sys.argv[2])
OTHERS = 200


def ask(path, receive_buffer=None):
    client = socket.socket()
    if receive_buffer:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    client.settimeout(10)
    client.connect(("127.0.0.1", port))
    client.sendall(f"GET {path} HTTP/1.1\r\nhost: app\r\nconnection: close\r\n\r\n".encode())
    return client


def whole(client):
    answer = b""
    while piece := client.recv(65536):
        answer += piece
    return answer


stalled = [ask("/large", 4096) for _ in range(many)]
# Each has its answer's head: the application is at work for it.
for client in stalled:
    if not client.recv(12).startswith(b"HTTP/1.1 200"):
        sys.exit("a large answer did not begin with 200")
for number in range(OTHERS):
    try:
        answer = whole(ask("/"))
    except OSError as error:
        sys.exit(f"request {number} of {OTHERS} beside {many} readers that do not read: {error}")
    if not answer.startswith(b"HTTP/1.1 200") or not answer.endswith(b"hello\n"):
        sys.exit(f"request {number} beside {many} readers that do not read: found {answer[:200]!r}")
# Whoever reads again gets all of it.
for client in stalled[:2]:
    size = len(whole(client))
    if size < 8 << 20:
        sys.exit(f"a reader that reads again got {size} bytes of an answer of {8 << 20}")
for client in stalled:
    client.close()
