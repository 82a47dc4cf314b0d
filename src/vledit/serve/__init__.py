"""An edited model behind an API: it answers OpenAI's clients, and edits can be made and removed while it runs.

`app.create_app` assembles the server; `vledit serve` starts it.  Nothing is imported here: FastAPI, SQLAlchemy and the model
load when a server does.
"""
