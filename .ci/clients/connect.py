"""Connects the Python clients to the server, over stdio or HTTP."""

import contextlib
import sys
from pathlib import Path
from types import SimpleNamespace

import httpx2
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS

STATELESS = ["2026-07-28"]
# How a client begins, and which versions may come of it. `auto` sends `server/discover` first and falls back
# to the handshake; a version as the mode sends its first request without either.
MODES = {"legacy": HANDSHAKE_PROTOCOL_VERSIONS, "auto": STATELESS, "2026-07-28": STATELESS}


@contextlib.asynccontextmanager
async def python(server, mode, directory, *, elicit=None, token=None):
    """A connection of the Python client. `server` is a command, or the URL of a running server; `elicit` answers
    questions, and without it the client declares no elicitation."""
    faults = []

    async def on_message(message):
        if isinstance(message, Exception):
            faults.append(message)

    callback = elicit and (lambda _context, params: elicit(params))
    options = {"mode": mode, "read_timeout_seconds": 10, "message_handler": on_message}
    async with contextlib.AsyncExitStack() as stack:
        if isinstance(server, list):
            parameters = StdioServerParameters(command=server[0], args=server[1:], cwd=directory)
            server = stdio_client(parameters, errlog=stack.enter_context(shown_on_failure(directory)))
        elif token:
            headers = {"Authorization": f"Bearer {token}"}
            http = await stack.enter_async_context(httpx2.AsyncClient(headers=headers, timeout=30))
            server = streamable_http_client(server, http_client=http)
        yield await stack.enter_async_context(Client(server, elicitation_callback=callback, **options))
    if faults:
        raise AssertionError(f"the transport had errors: {faults}")


@contextlib.contextmanager
def shown_on_failure(directory):
    """A file for a server's log, printed only if the block fails."""
    with Path(directory, "log").open("w+") as log:
        try:
            yield log
        except BaseException:
            log.seek(0)
            sys.stderr.write(log.read())
            raise


@contextlib.asynccontextmanager
async def fastmcp(server, mode, directory, *, elicit=None, token=None):
    """The same with FastMCP's client, with the methods of the Python client."""
    # The gate does not have it.
    from fastmcp import Client as FastClient
    from fastmcp.client.transports import StdioTransport, StreamableHttpTransport

    if isinstance(server, list):
        transport = StdioTransport(server[0], server[1:], cwd=directory, keep_alive=False)
    else:
        transport = StreamableHttpTransport(server, auth=token)
    handler = elicit and (lambda _message, _type, params, _context: elicit(params))
    async with FastClient(transport, mode=mode, timeout=10, elicitation_handler=handler) as client:

        async def list_tools():
            return SimpleNamespace(tools=await client.list_tools())

        version = client.protocol_version
        yield SimpleNamespace(list_tools=list_tools, call_tool=client.call_tool_mcp, protocol_version=version)
