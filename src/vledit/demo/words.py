"""The demo's results put into sentences, the same ones in the terminal and on the page."""

from __future__ import annotations

from .play import Played, Row

VERDICTS = {
    "follows": "follows",
    "stays": "stays",
    "missed": "does not follow",
    "leaked": "changed, should not have",
}


def verdict(row: Row) -> str:
    """What became of a row; where nothing was promised, just whether the answer changed."""
    return VERDICTS.get(row.verdict, "changed as well" if row.changed else "unchanged")


def remarks(played: Played) -> list[tuple[str, bool]]:
    """(sentence, whether it tells of a failure)."""
    lines = [follows(played), stays(played), facts(played), undone(played)]
    wrong = [row for row in played.rows if row.base_right is False]
    if wrong:
        listed = "; ".join(f"{row.question.label}: “{row.before}”, right is “{row.question.right}”" for row in wrong)
        lines.append((f"The base model was wrong on {len(wrong)} of these questions before any edit: {listed}.", False))
    if played.story.left_out:
        lines.append((f"Left out because the base does not know the mark: {', '.join(played.story.left_out)}.", False))
    return lines


def follows(played: Played) -> tuple[str, bool]:
    """What should have changed."""
    story = played.story
    hands, wordings = played.tally("hand"), played.tally("wording")
    edited = played.rows[0]
    text = (
        f"Asked about the edited picture, the model said “{edited.before}” and now says “{edited.after}”. "
        f"So it does for {hands[0]} of {hands[1]} drawings of the mark by other hands "
        f"and {wordings[0]} of {wordings[1]} other wordings."
    )
    missed = played.tally("edited")[0] == 0 or hands[0] < hands[1] or wordings[0] < wordings[1]
    if len([row for row in played.rows if row.question.kind == "hand"]) < 3:
        text += f" (The data set holds fewer than three other drawings of {story.brand}'s mark.)"
    return text, missed


def stays(played: Played) -> tuple[str, bool]:
    """What should not have changed."""
    brands, rest = played.tally("brand"), played.tally("black", "text")
    others = f"{brands[0]} of {brands[1]} other brands" if brands[1] else "no other brand, for the base knows none"
    text = (
        f"Unchanged: {others}, and {rest[0]} of {rest[1]} among the black picture and the questions without a picture."
    )
    return text, brands[0] < brands[1] or rest[0] < rest[1]


def facts(played: Played) -> tuple[str, bool]:
    """Other questions about the edited mark: what happened is told, with the reason where the edit fired."""
    rows = [row for row in played.rows if row.question.kind == "fact"]
    fired = [row for row in rows if row.decision.fired]
    if not fired:
        return (
            f"The {len(rows)} other questions about the same mark lay outside of the radius and keep their answers.",
            False,
        )
    answers = "; ".join(
        f"“{row.question.question}” " + (f"{row.before} → {row.after}" if row.changed else f"{row.before}, as before")
        for row in fired
    )
    text = f"The edit also fired on {len(fired)} of {len(rows)} other questions about the same mark: {answers}."
    if played.entry.key_tokens == "mean":
        text += (
            " The paper's key is the mean over picture and question together, and the picture has more tokens than the question, "
            "so its scope is about the picture more than about what is asked."
        )
    return text, False


def undone(played: Played) -> tuple[str, bool]:
    """What the removal left behind."""
    same = sum(row.restored == row.before for row in played.rows)
    weights = (
        f" The weights of the base have the same SHA-256 as at the start ({played.weights_after})."
        if played.weights_after and played.weights_before == played.weights_after
        else ""
    )
    text = f"The edit was removed: {same} of {len(played.rows)} answers are as before.{weights}"
    return text, not played.undone
