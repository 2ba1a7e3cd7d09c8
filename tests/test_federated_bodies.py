"""The bodies of requests and answers of Flower's servers: in files, in pieces, and few objects at once."""

import asyncio
import os
import weakref

import pytest

from sase.federated.flower.bodies import PIECE_BYTES, Bodies
from sase.federated.flower.garbage import MAX_BYTES


class _Probe:
    """An application that counts how many calls it handles at once, and what it was given."""

    def __init__(self, answer=b""):
        self.answer, self.running, self.most, self.received = answer, 0, 0, []

    async def __call__(self, scope, receive, send):
        self.running += 1
        self.most = max(self.most, self.running)
        scope["state"]["decoded"] = self  # as Flower's application does
        body = (await receive())["body"]
        await asyncio.sleep(0.01)
        self.received.append(body)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for part in (self.answer[:7], self.answer[7:]):
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        self.running -= 1


async def _call(bodies, path, parts, on_piece=None):
    """Call a middleware with a body in parts; return the events that it sends."""
    events = [{"type": "http.request", "body": part, "more_body": True} for part in parts] + [{"type": "http.request"}]
    waiting, sent = iter(events), []

    async def receive():
        return next(waiting)

    async def send(event):
        sent.append(event)
        if on_piece:
            await on_piece()

    await bodies({"type": "http", "path": path, "state": {}}, receive, send)
    return sent


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES, PIECE_BYTES + 1, 5_000_000])
def test_large_answers_are_sent_in_pieces(size):
    """A TLS layer keeps as much memory for a connection as it was given at once."""
    app = _Probe(os.urandom(size))
    sent = asyncio.run(_call(Bodies(app), "/v1/fleet/pull-object", [b"abc"]))[1:]
    assert b"".join(event["body"] for event in sent) == app.answer
    assert max(len(event["body"]) for event in sent) <= PIECE_BYTES
    assert [event["more_body"] for event in sent] == [True] * (len(sent) - 1) + [False]


@pytest.mark.parametrize("path, at_once", [("/v1/fleet/push-object", 1), ("/v1/runtime/pull-object", 1), ("/x", 5)])
def test_one_object_of_a_message_is_handled_at_a_time(path, at_once):
    """Each takes several times its size while it is handled; a hundred silos may send one at the same time."""

    async def all_at_once():
        return await asyncio.gather(*(_call(bodies, path, [b"ab", b"c"]) for _ in range(5)))

    app = _Probe(b"answer")
    bodies = Bodies(app)
    asyncio.run(all_at_once())
    assert app.most == at_once
    assert set(app.received) == ({b"abc"} if at_once == 1 else {b"ab"})


def test_a_slow_silo_keeps_no_other_from_its_object(tmp_path):
    """Nor does its object stay in memory: it is in a file, and the application is done with it."""

    async def scenario():
        stalled = asyncio.Event()

        async def stall():
            stalled.set()
            await asyncio.Event().wait()

        slow = asyncio.create_task(_call(bodies, "/v1/fleet/pull-object", [b"a"], on_piece=stall))
        await stalled.wait()
        answer = await asyncio.wait_for(_call(bodies, "/v1/fleet/pull-object", [b"b"]), 5)
        slow.cancel()
        return answer

    app = _Probe(os.urandom(1_000_000))
    bodies = Bodies(app, str(tmp_path))
    assert b"".join(event.get("body", b"") for event in asyncio.run(scenario())) == app.answer
    assert list(tmp_path.iterdir()) == []


def test_a_connection_keeps_nothing_of_its_last_request():
    """uvicorn keeps the scope of a connection's last request, and Flower puts what it decoded into its state."""
    scope = {"type": "http", "path": "/v1/fleet/push-object", "state": {"of the lifespan": 1}}

    async def receive():
        return {"type": "http.request", "body": b"abc"}

    async def send(event):
        pass

    asyncio.run(Bodies(_Probe())(scope, receive, send))
    assert scope["state"] == {"of the lifespan": 1}


def test_nothing_is_left_of_a_large_object_when_the_next_is_handled():
    """Starlette's requests are in reference cycles, which Python would collect some requests later."""
    left = []

    async def app(scope, receive, send):
        assert not any(earlier() for earlier in left)
        request = type("Request", (), {})()
        request.scope = {"request": request, "body": await receive()}
        left.append(weakref.ref(request))

    async def all_at_once():
        return await asyncio.gather(*(_call(bodies, "/v1/fleet/push-object", [large]) for _ in range(5)))

    large = bytes(MAX_BYTES + 1)
    bodies = Bodies(app)
    asyncio.run(all_at_once())
    assert len(left) == 5
