"""Builds an editing benchmark from (picture, question, answer) records, as OKEDIT was built from OK-VQA, and verifies it.

The steps for a record: `sources` reads it; `texts` asks a language model for the counterfactual answer, rephrasings, the object
and the third answer (`prompts/`, `asking`, `chat`); `drawing` has pictures made (`picture_models`); `verifying` asks a
vision-language model what it sees in them; `writing` puts the accepted items into OKEDIT's layout, splits by object, and
writes the data card, the list of rejections and the contact sheets. Every reply, picture and answer is stored under
the hash of its request (`store`), so an interrupted run continues where it stopped.
Source: BalancEdit, App. A.
"""
