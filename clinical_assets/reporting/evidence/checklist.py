"""A list of things that are asked of a model, each with its answer or with why there is none.

Belongs here: the shape of such a list, as JSON and as text. Does not belong here: any list.
"""

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Answer:
    """One thing asked: the paragraph or item that asks it, what it asks in our words, and the answer.

    `why_not` says why there is no answer, and is empty where there is one.
    """

    reference: str
    section: str
    asks: str
    answer: str | None
    why_not: str = ""

    def __post_init__(self) -> None:
        if bool(self.answer) == bool(self.why_not):
            raise ValueError(f"{self.reference}: give an answer, or why there is none")


@dataclass(frozen=True, slots=True)
class Checklist:
    """A whole list: what it is, its source, and what must be read before it (`caution`)."""

    title: str
    source: str
    caution: str
    answers: tuple[Answer, ...]

    @property
    def filled(self) -> int:
        """How many are answered."""
        return sum(item.answer is not None for item in self.answers)

    def to_json(self) -> str:
        """The list for programs."""
        completeness = {"asked": len(self.answers), "filled": self.filled}
        return json.dumps(asdict(self) | completeness, indent=2, ensure_ascii=False) + "\n"

    def to_markdown(self) -> str:
        """The list for readers."""
        lines = [f"# {self.title}", "", self.source, ""]
        lines += [f"**{self.caution}**", ""] if self.caution else []
        rest = "; of the others it is said why not" if self.filled < len(self.answers) else ""
        lines += [f"{self.filled} of {len(self.answers)} are filled{rest}.", ""]
        section = ""
        for item in self.answers:
            if item.section != section:
                section = item.section
                lines += [f"## {section}", ""]
            answer = item.answer or f"*not available: {item.why_not}*"
            lines += [f"**{item.reference}** {item.asks}", "", answer, ""]
        return "\n".join(lines)


def answer(reference: str, section: str, asks: str, found: str | None, why_not: str) -> Answer:
    """The answer that was found; or, where there is none, why not."""
    return Answer(reference, section, asks, found or None, "" if found else why_not)


def from_card(reference: str, section: str, asks: str, stated: str | None, field: str) -> Answer:
    """What only people know, from the protocol's card."""
    return answer(reference, section, asks, stated, f"the protocol's model_card does not state {field}")
