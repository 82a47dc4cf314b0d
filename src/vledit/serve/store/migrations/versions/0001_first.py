"""The first schema: edits, tensors, revisions, facts, jobs, probes, tokens."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Makes the tables."""
    op.create_table(
        "meta", sa.Column("name", sa.String(64), primary_key=True), sa.Column("value", sa.Text, nullable=False)
    )
    op.create_table(
        "edits",
        sa.Column("id", sa.String(200), primary_key=True),
        sa.Column("number", sa.Integer, nullable=False, unique=True),
        sa.Column("question", sa.Text, nullable=False),
        sa.Column("answer", sa.Text, nullable=False),
        sa.Column("site", sa.String(200), nullable=False),
        sa.Column("record", sa.Text, nullable=False),
        sa.Column("thumbnail", sa.LargeBinary),
        sa.Column("digest", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "tensors",
        sa.Column("edit", sa.String(200), sa.ForeignKey("edits.id"), primary_key=True),
        sa.Column("part", sa.String(200), primary_key=True),
        sa.Column("data", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "revisions",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("time", sa.String(40), nullable=False),
        sa.Column("author", sa.String(200), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("action", sa.String(40), nullable=False),
        sa.Column("edit", sa.String(200)),
        sa.Column("detail", sa.Text, nullable=False),
    )
    op.create_table(
        "facts",
        sa.Column("revision", sa.Integer, sa.ForeignKey("revisions.number"), primary_key=True),
        sa.Column("edit", sa.String(200), sa.ForeignKey("edits.id"), primary_key=True),
        sa.Column("disabled", sa.Boolean, nullable=False),
        sa.Column("removed", sa.Boolean, nullable=False),
        sa.Column("replaced_by", sa.String(200)),
        sa.Column("radius", sa.Float(53)),
    )
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("created", sa.String(40), nullable=False),
        sa.Column("document", sa.Text, nullable=False),
    )
    op.create_table(
        "probes",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("created", sa.String(40), nullable=False),
        sa.Column("question", sa.Text, nullable=False),
        sa.Column("picture", sa.LargeBinary),
        sa.Column("note", sa.Text, nullable=False),
    )
    op.create_table(
        "tokens",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False, unique=True),
        sa.Column("scopes", sa.String(100), nullable=False),
        sa.Column("created", sa.String(40), nullable=False),
        sa.Column("revoked", sa.String(40)),
    )


def downgrade() -> None:
    """Drops the tables."""
    for name in ("tokens", "probes", "jobs", "facts", "revisions", "tensors", "edits", "meta"):
        op.drop_table(name)
