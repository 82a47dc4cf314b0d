"""Drafts move into the store, so that every replica can commit them."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Makes the tables of drafts."""
    op.create_table(
        "drafts",
        sa.Column("job", sa.String(40), primary_key=True),
        sa.Column("created", sa.String(40), nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sa.Column("thumbnail", sa.LargeBinary),
        sa.Column("digest", sa.LargeBinary),
    )
    op.create_table(
        "draft_tensors",
        sa.Column("job", sa.String(40), sa.ForeignKey("drafts.job"), primary_key=True),
        sa.Column("part", sa.String(200), primary_key=True),
        sa.Column("data", sa.LargeBinary, nullable=False),
    )


def downgrade() -> None:
    """Drops them."""
    op.drop_table("draft_tensors")
    op.drop_table("drafts")
