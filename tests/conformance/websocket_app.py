"""A WebSocket server: gives messages back; `/close` closes with 4001, `/push` sends 1000 messages unasked.

usage: websocket_app.py PORT
"""

import asyncio
import sys

from websockets.asyncio.server import serve


async def app(client):
    path = client.request.path
    if path == "/close":
        await client.close(4001, "on purpose")
        return
    if path == "/push":
        for number in range(1000):
            await client.send(str(number))
        return
    async for message in client:
        await client.send(message)


def choose(_connection, offered):
    """Without it, clients that name no subprotocol would be turned away."""
    return "chat" if "chat" in offered else None


async def main():
    options = {"subprotocols": ["chat"], "select_subprotocol": choose, "max_size": 16 << 20}
    async with serve(app, "127.0.0.1", int(sys.argv[1]), **options) as server:
        await server.serve_forever()


asyncio.run(main())
