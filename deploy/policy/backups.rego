# What a Qovery policy token may do: list, add and remove the backups of these databases, and nothing
# else. Put the ids of your own here, in lower case. There is no package: Qovery gives it one.

databases := {
	"0de50000-0000-4000-8000-000000000001",
	"0de50000-0000-4000-8000-000000000002",
}

default allow := false

allow if {
	input.request.method in {"GET", "POST"}
	some database in databases
	input.request.path == ["api", "database", database, "backup"]
}

# The fifth part has to be an id, so that no other path below the list is ever allowed.
allow if {
	input.request.method == "DELETE"
	some database in databases
	count(input.request.path) == 5
	array.slice(input.request.path, 0, 4) == ["api", "database", database, "backup"]
	regex.match(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`, input.request.path[4])
}
