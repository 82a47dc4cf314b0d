"""Scoring edits: what is asked (`prepared`), how (`protocols`), and what the numbers are (`metrics`)."""
