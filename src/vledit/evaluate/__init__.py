"""Scoring edits: the questions (`prepared`), the protocols (`protocols`) and the figures (`metrics`)."""
