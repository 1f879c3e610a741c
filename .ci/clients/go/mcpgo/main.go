// The command mcpgo is asked through mcp-go.
//
// Usage: mcpgo <era> <cases>
package main

import (
	"context"

	"github.com/mark3labs/mcp-go/client"
	"github.com/mark3labs/mcp-go/client/transport"
	"github.com/mark3labs/mcp-go/mcp"

	"gate/asked"
)

func main() { asked.Run(connect) }

func connect(ctx context.Context, command []string, url string, ask asked.Asked) (*asked.Client, error) {
	var way transport.Interface
	var err error
	if command == nil {
		way, err = transport.NewStreamableHTTP(url)
	} else {
		way = transport.NewStdio(command[0], nil, command[1:]...)
	}
	if err != nil {
		return nil, err
	}
	client := client.NewClient(way, options(ask)...)
	if err := client.Start(ctx); err != nil {
		return nil, err
	}
	start := mcp.InitializeRequest{}
	start.Params.ProtocolVersion = mcp.LATEST_PROTOCOL_VERSION
	start.Params.ClientInfo = mcp.Implementation{Name: "gate", Version: "1"}
	begun, err := client.Initialize(ctx, start)
	if err != nil {
		return nil, err
	}
	return &asked.Client{
		Version: begun.ProtocolVersion,
		ListTools: func() error {
			_, err := client.ListTools(ctx, mcp.ListToolsRequest{})
			return err
		},
		CallTool: func(name string, arguments map[string]any) (string, bool, error) {
			call := mcp.CallToolRequest{}
			call.Params.Name, call.Params.Arguments = name, arguments
			result, err := client.CallTool(ctx, call)
			if err != nil {
				return "", false, err
			}
			return result.Content[0].(mcp.TextContent).Text, result.IsError, nil
		},
		Close: client.Close,
	}, nil
}
