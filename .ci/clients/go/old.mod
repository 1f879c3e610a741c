module gate

go 1.25.5

require (
	github.com/mark3labs/mcp-go v0.31.0
	github.com/modelcontextprotocol/go-sdk v0.8.0
)

require (
	github.com/google/jsonschema-go v0.3.0 // indirect
	github.com/google/uuid v1.6.0 // indirect
	github.com/spf13/cast v1.7.1 // indirect
	github.com/yosida95/uritemplate/v3 v3.0.2 // indirect
)
