import io.modelcontextprotocol.client.McpClient;
import io.modelcontextprotocol.client.McpSyncClient;
import io.modelcontextprotocol.client.transport.HttpClientStreamableHttpTransport;
import io.modelcontextprotocol.client.transport.ServerParameters;
import io.modelcontextprotocol.client.transport.StdioClientTransport;
import io.modelcontextprotocol.json.McpJsonDefaults;
import io.modelcontextprotocol.json.McpJsonMapper;
import io.modelcontextprotocol.spec.McpClientTransport;
import io.modelcontextprotocol.spec.McpSchema.CallToolRequest;
import io.modelcontextprotocol.spec.McpSchema.CallToolResult;
import io.modelcontextprotocol.spec.McpSchema.ElicitResult;
import io.modelcontextprotocol.spec.McpSchema.TextContent;
import java.net.URI;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/**
 * Removes backups of the sandbox through the Java client, with the answers of the cases, and prints the
 * result of each, a line of JSON, for asked.py to check.
 *
 * <p>Usage: Asked legacy CASES
 */
class Asked {
    static final String DATABASE = "0de50000-0000-4000-8000-000000000001";
    static final Duration TIMEOUT = Duration.ofSeconds(10);
    static final McpJsonMapper JSON = McpJsonDefaults.getMapper();

    record Answer(String action, Map<String, Object> content) {}

    record Case(Object server, String backup, Answer answer) {}

    record Question(String message, Map<String, Object> schema) {}

    record Backup(Object id, Object name) {}

    record Came(
            String version,
            Object came,
            String text,
            List<Backup> before,
            List<Backup> after,
            List<Question> questions) {}

    public static void main(String[] arguments) throws Exception {
        for (Case one : JSON.readValue(arguments[1], Case[].class)) {
            System.out.println(JSON.writeValueAsString(run(one)));
        }
    }

    static Came run(Case one) throws Exception {
        var questions = new ArrayList<Question>();
        var specification = McpClient.sync(transport(one.server())).requestTimeout(TIMEOUT);
        // With it the client says that it can ask.
        if (one.answer() != null) {
            specification.elicitation(request -> {
                questions.add(new Question(request.message(), request.requestedSchema()));
                var action = ElicitResult.Action.valueOf(one.answer().action().toUpperCase());
                return new ElicitResult(action, one.answer().content());
            });
        }
        try (var client = specification.build()) {
            var version = client.initialize().protocolVersion();
            // From here on it checks each result against the tool's schema.
            client.listTools();
            var before = listed(client);
            var result = call(client, "remove-database-backup", Map.of("backupId", one.backup()));
            var text = text(result);
            var refused = Boolean.TRUE.equals(result.isError());
            var came = refused ? "refused" : JSON.readValue(text, Map.class).get("outcome");
            return new Came(version, came, text, before, listed(client), questions);
        }
    }

    static McpClientTransport transport(Object server) {
        if (server instanceof List<?> command) {
            var words = command.stream().map(String.class::cast).toList();
            var parameters = ServerParameters.builder(words.get(0)).args(words.subList(1, words.size()));
            return new StdioClientTransport(parameters.build(), JSON);
        }
        var address = URI.create((String) server);
        return HttpClientStreamableHttpTransport.builder(address.resolve("/").toString())
                .endpoint(address.getPath())
                .build();
    }

    static CallToolResult call(McpSyncClient client, String tool, Map<String, Object> more) {
        var arguments = new HashMap<>(more);
        arguments.put("databaseId", DATABASE);
        return client.callTool(CallToolRequest.builder(tool).arguments(arguments).build());
    }

    static String text(CallToolResult result) {
        return ((TextContent) result.content().get(0)).text();
    }

    static List<Backup> listed(McpSyncClient client) throws Exception {
        var list = JSON.readValue(text(call(client, "list-database-backups", Map.of())), Map.class);
        return ((List<?>) list.get("backups"))
                .stream()
                        .map(Map.class::cast)
                        .map(backup -> new Backup(backup.get("id"), backup.get("name")))
                        .toList();
    }
}
