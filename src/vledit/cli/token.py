"""`vledit token`: who may ask, edit and administer a served model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from ..errors import MissingDataError
from .output import Json, console, emit

if TYPE_CHECKING:
    from ..serve.store.tokens import TokenStore

Store = Annotated[
    str,
    typer.Option(
        "--store",
        envvar="VLEDIT_STORE",
        help="Where the server keeps its edits: a file, or postgresql://user@host/name.",
    ),
]


def register(app: typer.Typer) -> None:
    """Adds the group."""
    group = typer.Typer(no_args_is_help=True, help="Create, list and revoke the access tokens of a server.")
    group.command("create")(create)
    group.command("list")(listed)
    group.command("revoke")(revoke)
    app.add_typer(group, name="token")


def create(
    name: Annotated[str, typer.Argument(help="Name of the person or program; it appears in the history.")],
    scope: Annotated[
        list[str] | None,
        typer.Option("--scope", help="read, edit or admin; each includes the ones before it.  [default: edit]"),
    ] = None,
    store: Store = "vledit-serve.db",
    json: Json = False,
) -> None:
    """Create a token and print it.  This is the only time it is shown; the server keeps a hash of it."""
    secret, token = _tokens(store).create(name, scope or ["edit"])
    if json:
        emit({**vars(token), "token": secret})
        return
    console().print(secret, markup=False, soft_wrap=True)


def listed(store: Store = "vledit-serve.db", json: Json = False) -> None:
    """List tokens, without their secrets."""
    found = _tokens(store).all()
    if json:
        emit([vars(token) for token in found])
        return
    table = Table("id", "name", "scopes", "created", "revoked", box=None)
    for token in found:
        table.add_row(token.id, token.name, ", ".join(token.scopes), token.created[:19], (token.revoked or "")[:19])
    console().print(table)


def revoke(
    id: Annotated[str, typer.Argument(help="Id of the token; `vledit token list` shows it.")],
    store: Store = "vledit-serve.db",
    json: Json = False,
) -> None:
    """Revoke a token: requests that carry it are refused from now on."""
    _tokens(store).revoke(id)
    if json:
        emit({"revoked": id})


def _tokens(store: str) -> TokenStore:
    try:
        from ..serve.store.database import migrate, open_engine
        from ..serve.store.tokens import TokenStore
    except ImportError as error:
        raise MissingDataError(f"token: {error.name} is not installed. Run `pip install 'vledit[serve]'`.") from error
    engine = open_engine(store)
    migrate(engine)
    return TokenStore(engine)
