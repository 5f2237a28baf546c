"""The Huffman code of RFC 7541, read a whole byte at a time.

A node of the code's tree has a row that says, for each byte that may follow, which symbols that completes and at which
node it ends. A row is made when it is first needed: texts as they occur need a few dozen of the 256.
"""

from server.transports.http2.hpack_tables import CODE_BITS, EOS

_PADDING_BITS = 7
_NO_SYMBOL = b""


class Invalid(Exception):
    """These bytes are no text in this code."""


class _Node:
    """A place in the tree. A text may end where `ends` says: all that came since the last symbol is padding."""

    __slots__ = ("ends", "one", "row", "symbol", "zero")

    def __init__(self, symbol: bytes) -> None:
        self.symbol = symbol
        self.zero = self.one = self
        self.ends = False
        self.row: list[tuple[_Node, bytes]] = []


def decode(data: bytes) -> bytes:
    """Return the text, or raise Invalid: EOS within it, or padding that is too long or not all ones."""
    node = _ROOT
    texts: list[bytes] = []
    append = texts.append
    while True:
        try:
            for byte in data[len(texts) :]:
                node, text = node.row[byte]
                append(text)
            break
        except IndexError:
            node.row = _row(node)
    if not node.ends:
        raise Invalid
    return b"".join(texts)


def _row(node: _Node) -> list[tuple[_Node, bytes]]:
    """Follow all bytes at once, bit by bit: the list doubles with each, and stays in the order of the bytes."""
    row = [(node, b"")]
    for _ in range(8):
        row = [_follow(child, text) for at, text in row for child in (at.zero, at.one)]
    return row


def _follow(node: _Node, text: bytes) -> tuple[_Node, bytes]:
    return (_ROOT, text + node.symbol) if node.symbol else (node, text)


def _tree() -> _Node:
    """Build the tree from its deepest level up. In a canonical code the leaves of a level stand before its nodes."""
    level: list[_Node] = []
    for depth in range(max(CODE_BITS), 0, -1):
        level = [_leaf(symbol) for symbol, bits in enumerate(CODE_BITS) if bits == depth] + level
        level = [_join(zero, one) for zero, one in zip(level[::2], level[1::2], strict=True)]
    return level[0]


def _leaf(symbol: int) -> _Node:
    """EOS becomes a node that nothing leads out of, and where no text may end."""
    return _Node(_NO_SYMBOL if symbol == EOS else bytes((symbol,)))


def _join(zero: _Node, one: _Node) -> _Node:
    node = _Node(_NO_SYMBOL)
    node.zero, node.one = zero, one
    return node


def _mark_ends(node: _Node) -> None:
    """A text ends after a symbol, or up to seven bits into EOS, which are all ones."""
    for _ in range(_PADDING_BITS + 1):
        node.ends = True
        node = node.one


_ROOT = _tree()
_mark_ends(_ROOT)
