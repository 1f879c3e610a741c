// The command gosdk is asked through the official Go SDK.
//
// Usage: gosdk <era> <cases>
package main

import (
	"context"
	"os/exec"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"gate/asked"
)

func main() { asked.Run(connect) }

func connect(ctx context.Context, command []string, url string, ask asked.Asked) (*asked.Client, error) {
	options := &mcp.ClientOptions{}
	if ask != nil {
		options.ElicitationHandler = func(_ context.Context, question *mcp.ElicitRequest) (*mcp.ElicitResult, error) {
			answer := ask(question.Params.Message, question.Params.RequestedSchema)
			return &mcp.ElicitResult{Action: answer.Action, Content: answer.Content}, nil
		}
	}
	var transport mcp.Transport
	if command == nil {
		transport = &mcp.StreamableClientTransport{Endpoint: url}
	} else {
		transport = &mcp.CommandTransport{Command: exec.Command(command[0], command[1:]...)}
	}
	client := mcp.NewClient(&mcp.Implementation{Name: "gate", Version: "1"}, options)
	session, err := client.Connect(ctx, transport, nil)
	if err != nil {
		return nil, err
	}
	return &asked.Client{
		Version: session.InitializeResult().ProtocolVersion,
		ListTools: func() error {
			_, err := session.ListTools(ctx, nil)
			return err
		},
		CallTool: func(name string, arguments map[string]any) (string, bool, error) {
			result, err := session.CallTool(ctx, &mcp.CallToolParams{Name: name, Arguments: arguments})
			if err != nil {
				return "", false, err
			}
			return result.Content[0].(*mcp.TextContent).Text, result.IsError, nil
		},
		Close: session.Close,
	}, nil
}
