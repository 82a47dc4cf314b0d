"""Builds an editing benchmark out of (picture, question, answer) records, as OKEDIT was built out of OK-VQA, and verifies it.

The way of a record: `sources` reads it; `texts` asks a language model for the counterfactual answer, rephrasings, the object
and the third answer (`prompts/`, `asking`, `chat`); `drawing` has pictures made (`picture_models`); `verifying` asks a
vision-language model what it sees in them; `writing` puts what was accepted into OKEDIT's layout, splits by object, and
writes the data card, the list of what was rejected and the sheets for a human. Every reply, picture and answer is kept by
the hash of what it is an answer to (`store`), so a run that was killed goes on where it was.
Source: BalancEdit, App. A.
"""
