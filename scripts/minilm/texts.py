"""Texts whose activations decide the factors of channels: sorts of text that memory holds."""

from __future__ import annotations

from typing import Final

TEXTS: Final = (
    "",
    "no",
    "Thanks!",
    "???",
    "2026-11-26 09:36:11",
    "What did we agree on at the last meeting?",
    "Which agent handles invoices from suppliers in Spain?",
    "The customer prefers to be called after four in the afternoon.",
    "Deploy the new version on Tuesday, after the backup has finished.",
    "Alice works for the finance department and reports to Bob.",
    "The disk of node seven is full; writes are refused until space is freed.",
    "Return the index of the first element that is greater than or equal to the given value.",
    "Raises ValueError if the sequence is empty or the number of samples is negative.",
    "A context manager that closes the connection on exit, even when an exception was raised.",
    "for index, value in enumerate(values):\n    total += value * weights[index]",
    "class Stack:\n    def __init__(self):\n        self.items = []",
    "INSERT INTO orders (customer, amount, placed) VALUES ('Smith', 120.50, '2026-01-31');",
    '{"action": "analyze", "file": "sales.csv", "columns": ["region", "revenue"]}',
    "Traceback (most recent call last): KeyError: 'user_id'",
    "GET /api/v1/agents HTTP/1.1 404 12ms 10.0.0.5",
    "kubectl apply -f deployment.yaml && kubectl rollout status deployment/web",
    "Photosynthesis turns light, water and carbon dioxide into sugar and oxygen.",
    "The treaty was signed in 1648 and ended thirty years of war in central Europe.",
    "He laughed so hard that he dropped his coffee on the keyboard.",
    "Interest rates were raised by a quarter of a point, to 4.75 percent.",
    "Two tablespoons of olive oil, a clove of garlic, a pinch of salt, and a litre of stock.",
    "The goalkeeper saved a penalty in the last minute, and the match ended without a goal.",
    "El tren sale a las ocho de la mañana desde el andén número tres.",
    "La réunion est reportée à jeudi prochain parce que la salle est occupée.",
    "Die Rechnung wurde gestern bezahlt, aber die Lieferung steht noch aus.",
    "会議は来週の月曜日に延期されました。",
    "Встреча перенесена на понедельник.",
    "اجتماعنا غدا في الساعة العاشرة",
    "👍 done ✅",
    "A node joins through any seed, learns the members by gossip, and announces what its agents can do. When "
    "it leaves, it says so, and the messages that waited for it are given to other providers of the same "
    "capability. When it dies without a word, its peers notice within seconds, and what it had not settled "
    "is sent again. " * 2,
)
