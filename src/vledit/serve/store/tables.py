"""The tables: edits and their tensors are written once, revisions and facts are only ever added to."""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    Column,
    Float,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

metadata = MetaData()

meta = Table("meta", metadata, Column("name", String(64), primary_key=True), Column("value", Text, nullable=False))

edits = Table(
    "edits",
    metadata,
    Column("id", String(200), primary_key=True),
    Column("number", Integer, nullable=False, unique=True),
    Column("question", Text, nullable=False),
    Column("answer", Text, nullable=False),
    Column("site", String(200), nullable=False),
    Column("record", Text, nullable=False),
    Column("thumbnail", LargeBinary),
    Column("digest", LargeBinary, nullable=False),
)
"""One edit as `codebook.record` packs it; `number` says how new it is."""

tensors = Table(
    "tensors",
    metadata,
    Column("edit", String(200), ForeignKey("edits.id"), primary_key=True),
    Column("part", String(200), primary_key=True),
    Column("data", LargeBinary, nullable=False),
)

revisions = Table(
    "revisions",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("time", String(40), nullable=False),
    Column("author", String(200), nullable=False),
    Column("reason", Text, nullable=False),
    Column("action", String(40), nullable=False),
    Column("edit", String(200)),
    Column("detail", Text, nullable=False),
)

facts = Table(
    "facts",
    metadata,
    Column("revision", Integer, ForeignKey("revisions.number"), primary_key=True),
    Column("edit", String(200), ForeignKey("edits.id"), primary_key=True),
    Column("disabled", Boolean, nullable=False),
    Column("removed", Boolean, nullable=False),
    Column("replaced_by", String(200)),
    Column("radius", Float(53)),
)
"""What is known of an edit from this revision on (`facts.Facts`)."""

jobs = Table(
    "jobs",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("created", String(40), nullable=False),
    Column("document", Text, nullable=False),
)

probes = Table(
    "probes",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("created", String(40), nullable=False),
    Column("question", Text, nullable=False),
    Column("picture", LargeBinary),
    Column("note", Text, nullable=False),
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("name", String(200), nullable=False),
    Column("hash", String(64), nullable=False, unique=True),
    Column("scopes", String(100), nullable=False),
    Column("created", String(40), nullable=False),
    Column("revoked", String(40)),
)
"""Only the SHA-256 of a token is kept; a token itself has 256 random bits."""

drafts = Table(
    "drafts",
    metadata,
    Column("job", String(40), primary_key=True),
    Column("created", String(40), nullable=False),
    Column("document", Text, nullable=False),
    Column("thumbnail", LargeBinary),
    Column("digest", LargeBinary),
)

draft_tensors = Table(
    "draft_tensors",
    metadata,
    Column("job", String(40), ForeignKey("drafts.job"), primary_key=True),
    Column("part", String(200), primary_key=True),
    Column("data", LargeBinary, nullable=False),
)
