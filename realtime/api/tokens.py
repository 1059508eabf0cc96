"""HTTP calls about public access tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec import UNSET
from starlette.responses import Response

from realtime.api.bodies import TokenAnswer, TokenBody
from realtime.api.problems import FieldError, unprocessable
from realtime.api.routing import SMALL, Call, Operation, Resource, answer
from realtime.auth import SCOPES_MAX, SKIPPABLE, TOKEN_CHARS_MAX, check_scope
from store.model import rfc3339


async def create(call: Call) -> Response:
    call.writer()
    body = call.parse(await call.raw_body(2 * SMALL), TokenBody)
    errors = [
        FieldError(f"scopes.{place}", wrong)
        for place, scope in enumerate(body.scopes[:SCOPES_MAX])
        if (wrong := check_scope(scope)) is not None
    ]
    if not 1 <= len(body.scopes) <= SCOPES_MAX:
        errors.append(FieldError("scopes", f"a token has 1 to {SCOPES_MAX} scopes"))
    errors += [
        FieldError(f"skip.{place}", "is no field of a run that may be left out")
        for place, name in enumerate(body.skip)
        if name not in SKIPPABLE
    ]
    triggers = any(scope.startswith("trigger:") for scope in body.scopes)
    if body.one_time is True and not triggers:
        errors.append(FieldError("oneTime", "only a token that triggers can be one-time"))
    if errors:
        raise unprocessable(errors[:SCOPES_MAX])
    signer = await call.services.authority.signer(call.project)
    token = signer.sign(
        list(dict.fromkeys(body.scopes)),
        expires_in_s=body.expires_in,
        skip=sorted(set(body.skip)),
        one_time=triggers if body.one_time is UNSET else body.one_time,
    )
    if len(token.token) > TOKEN_CHARS_MAX:
        raise unprocessable([FieldError("scopes", "are too long together for one token")])
    return answer(
        {"token": token.token, "id": token.id, "expiresAt": rfc3339(token.expires_at)}, 201
    )


async def revoke(call: Call) -> Response:
    call.writer()
    token_id = call.id("token")
    await call.no_body()
    await call.services.authority.revoke_token(call.project, token_id)
    return Response(status_code=204, headers={"Cache-Control": "no-store"})


RESOURCES: Final[Sequence[Resource]] = (
    Resource(
        "/v1/tokens",
        "tokens",
        {
            "POST": Operation(
                name="createToken",
                summary="Make a public access token, for a browser or an app",
                handle=create,
                body=TokenBody,
                answers={201: TokenAnswer},
                problems=(413,),
            )
        },
    ),
    Resource(
        "/v1/tokens/{id}",
        "tokens",
        {
            "DELETE": Operation(
                name="revokeToken",
                summary="Take a token back; its open streams end within a second",
                handle=revoke,
                answers={204: None},
                problems=(404, 413),
            )
        },
    ),
)
