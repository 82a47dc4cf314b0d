"""Questions that hardly any edit is about, to see at a glance whether something else has changed."""

from __future__ import annotations

from .case import Probe

QUESTIONS = (
    "What is the capital of France?",
    "How many days are there in a week?",
    "What colour is a banana?",
    "Which animal barks?",
    "What do bees make?",
    "What is the opposite of hot?",
    "How many legs does a spider have?",
    "Which season comes after winter?",
    "What is two plus three?",
    "What is frozen water called?",
    "Which planet do we live on?",
    "What do people read?",
    "Which language is spoken in Spain?",
    "What is the first month of the year?",
    "What do you use to cut paper?",
    "Which metal is a coin of gold made of?",
    "Who wrote Hamlet?",
    "What falls from the sky when it rains?",
    "How many sides has a triangle?",
    "What is the largest ocean?",
)


def unrelated(count: int = len(QUESTIONS)) -> list[Probe]:
    """The first `count` questions, without pictures; VLEdit's own wording."""
    return [Probe(None, question, id=f"unrelated/{n}") for n, question in enumerate(QUESTIONS[:count])]
