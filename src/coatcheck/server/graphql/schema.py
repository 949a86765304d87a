"""The GraphQL schema: what may be asked, done and listened to. Leaves doing it to `actions`, and transports to the endpoint.

Every field is nullable, so that one which is refused leaves the others their answers.
"""

import contextlib
import functools
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import Any, cast

import strawberry
from graphql import GraphQLError
from starlette.websockets import WebSocket
from strawberry.extensions import DisableIntrospection, SchemaExtension
from strawberry.schema.config import StrawberryConfig
from strawberry.types import ExecutionContext
from strawberry.types.graphql import OperationType

from coatcheck.errors import StoreUnavailable
from coatcheck.integrations.strawberry import LoginRequired
from coatcheck.server.actions import logins, sessions, users
from coatcheck.server.actions.access import user_of
from coatcheck.server.commands import Commands
from coatcheck.server.connection_facts import connection_of
from coatcheck.server.graphql import limits, types
from coatcheck.server.graphql.context import Context, Info
from coatcheck.server.graphql.errors import tell
from coatcheck.server.problems import ProblemError

__all__ = ["schema"]


@strawberry.type
class Query:
    """What may be asked."""

    @strawberry.field(permission_classes=[LoginRequired])
    async def me(self, info: Info) -> types.Me | None:
        """Who is logged in."""
        return types.me(await user_of(info.context.session, info.context.services))

    @strawberry.field(permission_classes=[LoginRequired])
    async def user(self, info: Info, id: strawberry.ID) -> types.Person | None:
        """What any logged-in user may know of another."""
        found = await users.find_user(info.context.services, id)
        return types.Person(id=strawberry.ID(found.id), name=found.name)

    @strawberry.field(permission_classes=[LoginRequired])
    async def sessions(self, info: Info) -> list[types.Session] | None:
        """Every live session of the user, oldest first."""
        listed = await Commands(info.context.services).list(info.context.session)
        return [types.session(one, listed.current) for one in listed.sessions]

    @strawberry.field
    async def connection(self, info: Info) -> types.Connection | None:
        """Protocol, TLS, age, and how many requests this connection has brought. Nobody needs to be logged in."""
        return types.connection(connection_of(info.context.request.scope))


@strawberry.type
class Mutation:
    """What may be done. By HTTP POST alone, since a cookie may have to be set."""

    @strawberry.mutation
    async def register(self, info: Info, username: str, password: str, name: str = "") -> types.Me | None:
        """Make an account. Logs nobody in. Usernames have up to 64 characters, passwords 8 to 1024 bytes."""
        context = info.context
        made = await users.register(
            context.services, context.http_request, username=username, password=password, name=name
        )
        return types.me(made)

    @strawberry.mutation
    async def login(
        self,
        info: Info,
        username: str,
        password: str,
        remember: bool = False,
        mode: types.LoginMode = types.LoginMode.COOKIE,
    ) -> types.Login | None:
        """Log in. The answer sets the session cookie, which outlives the browser's session if it is to be remembered.

        With mode TOKEN it makes a session of its own, and the answer has tokens instead.
        """
        context = info.context
        entered = await logins.log_in(
            context.services,
            context.http_request,
            context.response,
            context.session,
            username=username,
            password=password,
            remember=remember,
            by_token=mode is types.LoginMode.TOKEN,
        )
        return types.login(entered)

    @strawberry.mutation
    async def logout(self, info: Info) -> bool | None:
        """End this session, everywhere. Harmless where nobody is logged in."""
        await info.context.session.log_out()
        return True

    @strawberry.mutation(permission_classes=[LoginRequired])
    async def reauthenticate(self, info: Info, password: str) -> types.Login | None:
        """Give the password again, for what needs a recent login. The session goes on under a new secret."""
        context = info.context
        entered = await logins.reauthenticate(
            context.services, context.http_request, context.session, password=password
        )
        return types.login(entered)

    @strawberry.mutation(permission_classes=[LoginRequired])
    async def change_password(self, info: Info, current_password: str, new_password: str) -> types.Login | None:
        """Change the password. Ends every other session of the user; this one goes on under a new secret."""
        context = info.context
        entered = await users.change_password(
            context.services,
            context.http_request,
            context.session,
            current_password=current_password,
            new_password=new_password,
        )
        return types.login(entered)

    @strawberry.mutation(permission_classes=[LoginRequired])
    async def end_session(self, info: Info, id: strawberry.ID) -> bool | None:
        """End one of the user's sessions, this one included."""
        await sessions.end_session(info.context.services, info.context.session, id)
        return True

    @strawberry.mutation(permission_classes=[LoginRequired])
    async def end_other_sessions(self, info: Info) -> int | None:
        """End every session of the user but this one, logins under way included; their number."""
        return await Commands(info.context.services).end_others(info.context.session)

    @strawberry.mutation(permission_classes=[LoginRequired])
    async def rename_session(self, info: Info, id: strawberry.ID, name: str) -> types.Session | None:
        """Call the device of one of the user's sessions something, in up to 100 characters; an empty name takes it back."""
        session = info.context.session
        renamed = await sessions.rename_session(info.context.services, session, id, name)
        return types.session(renamed, session.id)


@strawberry.type
class Subscription:
    """What may be listened to, until the session ends."""

    @strawberry.subscription(permission_classes=[LoginRequired])
    async def session_events(
        self, info: Info, after: strawberry.ID | None = None
    ) -> AsyncGenerator[types.SessionEvent, None]:
        """What happens to the user's sessions, from the event `after` on, or from now on."""
        session = info.context.session
        assert session.user_id is not None
        following = info.context.services.activity.follow(session.user_id, after=after)
        async with contextlib.aclosing(following) as told:
            async for one in told:
                yield types.session_event(one, session.id)


class _Bounds(SchemaExtension):
    """Refuses a document before it costs anything: one that asks for too much; over a WebSocket, mutations and the dead."""

    def on_operation(self) -> Iterator[None]:
        self.execution_context.parse_options["max_tokens"] = limits.MOST_TOKENS
        yield

    async def on_validate(self) -> AsyncIterator[None]:
        execution = self.execution_context
        assert execution.graphql_document is not None
        context: Context = execution.context
        named = execution._provided_operation_name is not None  # pyright: ignore[reportPrivateUsage]
        refused = limits.check(execution.graphql_document, named=named)
        if refused is not None:
            execution.pre_execution_errors = [GraphQLError(refused, extensions={"code": "BAD_REQUEST"})]
        elif isinstance(context.request, WebSocket):
            problem = await _over_a_websocket(context, execution.operation_type)
            if problem is not None:
                execution.pre_execution_errors = [GraphQLError("", original_error=problem)]
        yield


async def _over_a_websocket(context: Context, operation: OperationType) -> Exception | None:
    """Why an operation goes no further on a connection that may have been open for days."""
    if operation is OperationType.MUTATION:
        return ProblemError(400, "Over a WebSocket no cookie can be set: send mutations by HTTP POST.")
    try:
        if context.session.is_authenticated and not await Commands(context.services).lives(context.session):
            return ProblemError(401, "Your session has ended.")
    except StoreUnavailable as error:
        return error
    return None


class _Schema(strawberry.Schema):
    def process_errors(self, errors: list[GraphQLError], execution_context: ExecutionContext | None = None) -> None:
        # Strawberry would log each with the document around it, in which there may be a password.
        context = cast("Context | None", execution_context and execution_context.context)
        by_bearer = context is not None and context.session.by_bearer
        for error in errors:
            tell(error, by_bearer=by_bearer, suggestions=not self.config.disable_field_suggestions)


@functools.cache
def schema(*, introspection: bool) -> strawberry.Schema:
    """Give the schema. With `introspection` it tells of itself, and names what somebody may have meant."""
    extensions: list[Any] = [_Bounds]
    if not introspection:
        extensions.append(DisableIntrospection)
    _describe(Query, Mutation, Subscription, *types.TYPES)
    return _Schema(
        query=Query,
        mutation=Mutation,
        subscription=Subscription,
        extensions=extensions,
        config=StrawberryConfig(scalar_map=types.SCALARS, disable_field_suggestions=not introspection),
    )


def _describe(*classes: Any) -> None:
    """Have the schema say of types and fields what their docstrings say."""
    for one in classes:
        definition = one.__strawberry_definition__
        definition.description = inspect.getdoc(one)
        for field in getattr(definition, "fields", ()):
            if field.base_resolver is not None:
                field.description = inspect.getdoc(field.base_resolver.wrapped_func)
