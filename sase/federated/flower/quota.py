"""How much a silo may store at the server: bounds of the objects of its reply to one message."""

import threading

MAX_OBJECTS = 20_000  # of one reply
MAX_BYTES = 1 << 30  # of one reply


class ReplyQuota:
    """Counts the objects that nodes push, by reply; a reply that is announced again shares the quota of the first.

    Flower accepts one reply to every message, so a silo stores at most so much in a round.
    """

    def __init__(self) -> None:
        self._sessions: dict[str, tuple[int, str]] = {}  # push session to the reply it belongs to
        self._stored: dict[tuple[int, str], int] = {}  # reply to bytes
        self._lock = threading.Lock()

    def open(self, session: str, node: int, message: str) -> None:
        """Begin a push session of the reply of a node to a message, which ends that reply's earlier session."""
        with self._lock:
            reply = node, message
            self._sessions = {key: other for key, other in self._sessions.items() if other != reply}
            self._sessions[session] = reply
            self._stored.setdefault(reply, 0)

    def admits(self, session: str, size: int) -> bool:
        """Count an object of ``size`` bytes; return whether the reply of this session is within its bound."""
        with self._lock:
            reply = self._sessions.get(session)
            if reply is None or self._stored[reply] + size > MAX_BYTES:
                return False
            self._stored[reply] += size
            return True
