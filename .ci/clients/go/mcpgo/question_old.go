//go:build old

package main

import (
	"github.com/mark3labs/mcp-go/client"

	"gate/asked"
)

// Its release came before the question.
func options(asked.Asked) []client.ClientOption { return nil }
