"""Conversations that went wrong: valid ones, with frames mixed up and bytes changed, a seed for each.

Nothing may be logged as an error, nobody else may notice, and nothing may be left afterwards. FUZZ_CONVERSATIONS says
how many, FUZZ_SEED where to begin; a failure names the seed and the bytes.
"""

import asyncio
import contextlib
import gc
import os
import random
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import hpack
import psutil

from server.transports.base import Fast, Unary
from tests.http2.frames import (
    ACK,
    BIG,
    CHAT,
    CONTINUATION,
    DATA,
    ECHO,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADER_TABLE_SIZE,
    HEADERS,
    HOLD,
    INITIAL_WINDOW,
    MAX_FRAME,
    NONE,
    PING,
    PREFACE,
    PRIORITY,
    SETTINGS,
    raw,
    request,
    reset,
    setting,
    update,
)
from tests.http2.host import hosted, wait_for
from tests.transports import DEFAULTS, frame

CONVERSATIONS = int(os.environ.get("FUZZ_CONVERSATIONS", "600"))
SEED = int(os.environ.get("FUZZ_SEED", "0"))
PATHS = [ECHO, ECHO, CHAT, BIG, HOLD, "/t.S/Slow", "/t.S/Elsewhere", "/t.S/Unknown"]


class Talk:
    """Makes the frames of valid conversations."""

    def __init__(self, chance):
        self.chance = chance
        self.encoder = hpack.Encoder()

    def frames(self):
        """List the frames of some calls, one mixed with the other, behind a preface."""
        lines = [self._call(1 + 2 * number) for number in range(self.chance.randint(1, 4))]
        lines.append(self._rest())
        mixed = [setting()]
        while lines := [line for line in lines if line]:
            mixed.append(self.chance.choice(lines).pop(0))
        return mixed

    def _call(self, stream):
        chance = self.chance
        extra = [("x-a", chance.randbytes(chance.choice([0, 5, 300])).hex())]
        extra += chance.choice([[], [("grpc-timeout", "50m")], [("grpc-encoding", "gzip")], [("te", "trailers")]])
        path = chance.choice(PATHS)
        block = self.encoder.encode(request(path, *extra))
        cut = chance.randrange(len(block))
        heads = [raw(HEADERS, END_HEADERS, stream, block)]
        if chance.random() < 0.3:  # in one piece: nothing may come between
            heads = [raw(HEADERS, NONE, stream, block[:cut]) + raw(CONTINUATION, END_HEADERS, stream, block[cut:])]
        message = b"70000" if path == BIG else chance.randbytes(chance.choice([0, 1, 100, 40_000]))
        packed = zlib.compress(message, wbits=31) if extra[-1] == ("grpc-encoding", "gzip") else None
        body = frame(message) if packed is None else frame(packed, flags=1)
        size = chance.choice([1 << 14, 1000, 7]) if len(body) < 500 else 1 << 14
        parts = [body[start : start + size] for start in range(0, len(body), size)]
        return heads + [raw(DATA, END_STREAM if part is parts[-1] else NONE, stream, part) for part in parts]

    def _rest(self):
        some = [
            update(0, 70_000),
            update(1, 70_000),
            raw(PING, NONE, 0, bytes(8)),
            raw(PRIORITY, NONE, 3, bytes(5)),
            raw(SETTINGS, ACK, 0),
            setting((INITIAL_WINDOW, self.chance.choice([0, 10, 1 << 20])), (MAX_FRAME, 1 << 14)),
            setting((HEADER_TABLE_SIZE, self.chance.choice([0, 4096]))),
            raw(0xFA, NONE, 1, b"unknown"),
            reset(3),
            raw(GOAWAY, NONE, 0, bytes(8)),
        ]
        return self.chance.sample(some, self.chance.randint(0, 4))


def spoilt(chance, talk):
    """Return the bytes of a conversation after up to four things went wrong with it."""
    for _ in range(min(chance.choice([0, 1, 1, 1, 2, 4]), len(talk))):
        place = chance.randrange(len(talk))
        talk[place : place + 1] = chance.choice(MISHAPS)(chance, bytearray(talk[place]))
    whole = b"".join(talk)
    return whole if chance.random() < 0.8 else whole[: chance.randrange(len(whole))]


def flip(chance, one):
    one[chance.randrange(len(one))] ^= 1 << chance.randrange(8)
    return [bytes(one)]


def flip_head(chance, one):
    one[chance.randrange(9)] ^= 1 << chance.randrange(8)
    return [bytes(one)]


def other_kind(chance, one):
    one[3] = chance.randrange(11)
    return [bytes(one)]


def other_stream(chance, one):
    one[5:9] = struct.pack(">I", chance.choice([0, 1, 2, 3, 5, 7, 99, (1 << 31) - 1, 1 << 31]))
    return [bytes(one)]


def other_length(chance, one):
    one[:3] = struct.pack(">I", chance.choice([0, 1, 4, 5, 6, 8, 9, 16384, 16385, (1 << 24) - 1]))[1:]
    return [bytes(one)]


def shorter(chance, one):
    return [raw(one[3], one[4], 1, bytes(one[9 : 9 + chance.randrange(9)]))]


def garbage(chance, one):
    return [bytes(one) + chance.randbytes(chance.choice([1, 9, 100]))]


MISHAPS = [
    flip, flip, flip_head, flip_head, other_kind, other_stream, other_length, shorter, garbage,
    lambda chance, one: [],
    lambda chance, one: [bytes(one)] * 2,
    lambda chance, one: [bytes(one), reset(chance.choice([1, 3, 5]))],
    lambda chance, one: [bytes(one), update(chance.choice([0, 1, 3]), chance.choice([0, 1, (1 << 31) - 1]))],
]  # fmt: skip


async def slow(_, message):
    await asyncio.sleep(0)
    return message


def converse(host, whole, leave="listens"):
    """Say something, read the answers, hang up; fail when the server sends no frames, or does not hang up as well."""
    with host.connect(silent=True) as peer, contextlib.suppress(ConnectionError):
        for start in range(0, len(whole), 5000):
            peer.send(whole[start : start + 5000])
        if leave == "aborts":
            peer.abort()
        elif leave == "listens":
            peer.end()
            peer.goaway()


def left(module="server.transports.http2"):
    """Count objects of the transport that are alive."""
    gc.collect()
    return sum(str(type(one).__module__).startswith(module) for one in gc.get_objects())


def test_no_conversation_is_so_wrong_that_others_notice():
    pool = ThreadPoolExecutor(2)
    elsewhere = Fast(lambda call, message: pool.submit(call.reply, message))
    options = replace(DEFAULTS, min_ping_interval=0.0)
    with pool, hosted(options, Slow=Unary(slow), Elsewhere=elsewhere) as host:
        converse(host, PREFACE + b"".join(Talk(random.Random(0)).frames()))
        host.check()
        files, objects = psutil.Process().num_fds(), left()
        for number in range(SEED, SEED + CONVERSATIONS):
            chance = random.Random(number)
            whole = PREFACE + spoilt(chance, Talk(chance).frames())
            try:
                converse(host, whole, chance.choice(["listens"] * 8 + ["aborts", "closes"]))
                if number % 50 == 0:
                    host.check()
            except Exception as error:
                error.add_note(f"FUZZ_SEED={number} FUZZ_CONVERSATIONS=1: {whole[:2000]!r}")
                raise
        host.check()
        wait_for(lambda: psutil.Process().num_fds() <= files, "every socket to be closed")
        host.held.calls.clear(), host.held.gone.clear()
        wait_for(lambda: left() <= objects + 20, "every call and connection to be gone")
        wait_for(lambda: host.transport._loop._held.bytes == 0, "what came of messages to be forgotten")
