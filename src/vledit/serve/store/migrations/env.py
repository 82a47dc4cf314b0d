"""Alembic runs this to bring a store to the newest schema, on the connection that it is handed."""

from alembic import context

from vledit.serve.store.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, transactional_ddl=True)
context.run_migrations()
