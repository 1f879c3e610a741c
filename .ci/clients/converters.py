"""Hands the server's tools to what turns them into tools of a model's API: google-genai, the OpenAI Agents
SDK, Pydantic AI and LangChain; and to each of them a schema that it is known to choke on.

Usage: python -W error converters.py <server>
"""

import asyncio
import copy
import sys
import tempfile

from agents.strict_schema import ensure_strict_json_schema
from fastmcp.client.transports import StdioTransport
from google.genai._mcp_utils import mcp_to_gemini_tool
from langchain_core.utils.function_calling import convert_to_openai_tool
from langchain_mcp_adapters.tools import convert_mcp_tool_to_langchain_tool
from mcp import ClientSession, StdioServerParameters, stdio_client
from mcp.types import Tool
from pydantic_ai import RunContext
from pydantic_ai.mcp import MCPToolset
from pydantic_ai.models.test import TestModel
from pydantic_ai.profiles.google import GoogleJsonSchemaTransformer
from pydantic_ai.profiles.openai import OpenAIJsonSchemaTransformer
from pydantic_ai.usage import RunUsage

server = sys.argv[1]
DATABASE = {"databaseId": "0de50000-0000-4000-8000-000000000001"}
CALLS = {
    "list-database-backups": DATABASE,
    "add-backup-database": DATABASE | {"name": "gate"},
    "remove-database-backup": DATABASE | {"backupId": "bac00000-0000-4000-8000-000000000001"},
}


def expect(condition, otherwise):
    if not condition:
        raise AssertionError(otherwise)


def gemini(tool):
    (declaration,) = mcp_to_gemini_tool(tool).function_declarations
    return declaration.name, set(declaration.parameters.properties)


def openai(tool):
    schema = ensure_strict_json_schema(copy.deepcopy(tool.inputSchema))
    expect(set(schema["required"]) == set(schema["properties"]), f"it is not strict: {schema}")
    return tool.name, set(schema["properties"])


def pydantic_ai(tool):
    """As its models of two makers do with what its toolset gives them."""
    names = [
        set(transformer(copy.deepcopy(tool.inputSchema), strict=strict).walk()["properties"])
        for transformer, strict in [(OpenAIJsonSchemaTransformer, True), (GoogleJsonSchemaTransformer, None)]
    ]
    expect(names[0] == names[1], f"they differ: {names}")
    return tool.name, names[0]


def langchain(tool):
    converted = convert_mcp_tool_to_langchain_tool(None, tool, connection={"transport": "stdio"})
    function = convert_to_openai_tool(converted)["function"]
    return function["name"], set(function["parameters"]["properties"])


def schema(**property_):
    return {"type": "object", "properties": {"a": property_}}


# Each with what it is known to choke on.
CONVERTERS = {
    "google-genai": (gemini, schema(type="string") | {"additionalProperties": False}),
    "OpenAI Agents SDK": (openai, schema(type="string") | {"additionalProperties": True}),
    "Pydantic AI": (pydantic_ai, schema(type="array")),
    "LangChain": (langchain, schema(**{"$ref": "#/$defs/Absent"})),
}


async def main(directory, log):
    parameters = StdioServerParameters(command=server, args=["--sandbox"], cwd=directory)
    async with stdio_client(parameters, log) as streams, ClientSession(*streams) as session:
        await session.initialize()
        tools = (await session.list_tools()).tools
        expect([tool.name for tool in tools] == list(CALLS), f"the tools are {tools}")
        for name, (convert, bad) in CONVERTERS.items():
            for tool in tools:
                converted = convert(tool)
                due = tool.name, set(tool.inputSchema["properties"])
                expect(converted == due, f"{name}: it became {converted}")
            try:
                convert(Tool(name="bad", inputSchema=bad))
            except Exception as error:
                print(f"{name}: {len(tools)} tools; the bad one: {type(error).__name__}: {error}"[:110])
            else:
                raise AssertionError(f"{name} does not choke on {bad}")
        for tool in tools:
            called = convert_mcp_tool_to_langchain_tool(session, tool)
            call = {"type": "tool_call", "id": "1", "name": tool.name, "args": CALLS[tool.name]}
            message = await called.ainvoke(call)
            expect(message.status == "success", f"LangChain, {tool.name}: {message}")
            expect(message.artifact["structured_content"], f"LangChain, {tool.name}: no structure")

    # This one comes with a client of its own.
    transport = StdioTransport(server, ["--sandbox"], cwd=directory, log_file=log)
    async with MCPToolset(transport) as toolset:
        context = RunContext(deps=None, model=TestModel(), usage=RunUsage())
        tools = await toolset.get_tools(context)
        expect(list(tools) == list(CALLS), f"the tools are {tools}")
        for name, arguments in CALLS.items():
            result = await toolset.call_tool(name, arguments, context, tools[name])
            expect("note" in result or "outcome" in result, f"Pydantic AI, {name}: {result}")
    print("the tools are called through LangChain and Pydantic AI")


# An empty directory has no .env file that the server would read. What the server logs is no complaint.
with tempfile.TemporaryDirectory() as directory, tempfile.TemporaryFile("w") as log:
    asyncio.run(main(directory, log))
