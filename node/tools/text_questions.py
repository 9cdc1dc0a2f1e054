"""What the built-in server ``text`` computes from plain text: summaries, minutes, terms. No model, no guess.

Every sentence of an answer stands in the text; what is added are counts, places and the names of patterns
that matched. A line number says where each finding is, so that a reader can check it.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from node.errors import ValidationFailed

LINE_LIMIT: Final = 2_000
"""Longest line that is looked at, in characters; the rest of a longer one is left out."""
LINES_LIMIT: Final = 50_000
"""Most lines of a text."""
FINDINGS_LIMIT: Final = 50
"""Most findings of one kind in an answer."""
KEYWORDS: Final = 8
SENTENCE_LIMIT: Final = 400
"""Longest sentence of a summary, in characters."""

_WORD: Final = re.compile(r"[^\W\d_][\w'-]*")
_SENTENCE_END: Final = re.compile(r"(?<=[.!?])\s+(?=[\"'(]?[A-Z0-9À-Ý])")
_COMMON: Final = frozenset(
    re.findall(
        r"\w+",
        "a about after all also an and any are as at be been before but by can could did do does for"
        " from had has have he her his how i if in into is it its just may more most no nor not of on"
        " one only or other our out over she should so some such than that the their them then there"
        " these they this those to under up us was we were what when which while who whose why will with"
        " would yes yet you your",
    )
)
_MONTH: Final = r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*"
_DATE: Final = re.compile(
    rf"\b(\d{{4}}-\d{{2}}-\d{{2}}|\d{{1,2}}\.? {_MONTH}(?: \d{{4}})?|{_MONTH} \d{{1,2}}(?:, \d{{4}})?"
    r"|\d{1,2}\.\d{1,2}\.\d{4})\b"
)
_DAY: Final = (
    r"(?:today|tomorrow|(?:next )?(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day|next (?:week|month)|end of \w+)"
)
_DUE: Final = re.compile(
    rf"\b(?:by|before|until|due(?: on)?|on)[: ]+({_DATE.pattern[2:-2]}|{_DAY})\b", re.IGNORECASE
)
_MARK: Final = re.compile(r"^\s*(?:[-*+•]|\d{1,3}[.)])?\s*")
_ACTION: Final = re.compile(
    r"^(?:action(?: items?)?|todo|to do|task|next steps?|ai)\s*[:-]\s*(.+)$", re.IGNORECASE
)
_BOX: Final = re.compile(r"^\[( |x|X)\]\s*(.+)$")
_WILL: Final = re.compile(
    r"^([A-Z][\w.-]*(?: [A-Z][\w.-]*)?)(?: will | to | shall | needs? to | is going to |\s*:\s*)(.+)$"
)
_OWNER: Final = re.compile(r"[(\[@](?:owner[: ]+)?@?([A-Z][\w.-]*(?: [A-Z][\w.-]*)?)[)\]]?\s*\.?$")
_DECISION: Final = re.compile(r"^decisions?(?: made)?\s*[:-]\s*(.+)$", re.IGNORECASE)
_DECIDED: Final = re.compile(
    r"\b(?:we|team|group|board|everyone|it was) (?:have |has )?(?:agreed|decided)\b", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Line:
    """A line that holds something, with its number from 1."""

    number: int
    text: str


def summary(text: str, sentences: int) -> dict[str, Any]:
    """The sentences that say most by the words that the text repeats, in the order of the text."""
    split = [s for line in lines(text) for s in _SENTENCE_END.split(line.text) if len(s.split()) > 2]
    found = [s for s in split if s.rstrip("\"')")[-1:] in (".", "!", "?")] or split  # else headings would win
    frequency = Counter(word for s in found for word in _words(s))
    ranked = sorted(range(len(found)), key=lambda n: (-_weight(found[n], frequency), n))
    chosen = [found[n][:SENTENCE_LIMIT] for n in sorted(ranked[:sentences])]
    words = sum(len(_WORD.findall(line.text)) for line in lines(text))
    keywords = [word for word, count in frequency.most_common(KEYWORDS) if count > 1]
    facts = [f"{words:,} words in {len(found):,} sentences, of which these say most:", *chosen]
    if keywords:
        facts.append(f"Repeated most: {', '.join(keywords)}")
    return {"words": words, "sentences": len(found), "summary": chosen, "keywords": keywords, "facts": facts}


def minutes(text: str) -> dict[str, Any]:
    """Actions with owner and date, decisions, open questions and dates of a meeting's notes."""
    actions: list[dict[str, Any]] = []
    decisions: list[dict[str, Any]] = []
    questions: list[dict[str, Any]] = []
    dates: dict[str, int] = {}
    for line in lines(text):
        plain = _MARK.sub("", line.text).strip()
        for date in _DATE.findall(plain):
            dates.setdefault(date, line.number)
        action = _action(plain)
        if action is not None:
            actions.append({**action, "line": line.number})
            continue
        decision = _DECISION.match(plain)
        if decision or _DECIDED.search(plain):
            decisions.append({"decision": decision[1] if decision else plain, "line": line.number})
        questions += [
            {"question": part, "line": line.number}
            for part in _SENTENCE_END.split(plain)
            if part.endswith("?") and len(part) > 3
        ]
    facts = [_action_fact(action) for action in actions]
    facts += [f"Decision: {entry['decision']}" for entry in decisions]
    facts += [f"Open question: {entry['question']}" for entry in questions]
    facts += [f"Dates named: {', '.join(dates)}"] if dates else []
    return {
        "actions": actions[:FINDINGS_LIMIT],
        "decisions": decisions[:FINDINGS_LIMIT],
        "questions": questions[:FINDINGS_LIMIT],
        "dates": [{"date": date, "line": number} for date, number in dates.items()][:FINDINGS_LIMIT],
        "facts": facts or ["The notes name no action, decision, question or date."],
    }


def glossary(text: str, terms: Sequence[tuple[str, str]], translation: str | None) -> dict[str, Any]:
    """The terms of a glossary in a text, with their translations; and which a translation does not use.

    Args:
        text: The text.
        terms: Term and translation; the longest that fits wins.
        translation: A translation of the text that is checked, if there is one.
    """
    by_term = {term.casefold(): (term, other) for term, other in terms if term and other}
    if not by_term:
        raise ValidationFailed("the glossary has no terms", why="it needs two columns, term and translation")
    ordered = sorted(by_term, key=lambda term: (-len(term), term))
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, ordered))})(?!\w)", re.IGNORECASE)
    occurrences = Counter(found.group().casefold() for found in pattern.finditer(text))
    marked = pattern.sub(lambda found: by_term[found.group().casefold()][1], text)
    known: list[dict[str, Any]] = [
        {"term": by_term[key][0], "translation": by_term[key][1], "count": count}
        for key, count in occurrences.items()
    ]
    facts = [
        f"{entry['term']} -> {entry['translation']} ({counted(entry['count'], 'time')})"
        for entry in known[:FINDINGS_LIMIT]
    ]
    found: dict[str, Any] = {"terms": known[:FINDINGS_LIMIT], "text": marked}
    if translation is not None:
        folded = translation.casefold()
        found["missing"] = [e["term"] for e in known if e["translation"].casefold() not in folded]
        facts.append(
            f"Not translated as the glossary has it: {', '.join(found['missing'])}"
            if found["missing"]
            else "The translation uses the glossary's words throughout."
        )
    else:
        facts.append(f"With the glossary's words: {marked[:SENTENCE_LIMIT]}")
    return found | {"facts": facts if known else ["None of the glossary's terms is in the text."]}


def lines(text: str) -> Iterator[Line]:
    """The lines of a text that are not empty.

    Raises:
        ValidationFailed: there are too many.
    """
    split = text.splitlines()
    if len(split) > LINES_LIMIT:
        raise ValidationFailed(
            "the text is too long", why=f"{len(split):,} lines; at most {LINES_LIMIT:,} are read"
        )
    for number, line in enumerate(split, 1):
        stripped = line[:LINE_LIMIT].strip()
        if stripped:
            yield Line(number, stripped)


def counted(count: int, word: str) -> str:
    """``1 error``, ``2 errors``."""
    return f"{count:,} {word}" + ("" if count == 1 else "s")


def _words(text: str) -> list[str]:
    return [
        word for word in (w.casefold() for w in _WORD.findall(text)) if word not in _COMMON and len(word) > 2
    ]


def _weight(sentence: str, frequency: Counter[str]) -> float:
    """How much a sentence says: by its words that the text repeats; length helps, but not in proportion."""
    words = _words(sentence)
    return sum(frequency[word] - 1 for word in words) / (math.sqrt(len(words)) + 1)


def _action(plain: str) -> dict[str, Any] | None:
    """What is to be done, by whom and until when, if a line says so."""
    box, named = _BOX.match(plain), _ACTION.match(plain)
    if box is None and named is None:
        will = re.match(r"^[A-Z][\w.-]* (?:will|shall) ", plain)
        if will is None:
            return None
    task = (box[2] if box else named[1] if named else plain).strip()
    owner = None
    by, whom = _WILL.match(task), _OWNER.search(task)
    if by is not None:
        owner, task = by[1], by[2]
    elif whom is not None:
        owner, task = whom[1], task[: whom.start()].strip()
    due = _DUE.search(task)
    if due is not None:
        task = (task[: due.start()] + task[due.end() :]).strip()
    task = " ".join(task.split()).rstrip(" .,;")
    if not task:
        return None
    return {"task": task, "owner": owner, "due": due[1] if due else None, "done": bool(box and box[1] != " ")}


def _action_fact(action: dict[str, Any]) -> str:
    who = f" - {action['owner']}" if action["owner"] else ""
    when = f", by {action['due']}" if action["due"] else ""
    return f"Action{' (done)' if action['done'] else ''}: {action['task']}{who}{when}"
