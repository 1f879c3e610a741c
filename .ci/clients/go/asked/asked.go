// Package asked removes backups of the sandbox through the client that it is given, with the answers of the
// cases, and prints the result of each, a line of JSON, for asked.py to check.
package asked

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"
)

// A Case is a backup to remove, and what the person answers: nil where the client declares no elicitation.
type Case struct {
	Server json.RawMessage
	Backup string
	Answer *Answer
}

// An Answer of a person.
type Answer struct {
	Action  string
	Content map[string]any
}

// A Client that is connected.
type Client struct {
	Version   string
	ListTools func() error
	// CallTool gives the text of the answer, and whether it is a refusal.
	CallTool func(name string, arguments map[string]any) (string, bool, error)
	Close    func() error
}

// An Asked person answers a question, of which there is the form.
type Asked func(message string, form any) Answer

// A Connect connects to a server by its command, or else by its URL. Without a function to ask, the client
// declares no elicitation.
type Connect func(ctx context.Context, command []string, url string, asked Asked) (*Client, error)

type question struct {
	Message string `json:"message"`
	Schema  any    `json:"schema"`
}

type backup struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

const database = "0de50000-0000-4000-8000-000000000001"

// Run goes through the cases, each with a connection of its own.
func Run(connect Connect) {
	var cases []Case
	check(json.Unmarshal([]byte(os.Args[2]), &cases))
	for _, one := range cases {
		run(one, connect)
	}
}

func run(one Case, connect Connect) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var command []string
	var url string
	if json.Unmarshal(one.Server, &url) != nil {
		check(json.Unmarshal(one.Server, &command))
	}
	questions := []question{}
	var asked Asked
	if one.Answer != nil {
		asked = func(message string, form any) Answer {
			questions = append(questions, question{message, form})
			return *one.Answer
		}
	}
	client, err := connect(ctx, command, url, asked)
	check(err)
	check(client.ListTools())
	before := listed(client)
	came, text := removal(client, one.Backup)
	after := listed(client)
	check(client.Close())
	check(json.NewEncoder(os.Stdout).Encode(map[string]any{
		"version": client.Version, "came": came, "text": text,
		"before": before, "after": after, "questions": questions,
	}))
}

func listed(client *Client) []backup {
	text, _, err := client.CallTool("list-database-backups", map[string]any{"databaseId": database})
	check(err)
	var list struct{ Backups []backup }
	check(json.Unmarshal([]byte(text), &list))
	return list.Backups
}

// What comes of it: the outcome, or else a refusal; and in which words.
func removal(client *Client, id string) (string, string) {
	arguments := map[string]any{"databaseId": database, "backupId": id}
	text, refused, err := client.CallTool("remove-database-backup", arguments)
	check(err)
	if refused {
		return "refused", text
	}
	var removal struct{ Outcome string }
	check(json.Unmarshal([]byte(text), &removal))
	return removal.Outcome, text
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
