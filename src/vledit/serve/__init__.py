"""An edited model behind an API: asked as OpenAI's clients ask, edited and taken back while it runs.

`app.create_app` puts it together; `vledit serve` starts it.  Nothing is imported here: FastAPI, SQLAlchemy and the model
load when a server does.
"""
