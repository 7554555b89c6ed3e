from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import redis

from tenuto import local
from tenuto.features.deadline import Connections, DeadlineExceededError, StoreUnavailableError

KEYS = [b"a", b"b", b"nothing"]


@pytest.fixture
def filled(redis_url: str) -> str:
    redis.Redis.from_url(redis_url).mset({"a": b"1" * 2_000, "b": b"2" * 2_000})
    return redis_url


VALUES = [b"1" * 2_000, b"2" * 2_000, None]


@pytest.fixture
def dripping(filled: str, embedded: local.LocalStack) -> Iterator[str]:
    """The same Redis, its answers forwarded byte by byte: never silent, and not done in time."""
    ended = threading.Event()
    listening = socket.create_server(("127.0.0.1", 0))
    target = redis.connection.parse_url(filled)

    def forward(client: socket.socket) -> None:
        with client, socket.create_connection((target["host"], target["port"])) as server:
            threading.Thread(target=upstream, args=(client, server), daemon=True).start()
            while not ended.is_set() and (data := server.recv(65_536)):
                # The handshake and short answers pass at once.
                step = 1 if len(data) > 1_000 else len(data)
                for at in range(0, len(data), step):
                    if ended.wait(0.005):
                        return
                    try:
                        client.sendall(data[at : at + step])
                    except OSError:
                        return

    def upstream(client: socket.socket, server: socket.socket) -> None:
        try:
            while data := client.recv(65_536):
                server.sendall(data)
        except OSError:
            return

    def accept() -> None:
        while True:
            try:
                client, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=forward, args=(client,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield f"redis://127.0.0.1:{listening.getsockname()[1]}"
    ended.set()
    listening.close()


def test_values_come_in_the_order_of_their_keys(filled: str) -> None:
    connections = Connections(filled)
    assert connections.mget(KEYS, 5_000) == VALUES
    assert connections.mget(KEYS[::-1], 5_000) == VALUES[::-1]
    connections.close()
    assert connections.mget(KEYS, 5_000) == VALUES


def test_an_answer_that_drips_in_is_not_waited_for_longer_than_the_deadline(
    dripping: str,
) -> None:
    # Each byte comes well within the deadline, all of them take 20 s.
    started = time.monotonic()
    with pytest.raises(DeadlineExceededError, match="no whole answer within 200 ms"):
        Connections(dripping).mget(KEYS, 200)
    assert time.monotonic() - started < 10


def test_after_a_missed_deadline_the_next_answer_is_the_next_ones(
    filled: str, embedded: local.LocalStack
) -> None:
    connections = Connections(filled)
    assert connections.mget([b"a"], 5_000) == VALUES[:1]
    os.kill(embedded.redis_pid, signal.SIGSTOP)
    try:
        # On the connection that there is, then on one that must be made.
        for _ in range(2):
            with pytest.raises(DeadlineExceededError, match="within 100 ms"):
                connections.mget([b"a"], 100)
    finally:
        os.kill(embedded.redis_pid, signal.SIGCONT)
    assert connections.mget([b"b"], 5_000) == VALUES[1:2]


def test_a_connection_that_the_server_closed_is_made_anew(filled: str) -> None:
    connections = Connections(filled)
    assert connections.mget(KEYS, 5_000) == VALUES
    redis.Redis.from_url(filled).client_kill_filter(_type="normal", skipme=True)
    assert connections.mget(KEYS, 5_000) == VALUES


def test_a_redis_that_is_not_there_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(StoreUnavailableError, match=f"redis at 127.0.0.1:{port}: ") as raised:
        Connections(f"redis://user:secret@127.0.0.1:{port}/0").mget(KEYS, 5_000)
    assert not isinstance(raised.value, DeadlineExceededError)
    assert "secret" not in str(raised.value)


def test_an_error_that_redis_answers_is_said_and_the_connection_goes_on(filled: str) -> None:
    connections = Connections(filled)
    with pytest.raises(StoreUnavailableError, match="wrong number of arguments"):
        connections.mget([], 5_000)
    assert connections.mget(KEYS, 5_000) == VALUES


def test_threads_get_each_their_own_answers(filled: str) -> None:
    connections = Connections(filled)
    wrong = []

    def ask(at: int) -> None:
        for _ in range(50):
            if connections.mget(KEYS[at : at + 1], 20_000) != VALUES[at : at + 1]:
                wrong.append(at)

    threads = [threading.Thread(target=ask, args=(at % 3,)) for at in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_forked_child_makes_its_own_connection(filled: str) -> None:
    connections = Connections(filled)
    assert connections.mget(KEYS, 5_000) == VALUES
    child = os.fork()
    if child == 0:
        answers = [connections.mget(KEYS[:1], 20_000) for _ in range(50)]
        os._exit(0 if answers == [VALUES[:1]] * 50 else 1)
    answers = [connections.mget(KEYS[1:2], 20_000) for _ in range(50)]
    assert os.waitpid(child, 0)[1] == 0
    assert answers == [VALUES[1:2]] * 50
