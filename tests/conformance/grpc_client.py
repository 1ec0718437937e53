"""Python's gRPC client through the proxy, in clear and over TLS.

usage: grpc_client.py CLEAR-PORT TLS-PORT AUTHORITY.pem
"""

import queue
import sys
from concurrent import futures

import grpc

clear, tls, authority = sys.argv[1:]
BOUND = 20
LARGE = 3_000_000
done = 0


def check(what, found, expected):
    global done
    if found != expected:
        sys.exit(f"{what}: expected {expected!r}, found {found!r}")
    done += 1


def error_of(call):
    try:
        call()
    except grpc.RpcError as error:
        return error
    sys.exit("a call that fails has not failed")


def everything(way, channel):
    def unary(name):
        return channel.unary_unary(f"/app.Test/{name}")

    answer, call = unary("Unary").with_call(
        b"hello", timeout=BOUND, metadata=(("x-ask", "me"), ("x-ask-bin", b"\x00\x01\xfe")))
    check(f"{way}: unary, binary metadata there", answer, b"\x00\x01\xfehello")
    check(f"{way}: first metadata", dict(call.initial_metadata()).get("x-first"), "me")
    check(f"{way}: last metadata", dict(call.trailing_metadata()).get("x-last"), "me")
    check(f"{way}: last metadata, binary", dict(call.trailing_metadata()).get("x-last-bin"), b"\x00\xff\x80")
    check(f"{way}: large message both ways", unary("Unary")(b"x" * LARGE, timeout=BOUND), b"x" * LARGE)
    check(f"{way}: empty message", unary("Unary")(b"", timeout=BOUND), b"")

    for code in grpc.StatusCode:
        if code != grpc.StatusCode.OK:
            error = error_of(lambda: unary("Fail")(code.name.encode(), timeout=BOUND))
            check(f"{way}: trailers only, {code.name}", (error.code(), error.details()), (code, "on purpose: ä ☃ 100 %"))
    error = error_of(lambda: unary("Nothing")(b"", timeout=BOUND))
    check(f"{way}: a method that is not there", error.code(), grpc.StatusCode.UNIMPLEMENTED)

    messages, late = [], channel.unary_stream("/app.Test/FailLate")(b"", timeout=BOUND)
    error = error_of(lambda: [messages.append(one) for one in late])
    check(f"{way}: an error after a message", (messages, error.code()), ([b"first"], grpc.StatusCode.DATA_LOSS))

    error = error_of(lambda: unary("Sleep")(b"", timeout=0.3))
    check(f"{way}: deadline", error.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
    left = float(unary("Remaining")(b"", timeout=BOUND))
    check(f"{way}: the server knows the deadline", 0 < left <= BOUND + 1, True)

    numbers = list(channel.unary_stream("/app.Test/Count")(b"5000", timeout=BOUND))
    check(f"{way}: stream to us", numbers, [str(n).encode() for n in range(5000)])
    sizes = [n * 37 % 5000 for n in range(1000)]
    answer = channel.stream_unary("/app.Test/Total")((b"x" * size for size in sizes), timeout=BOUND)
    check(f"{way}: stream from us", answer, str(sum(sizes)).encode())

    # Each message waits for the answer to the one before: nothing on the way may hold it back.
    asked = queue.Queue()
    answers = channel.stream_stream("/app.Test/Echo")(iter(asked.get, None), timeout=BOUND)
    for n in range(200):
        asked.put(str(n).encode())
        if next(answers) != str(n).encode():
            sys.exit(f"{way}: ping-pong lost message {n}")
    asked.put(None)
    check(f"{way}: ping-pong ends", list(answers), [])

    # A call that its client gives up ends at once, and hurts no other on the same connection.
    asked = queue.Queue()
    given_up = channel.stream_stream("/app.Test/Echo")(iter(asked.get, None), timeout=BOUND)
    asked.put(b"one")
    check(f"{way}: before giving up", next(given_up), b"one")
    given_up.cancel()
    check(f"{way}: given up", error_of(lambda: next(given_up)).code(), grpc.StatusCode.CANCELLED)
    asked.put(None)

    with futures.ThreadPoolExecutor(max_workers=32) as pool:
        payloads = [str(n).encode() * 100 for n in range(500)]
        answers = list(pool.map(lambda payload: unary("Unary")(payload, timeout=BOUND), payloads))
    check(f"{way}: 500 calls, 32 at once", answers, payloads)


options = [("grpc.max_receive_message_length", 16 << 20)]
with grpc.insecure_channel(f"127.0.0.1:{clear}", options=options) as channel:
    everything("in clear", channel)
with open(authority, "rb") as file:
    credentials = grpc.ssl_channel_credentials(file.read())
with grpc.secure_channel(f"127.0.0.1:{tls}", credentials, options=options) as channel:
    everything("over TLS", channel)
print(f"{done} of {done} checks: unary, streams both ways, trailers only, metadata, deadline, cancelling")
