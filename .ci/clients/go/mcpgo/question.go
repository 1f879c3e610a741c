//go:build !old

package main

import (
	"context"

	"github.com/mark3labs/mcp-go/client"
	"github.com/mark3labs/mcp-go/mcp"

	"gate/asked"
)

type handler asked.Asked

func (ask handler) Elicit(_ context.Context, request mcp.ElicitationRequest) (*mcp.ElicitationResult, error) {
	answer := ask(request.Params.Message, request.Params.RequestedSchema)
	result := &mcp.ElicitationResult{}
	result.Action, result.Content = mcp.ElicitationResponseAction(answer.Action), answer.Content
	return result, nil
}

func options(ask asked.Asked) []client.ClientOption {
	if ask == nil {
		return nil
	}
	return []client.ClientOption{client.WithElicitationHandler(handler(ask))}
}
