"""A gRPC server without generated code: messages are plain bytes.

usage: grpc_app.py PORT
"""

import sys
from concurrent import futures

import grpc


def unary(request, context):
    metadata = dict(context.invocation_metadata())
    context.send_initial_metadata((("x-first", metadata.get("x-ask", "none")),))
    context.set_trailing_metadata((("x-last", metadata.get("x-ask", "none")), ("x-last-bin", b"\x00\xff\x80")))
    return metadata.get("x-ask-bin", b"") + request


def fail(request, context):
    # Nothing was sent before it: grpcio answers with trailers only.
    context.abort(grpc.StatusCode[request.decode()], "on purpose: ä ☃ 100 %")


def fail_late(request, context):
    yield b"first"
    context.abort(grpc.StatusCode.DATA_LOSS, "after the first message")


def sleep(_request, context):
    done = futures.Future()
    context.add_callback(lambda: done.set_result(None))
    done.result(timeout=30)
    return b""


def count(request, _context):
    for number in range(int(request)):
        yield str(number).encode()


def total(requests, _context):
    return str(sum(len(request) for request in requests)).encode()


def echo(requests, _context):
    yield from requests


def remaining(_request, context):
    return str(context.time_remaining()).encode()


server = grpc.server(
    futures.ThreadPoolExecutor(max_workers=64),
    options=[("grpc.max_receive_message_length", 16 << 20)],
)
server.add_generic_rpc_handlers((
    grpc.method_handlers_generic_handler("app.Test", {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Fail": grpc.unary_unary_rpc_method_handler(fail),
        "FailLate": grpc.unary_stream_rpc_method_handler(fail_late),
        "Sleep": grpc.unary_unary_rpc_method_handler(sleep),
        "Count": grpc.unary_stream_rpc_method_handler(count),
        "Total": grpc.stream_unary_rpc_method_handler(total),
        "Echo": grpc.stream_stream_rpc_method_handler(echo),
        "Remaining": grpc.unary_unary_rpc_method_handler(remaining),
    }),
))
server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
server.start()
server.wait_for_termination()
