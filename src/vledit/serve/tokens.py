"""The API of tokens, for those with the scope `admin`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict, Field

from .access import Person
from .edits import writable
from .parts import Allowed, service_of

router = APIRouter(prefix="/v1/tokens", tags=["tokens"])
Admin = Annotated[Person, Depends(Allowed("admin"))]


class NewToken(BaseModel):
    """For whom, and what it may do; each scope holds those before it."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(min_length=1, max_length=200)
    scopes: list[Literal["read", "edit", "admin"]] = Field(min_length=1, max_length=3)


@router.get("")
async def listed(request: Request, _person: Admin) -> dict[str, Any]:
    """All tokens, without their secrets, which nobody knows."""
    found = await run_in_threadpool(service_of(request).tokens.all)
    return {"object": "list", "data": [vars(token) for token in found]}


@router.post("", status_code=201)
async def create(request: Request, body: NewToken, _person: Admin) -> dict[str, Any]:
    """Make a token.  It is shown this once; only a hash of it is kept."""
    name = writable("name", body.name)
    secret, token = await run_in_threadpool(service_of(request).tokens.create, name, body.scopes)
    return {**vars(token), "token": secret}


@router.delete("/{id}", status_code=204, response_class=Response)
async def revoke(request: Request, id: str, _person: Admin) -> Response:
    """Take a token back; within five seconds nobody takes it any more."""
    await run_in_threadpool(service_of(request).tokens.revoke, writable("id", id))
    return Response(status_code=204)
