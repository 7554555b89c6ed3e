"""Requests that are rare: decoded and encoded by kafka-python's tables of Kafka's protocol.

Produce and Fetch, which are not rare, are parsed by hand in their modules.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from tenuto.local.broker.call import Buffers, Call, MalformedError, Reply
from tenuto.local.broker.node import Node

Answer = Callable[[Node, Any, Call], Any]
"""Answers a decoded request with a response of kafka-python's, or a future of one."""


def handler(request_class: Any, answer: Answer) -> Callable[[Node, Call], Reply]:
    """A handler of raw calls around one of decoded requests."""

    def handle(node: Node, call: Call) -> Reply:
        version = call.version
        try:
            request = request_class.decode(memoryview(call.frame)[call.at :], version=version)
        except Exception as error:
            raise MalformedError(f"{request_class.__name__} v{version}: {error}") from error
        try:
            response = answer(node, request, call)
        except (AttributeError, TypeError) as error:
            # kafka-python's tables take null also where Kafka's protocol has a value.
            raise MalformedError(f"{request_class.__name__} v{version}: {error}") from error
        if not isinstance(response, asyncio.Future):
            return [response.encode(version=version)]
        encoded: asyncio.Future[Buffers] = node.loop.create_future()

        def encode(done: asyncio.Future[Any]) -> None:
            # The client may be gone by now.
            if encoded.done():
                return
            try:
                encoded.set_result([done.result().encode(version=version)])
            except Exception as error:
                encoded.set_exception(error)

        response.add_done_callback(encode)
        return encoded

    return handle
