"""Python's WebSocket client through the proxy, in clear and over TLS.

usage: websocket_client.py CLEAR-PORT TLS-PORT AUTHORITY.pem
"""

import asyncio
import os
import ssl
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError

clear, tls, authority = sys.argv[1:]
BOUND = 20
done = 0


def check(what, found, expected):
    global done
    if found != expected:
        sys.exit(f"{what}: expected {str(expected)[:200]}, found {str(found)[:200]}")
    done += 1


async def everything(way, origin, **options):
    def open_at(path, **more):
        return connect(origin + path, max_size=16 << 20, open_timeout=BOUND, close_timeout=BOUND, proxy=None, **options, **more)

    async with open_at("/", subprotocols=["other", "chat"]) as client:
        check(f"{way}: subprotocol", client.subprotocol, "chat")
        check(f"{way}: compression agreed", bool(client.protocol.extensions), True)
        for message in ("hello ☃", b"\x00\xff", "", os.urandom(3_000_000), "x" * 3_000_000):
            await client.send(message)
            check(f"{way}: message of {len(message)}", await client.recv(), message)
        await client.send(iter(["in ", "three ", "fragments"]))
        check(f"{way}: fragments", await client.recv(), "in three fragments")
        await asyncio.wait_for(await client.ping(b"are you there"), BOUND)
        check(f"{way}: ping is answered", True, True)
        # Many on their way at once, in both directions.
        sent = [os.urandom(size % 3000) for size in range(2000)]

        async def send_all():
            for message in sent:
                await client.send(message)

        sending = asyncio.create_task(send_all())
        check(f"{way}: 2000 messages in order", [await client.recv() for _ in sent], sent)
        await sending
        await client.close(4000, "from us")
        check(f"{way}: closed by us", (client.close_code, client.close_reason), (4000, "from us"))

    async with open_at("/", compression=None) as client:
        await client.send(b"plain")
        check(f"{way}: without compression", await client.recv(), b"plain")
    check(f"{way}: closed in order", client.close_code, 1000)

    async with open_at("/close") as client:
        try:
            await client.recv()
            sys.exit(f"{way}: a closed connection has given a message")
        except ConnectionClosedError as closed:
            check(f"{way}: closed by the application", (closed.rcvd.code, closed.rcvd.reason), (4001, "on purpose"))

    async with open_at("/push") as client:
        check(f"{way}: pushed", [message async for message in client], [str(n) for n in range(1000)])

    async def one(number):
        async with open_at("/") as client:
            for turn in range(20):
                await client.send(f"{number} {turn}")
                if await client.recv() != f"{number} {turn}":
                    sys.exit(f"{way}: connection {number} got another's message")

    await asyncio.gather(*(one(number) for number in range(50)))
    check(f"{way}: 50 connections at once", True, True)


async def main():
    trusted = ssl.create_default_context(cafile=authority)
    async with asyncio.timeout(100):
        await everything("in clear", f"ws://127.0.0.1:{clear}")
        await everything("over TLS", f"wss://127.0.0.1:{tls}", ssl=trusted)


asyncio.run(main())
print(f"{done} of {done} checks: messages, fragments, pings, compression, closing from either side, 50 at once")
