"""`coatcheck.v1.SessionService`: each method's handler. Listing and ending are REST's own, in `commands`."""

from typing import Any

import grpc

from coatcheck.integrations.grpc import require_login
from coatcheck.server.commands import Commands
from coatcheck.server.revocation_feed import RevocationFeed
from coatcheck.server.rpc._generated import sessions_pb2 as pb
from coatcheck.server.rpc.callers import guarded
from coatcheck.server.rpc.checking import Checking
from coatcheck.server.rpc.conversing import Conversing
from coatcheck.server.rpc.messages import ended, listed
from coatcheck.server.rpc.watching import Watching
from coatcheck.server.services import Services
from coatcheck.session import current_session

__all__ = ["SERVICE", "session_service"]

SERVICE = pb.DESCRIPTOR.services_by_name["SessionService"].full_name


class _Sessions:
    """A user's own sessions, one call each."""

    def __init__(self, services: Services) -> None:
        self._commands = Commands(services)

    @require_login()
    async def list(self, _: pb.ListRequest, context: Any) -> pb.ListResponse:
        return listed(await self._commands.list(current_session()))

    @require_login()
    async def end(self, request: pb.EndRequest, context: Any) -> pb.EndResponse:
        session = current_session()
        if request.session_id == session.id:
            await session.log_out()  # so that the answer deletes its cookie
        elif not await self._commands.end(session, request.session_id):
            await context.abort(grpc.StatusCode.NOT_FOUND, "You have no session with this id.")
        return pb.EndResponse()

    @require_login()
    async def end_all(self, _: pb.EndAllRequest, context: Any) -> pb.EndAllResponse:
        return ended(await self._commands.end_others(current_session()))


def session_service(services: Services, feed: RevocationFeed) -> grpc.GenericRpcHandler:
    """Give what answers the service's methods."""
    sessions, checking = _Sessions(services), Checking(services)
    watching, conversing = Watching(services, feed), Conversing(services)
    handlers = {
        "Check": grpc.unary_unary_rpc_method_handler(
            guarded(checking.check), pb.CheckRequest.FromString, pb.CheckResponse.SerializeToString
        ),
        "List": grpc.unary_unary_rpc_method_handler(
            guarded(sessions.list), pb.ListRequest.FromString, pb.ListResponse.SerializeToString
        ),
        "End": grpc.unary_unary_rpc_method_handler(
            guarded(sessions.end), pb.EndRequest.FromString, pb.EndResponse.SerializeToString
        ),
        "EndAll": grpc.unary_unary_rpc_method_handler(
            guarded(sessions.end_all), pb.EndAllRequest.FromString, pb.EndAllResponse.SerializeToString
        ),
        "Watch": grpc.unary_stream_rpc_method_handler(
            guarded(watching.watch), pb.WatchRequest.FromString, pb.WatchResponse.SerializeToString
        ),
        "Converse": grpc.stream_stream_rpc_method_handler(
            guarded(conversing.converse), pb.ConverseRequest.FromString, pb.ConverseResponse.SerializeToString
        ),
    }
    return grpc.method_handlers_generic_handler(SERVICE, handlers)
