"""All that the fake remembers: counts, tokens, documents and settings. Pure: no I/O, and the clock is given."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxy.fake import keys
from proxy.fake.counts import Counts, Tally
from proxy.fake.faults import (
    Action,
    Answers,
    Denials,
    Expire,
    Inbox,
    Logins,
    OnlyNewest,
    Reset,
    Revoke,
    Shape,
    Turns,
)
from proxy.fake.tokens import Clock, Tokens

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.fake.script import Script


@dataclass(slots=True)
class Document:
    """A fiscal document that was issued, and how often its emission was asked for."""

    natural: keys.Natural
    chave: str
    emissions: int = 0


class State:
    """What a running fake knows; script steps fall due at the next arrival, look or action after their trigger."""

    def __init__(self, script: Script, clock: Clock) -> None:
        self.on_count: Callable[[], None] = lambda: None
        self.tokens = Tokens(clock)
        self._clock = clock
        self._pending = list(script.steps)
        self.start()
        self._forget()

    def start(self) -> None:
        """Let the script's time run from now."""
        self._started = self._clock()

    def _forget(self) -> None:
        self.counts = Counts()
        self.logins = Turns(Logins())
        self.answers = Turns(Answers())
        self.inbox = Inbox()
        self._shape = Shape.BY_PATH
        self._paths: Counter[str] = Counter()
        self._by_name: dict[str, Document] = {}
        self._by_chave: dict[str, Document] = {}
        self.tokens.lifetime = Expire()
        self.tokens.only_newest = False

    def count(self, tally: Tally) -> None:
        """Add one."""
        self.counts[tally] += 1
        self.on_count()

    def login_arrives(self, path: str) -> Logins:
        """Count a login and say how to answer it."""
        self._advance()
        self.count(Tally.LOGINS)
        return self.logins.take(path)

    def request_arrives(self, method: str, path: str) -> None:
        """Count a request to the API."""
        self._advance()
        self._paths[f"{method} {path}"] += 1
        self.count(Tally.REQUESTS)

    def denial(self, path: str) -> Shape:
        """Count a 401 and say what it looks like: one host may mix backends, so that it differs per path."""
        self.count(Tally.UNAUTHORIZED)
        if self._shape is Shape.BY_PATH:
            return Shape.JSON if path.startswith("/api/nfe") else Shape.EMPTY
        return self._shape

    def emit(self, natural: keys.Natural, *, keep: bool) -> tuple[Document, bool]:
        """The document of that natural key and whether it was there before; it is remembered only if told so."""
        known = self._by_name.get(natural.name)
        document = known or Document(natural, natural.chave or keys.make_access_key(natural))
        if keep:
            self._by_name[natural.name] = self._by_chave[document.chave] = document
            document.emissions += 1
            self.count(Tally.DUPLICATES if known else Tally.DOCUMENTS)
        return document, known is not None

    def document(self, chave: str) -> Document | None:
        """The document of that access key."""
        return self._by_chave.get(chave)

    def numbered(self, asked: keys.Natural | None) -> Document | None:
        """The first document with the parts of a natural key that are asked for."""
        found = (each for each in self._by_name.values() if asked and each.natural.answers(asked))
        return next(found, None)

    def snapshot(self, *, documents: bool = False) -> dict[str, object]:
        """The counters, requests by method and path and, if asked for, emissions by natural key."""
        self._advance()
        state: dict[str, object] = {tally.value: self.counts[tally] for tally in Tally}
        state["paths"] = dict(self._paths)
        if documents:
            state["emissions"] = {name: each.emissions for name, each in self._by_name.items()}
        return state

    def apply(self, action: Action) -> None:
        """Do what an action says, after what the script has due."""
        self._advance()
        self._apply(action)

    def _advance(self) -> None:
        for step in tuple(self._pending):
            if step.due(self.counts, self._clock() - self._started):
                self._pending.remove(step)
                self._apply(step.action)

    def _apply(self, action: Action) -> None:
        match action:
            case Reset():
                self._forget()
            case Revoke():
                self.tokens.revoke()
            case Expire():
                self.tokens.lifetime = action
            case OnlyNewest():
                self.tokens.only_newest = action.on
            case Denials():
                self._shape = action.shape
            case Inbox():
                self.inbox = action
            case Logins():
                self.logins.set(action)
            case Answers():
                self.answers.set(action)
