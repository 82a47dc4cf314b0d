"""Finding texts by meaning: a sentence encoder and an exact index of its vectors.

from vledit.retrieval import Index, encoder

index = Index(encoder(), ["What is this?", "Who made this thing?"])
numbers, similarities = index.search(["Which company built it?"], k=1)
"""

from .encoder import DEFAULT, Encoder, encoder
from .index import Index

__all__ = ["DEFAULT", "Encoder", "Index", "encoder"]
