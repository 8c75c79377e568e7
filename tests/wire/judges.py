"""The wire, `websockets` and `wsproto`: what each makes of what comes on a connection.

Each must deliver the same messages, answer the same pings, and end with the same code, and
as clean.  Where another one does otherwise, the difference stands in `EXCUSED` with the
sentence of the RFC, or in `MENDED` where the other one's fault would hide what comes behind it.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from websockets.exceptions import PayloadTooBig, ProtocolError
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame as TheirFrame
from websockets.frames import Opcode
from websockets.protocol import State as TheirState
from websockets.server import ServerProtocol
from wsproto.connection import Connection as WsprotoConnection
from wsproto.connection import ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage
from wsproto.extensions import PerMessageDeflate as WsprotoDeflate
from wsproto.frame_protocol import RsvBits

from unisock.wire import frames
from unisock.wire.connection import AMID_ANOTHER, Connection, State
from unisock.wire.deflate import LAST_BLOCKS
from unisock.wire.pieces import NOT_UTF8

from .cases import Case
from .peer import PONG, frames_of

_quiet = logging.getLogger("tests.wire.quiet")
_quiet.setLevel(logging.CRITICAL)
_TAIL = b"\x00\x00\xff\xff"
_NO_LIMIT = 1 << 62


@dataclass
class Verdict:
    """What became of a stream."""

    messages: list[str | bytes] = field(default_factory=list)
    pongs: list[bytes] = field(default_factory=list)
    code: int | None = None
    """That of the peer's close frame, or of the failure; `None` where it is open."""
    failed: bool = False
    reason: str = ""
    """That of the peer's close frame."""
    why: str = field(default="", compare=False)
    """What the failure was, in the wire's words."""


def ours(case: Case) -> Verdict:
    """That of the wire, which holds no message over the limit."""
    verdict = Verdict()
    sent = bytearray()

    def put(message: str | bytes) -> bool:
        assert _size(message) <= case.limit
        assert connection.state is State.OPEN
        verdict.messages.append(message)
        return True

    def on_closed(code: int, reason: str, is_clean: bool) -> None:
        assert verdict.code is None
        verdict.code, verdict.failed = code, not is_clean
        if is_clean:
            verdict.reason = reason
        else:
            verdict.why = reason

    connection = Connection(
        write=sent.extend,
        put=put,
        on_closed=on_closed,
        max_message_size=case.limit,
        deflate=case.agreed,
    )
    closes_with = None
    for number, piece in enumerate(case.pieces):
        if number == case.closes_at and connection.state is State.OPEN:
            connection.close(1000, "")
            closes_with = 1000
        pause = connection.receive(piece)
        while pause is not None:
            pause = connection.receive(b"")
    answers = frames_of(bytes(sent))
    if closes_with is not None or verdict.code is not None:
        last = answers.pop()  # the close frame, and nothing behind it
        assert (closes_with or verdict.code) == (last.code if last.payload else 1005)
    for answer in answers:
        assert answer.opcode == PONG
        verdict.pongs.append(answer.payload)
    return verdict


def _size(message: str | bytes | bytearray) -> int:
    return len(message.encode() if isinstance(message, str) else message)


class Restarting:
    """An inflater that goes on behind a last block."""

    def __init__(self, bits: int) -> None:
        self._bits = bits
        self._zlib: zlib._Decompress | None = None
        self.unconsumed_tail = b""

    def decompress(self, data: bytes, max_length: int = 0) -> bytes:
        """As that of zlib."""
        inflated = b""
        while data:
            if self._zlib is None:
                if data == _TAIL:  # the last block has ended with the message's last byte
                    break
                self._zlib = zlib.decompressobj(-self._bits)
            inflated += self._zlib.decompress(data, max_length and max_length - len(inflated))
            if not self._zlib.eof:
                self.unconsumed_tail = self._zlib.unconsumed_tail
                return inflated
            data = self._zlib.unused_data
            self._zlib = None
            if max_length and len(inflated) == max_length:
                break
        self.unconsumed_tail = data
        return inflated

    def flush(self) -> bytes:
        """As that of zlib, of which nothing is left."""
        return b""


class _WebsocketsDeflate(PerMessageDeflate):
    @property
    def decoder(self) -> Any:
        return self._decoder

    @decoder.setter
    def decoder(self, _: object) -> None:
        self._decoder = Restarting(self.remote_max_window_bits)

    @decoder.deleter
    def decoder(self) -> None:
        del self._decoder


class _WsprotoDeflate(WsprotoDeflate):
    def frame_inbound_header(self, proto: Any, opcode: Any, rsv: Any, payload_length: int) -> Any:
        if opcode.iscontrol() and not rsv.rsv1:
            self._inbound_is_compressible = False
            return RsvBits(True, False, False)
        result = super().frame_inbound_header(proto, opcode, rsv, payload_length)
        if self._decompressor is not None and not isinstance(self._decompressor, Restarting):
            inflater: Any = Restarting(self.client_max_window_bits)
            self._decompressor = inflater
        return result

    def frame_inbound_complete(self, proto: Any, fin: bool) -> Any:
        if not self._inbound_is_compressible:
            return None
        return super().frame_inbound_complete(proto, fin)


MENDED = {
    _WsprotoDeflate: (
        'RFC 6455, 5.4: "Control frames (see Section 5.5) MAY be injected in the middle of a '
        'fragmented message"; '
        "wsproto 1.3 forgets with one that the message is compressed"
    ),
    Restarting: (
        "RFC 7692, 7.2.3.4: a message may end with a block that says to be the last; websockets "
        "17 and wsproto 1.3 take nothing that is compressed after it"
    ),
}
"""Faults of the others that were mended in this file."""


_CODES = {ProtocolError: 1002, UnicodeDecodeError: 1007, PayloadTooBig: 1009}


def websockets(case: Case) -> Verdict:
    """That of `websockets`."""
    verdict = Verdict()
    protocol = ServerProtocol(state=TheirState.OPEN, max_size=case.limit, logger=_quiet)
    if case.agreed is not None:
        agreed = case.agreed
        extension = _WebsocketsDeflate(
            agreed.client_no_takeover,
            agreed.server_no_takeover,
            agreed.client_bits,
            agreed.server_bits,
        )
        protocol.extensions = [extension]
    parts: list[bytes] = []
    opcode = Opcode.TEXT
    for number, piece in enumerate(case.pieces):
        if protocol.eof_sent:
            break
        if number == case.closes_at:
            protocol.send_close(1000)
        protocol.receive_data(piece)
        is_open = case.closes_at is None or number < case.closes_at
        for received in protocol.events_received():
            assert isinstance(received, TheirFrame)
            if received.opcode is Opcode.PING and is_open:
                verdict.pongs.append(bytes(received.data))
            elif received.opcode in {Opcode.TEXT, Opcode.BINARY, Opcode.CONT}:
                if received.opcode is not Opcode.CONT:
                    opcode = received.opcode
                parts.append(bytes(received.data))
                if received.fin:
                    whole = b"".join(parts)
                    parts.clear()
                    try:
                        message = whole.decode() if opcode is Opcode.TEXT else whole
                        if is_open:
                            verdict.messages.append(message)
                    except UnicodeDecodeError:
                        # It leaves that to who uses it, as its own server does.
                        verdict.code, verdict.failed = 1007, True
                        return verdict
    if protocol.parser_exc is not None:
        verdict.failed = True
        verdict.why = str(protocol.parser_exc)
        (verdict.code,) = (
            code for kind, code in _CODES.items() if isinstance(protocol.parser_exc, kind)
        )
    elif protocol.close_rcvd is not None:
        verdict.code = protocol.close_rcvd.code
        verdict.reason = protocol.close_rcvd.reason
    return verdict


_GOING_ON = {ConnectionState.OPEN, ConnectionState.LOCAL_CLOSING}


def wsproto(case: Case) -> Verdict:
    """That of `wsproto`."""
    verdict = Verdict()
    extensions: list[Any] = []
    if case.agreed is not None:
        extension = _WsprotoDeflate(
            client_no_context_takeover=case.agreed.client_no_takeover,
            client_max_window_bits=case.agreed.client_bits,
        )
        extension._enabled = True
        extensions.append(extension)
    connection = WsprotoConnection(ConnectionType.SERVER, extensions)
    parts: list[Any] = []
    size = 0
    for number, piece in enumerate(case.pieces):
        if number == case.closes_at:
            connection.send(CloseConnection(1000))
        connection.receive_data(piece)
        is_open = case.closes_at is None or number < case.closes_at
        for received in connection.events():
            if isinstance(received, Ping) and is_open:
                verdict.pongs.append(bytes(received.payload))
            elif isinstance(received, (TextMessage, BytesMessage)):
                parts.append(received.data)
                size += _size(received.data)
                if size > case.limit:  # it has no limit
                    verdict.code, verdict.failed = 1009, True
                    return verdict
                if received.message_finished and is_open:
                    empty: Any = "" if isinstance(received, TextMessage) else b""
                    verdict.messages.append(
                        empty.join(p if isinstance(p, str) else bytes(p) for p in parts)
                    )
                if received.message_finished:
                    parts.clear()
                    size = 0
            elif isinstance(received, CloseConnection):
                verdict.code = int(received.code)
                # It tells of a failure in the same way.
                verdict.failed = connection.state in _GOING_ON
                verdict.reason = "" if verdict.failed else received.reason or ""
                return verdict
    return verdict


@dataclass(frozen=True)
class Difference:
    """Two verdicts that are not the same.

    Attributes:
        judge: whose `they` is.
        case: what they are of.
        we: the wire's.
        they: the other one's.
    """

    judge: Callable[[Case], Verdict]
    case: Case
    we: Verdict
    they: Verdict

    @property
    def is_longer(self) -> bool:
        """All that one has delivered and answered the other has as well, and perhaps more."""
        short, long = sorted((self.we.messages, self.they.messages), key=len)
        first, more = sorted((self.we.pongs, self.they.pongs), key=len)
        return long[: len(short)] == short and more[: len(first)] == first

    @property
    def codes(self) -> tuple[int | None, int | None]:
        """Both codes."""
        return self.we.code, self.they.code

    @property
    def is_about_the_limit(self) -> bool:
        """Whether a message is too large; none that the wire delivers is, see `ours`."""
        if 1009 not in self.codes or not self.is_longer:
            return False
        if self.we.code != 1009:
            return True
        unlimited = self.judge(replace(self.case, limit=_NO_LIMIT)).messages
        others = unlimited[len(self.we.messages) :]
        return not others or _size(others[0]) > self.case.limit


@dataclass(frozen=True)
class Excuse:
    """A difference that is meant.

    Attributes:
        why: the RFC's sentence.
        of: whose it is, or "both".
        holds: whether a difference is that.
    """

    why: str
    of: str
    holds: Callable[[Difference], bool]


EXCUSED = [
    Excuse(
        'RFC 6455, 5.2: "the minimal number of bytes MUST be used to encode the length"',
        "websockets",
        lambda d: d.we.why == frames.LONG_LENGTH and d.is_longer,
    ),
    Excuse(
        'RFC 6455, 5.5: "All control frames MUST have a payload length of 125 bytes or less"; '
        "websockets takes one whose short length is in more bytes than it needs",
        "websockets",
        lambda d: d.we.why == frames.LARGE_CONTROL and d.is_longer,
    ),
    Excuse(
        'RFC 6455, 5.2: "the most significant bit MUST be 0"; a length that is broken is 1002',
        "websockets",
        lambda d: d.we.why == frames.HIGH_LENGTH and d.they.code == 1009,
    ),
    Excuse(
        'RFC 6455, 8.1: "MUST _Fail the WebSocket Connection_" where a text is not UTF-8; '
        "it is seen with the first such octet, and by websockets with the whole message",
        "websockets",
        lambda d: d.we.why == NOT_UTF8 and d.is_longer,
    ),
    Excuse(
        'RFC 6455, 5.4: "Control frames (see Section 5.5) MAY be injected in the middle of a '
        'fragmented message", a close frame as well; websockets fails there',
        "websockets",
        lambda d: not d.we.failed and d.they.why == "incomplete fragmented message",
    ),
    Excuse(
        'RFC 6455, 7.1.7: "An endpoint MUST NOT continue to attempt to process data"; of what '
        "is broken in two ways the first counts, and a broken deflate stream is 1007 here "
        "(7.4.1: data within a message that was not consistent with the type)",
        "websockets",
        lambda d: d.we.failed and d.they.failed and d.codes == (1007, 1002),
    ),
    Excuse(
        'RFC 6455, 7.1.7: "An endpoint MUST NOT continue to attempt to process data"; of a '
        "close frame websockets decodes the reason first, and we look at the code",
        "websockets",
        lambda d: d.we.why.startswith("close code") and d.they.code == 1007,
    ),
    Excuse(
        'RFC 6455, 5.4: "The fragments of one message MUST NOT be interleaved between the '
        'fragments of another message"; wsproto inflates them first',
        "wsproto",
        lambda d: d.we.why == AMID_ANOTHER and d.codes == (1002, 1007),
    ),
    Excuse(
        'RFC 6455, 10.4: implementations "MUST protect themselves against exceeding those '
        'limits": here of blocks that say to be the last (RFC 7692, 7.2.3.4)',
        "both",
        lambda d: d.we.why == LAST_BLOCKS and d.is_longer,
    ),
    Excuse(
        "RFC 6455, 11.7: codes are registered with IANA, and 1014 was (as 1012 and 1013); "
        "wsproto 1.3 does not know it",
        "wsproto",
        lambda d: d.they.code == 1002 and (d.we.code == 1014 or d.we.why == frames.BAD_REASON),
    ),
    Excuse(
        'RFC 6455, 1.4: after "a control frame indicating the connection should be closed" data '
        "is dropped, so here nobody looks what is wrong in a message behind our own close",
        "both",
        lambda d: d.case.closes_at is not None and d.they.failed and d.is_longer,
    ),
    Excuse(
        "RFC 6455, 10.4: a limit; who counts a message's compressed bytes, its head or its "
        "inflated ones fails sooner or later",
        "both",
        lambda d: d.is_about_the_limit,
    ),
]


def compare(judge: Callable[[Case], Verdict], case: Case) -> str:
    """Have both judge the same case; say whether it is the same, or what excuses it.

    Raises:
        AssertionError: a difference that is not named.
    """
    we, they = ours(case), judge(case)
    if we == they:
        return f"the same: {'failed ' if we.failed else ''}{we.code}"
    if (why := _excuse(Difference(judge, case, we, they))) is not None:
        return why
    if None in {we.code, they.code}:
        # Of a frame that is not there whole one sees sooner what is wrong than the other.
        longer = case.followed_by(bytes(case.limit + 200))
        then = Difference(judge, longer, ours(longer), judge(longer))
        # A length that had only begun may now be over the limit.
        are_alike = then.we.code == then.they.code or (we.code, then.they.code) == (1002, 1009)
        if are_alike and then.is_longer:
            return "the same, but sooner or later"
        if (why := _excuse(then)) is not None:
            return why
    raise AssertionError(
        f"{judge.__name__} says {they}\nthe wire says {we}\nof {case}\nor {case.data.hex()}"
    )


def _excuse(difference: Difference) -> str | None:
    for excuse in EXCUSED:
        if excuse.of in {difference.judge.__name__, "both"} and excuse.holds(difference):
            return excuse.why
    return None


def compare_all(case: Case) -> list[str]:
    """`compare` with each, and with the same stream that comes at once.

    Raises:
        AssertionError: a difference that is not named.
    """
    check_cuts(case)
    return [compare(judge, case) for judge in (websockets, wsproto)]


def check_cuts(case: Case) -> None:
    """How the stream is cut makes no difference.

    But of a compressed text that is too large and not UTF-8 either may be seen first.

    Raises:
        AssertionError: it makes one.
    """
    if len(case.pieces) == 1:
        return
    cut, whole = ours(case), ours(case.at_once)
    if case.agreed is not None and {cut.code, whole.code} == {1007, 1009}:
        whole.code = cut.code
    assert cut == whole, f"cut it is {cut}\nat once it is {whole}\nof {case}"
