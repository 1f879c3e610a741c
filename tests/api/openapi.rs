//! The OpenAPI document against a server that serves it. What can't be seen from outside, `src/rest`
//! compares itself: paths, schemas and failures.

use qovery_backups_mcp::sandbox::Sandbox;
use serde_json::{Value, json};

use crate::{
    app::{Server, TestApp, serve_sandbox},
    connection::Request,
    expect::contains,
    upstreams::{Reply, Upstream, backup_id},
};

const COMMITTED: &str = include_str!("../../src/rest/openapi.json");

/// An operation, as the document has it.
struct Operation {
    method: &'static str,
    path: String,
    parameters: Vec<Value>,
    details: Value,
}

/// What reads and adds before what removes.
fn operations() -> Vec<Operation> {
    let document: Value = serde_json::from_str(COMMITTED).unwrap();
    let mut operations = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            let Some(details) = item.get(method.to_lowercase()) else {
                continue;
            };
            let parameters = [&item["parameters"], &details["parameters"]];
            let parameters = parameters.into_iter().filter_map(Value::as_array).flatten();
            operations.push(Operation {
                method,
                path: path.clone(),
                parameters: parameters.cloned().collect(),
                details: details.clone(),
            });
        }
    }
    assert_eq!(operations.len(), 3);
    operations
}

impl Operation {
    fn names(&self, place: &str) -> Vec<&str> {
        let there = self.parameters.iter().filter(|found| found["in"] == place);
        there.map(|found| found["name"].as_str().unwrap()).collect()
    }

    /// A request that does not fail, but for what is given in place of a parameter's value.
    fn request(&self, replaced: Option<(&str, &str)>) -> Request {
        let value = |name: &str, valid: &str| match replaced {
            Some((other, value)) if other == name => value.to_owned(),
            _ => valid.to_owned(),
        };
        let mut target = self.path.clone();
        for name in self.names("path") {
            let valid = match name {
                "databaseid" => Sandbox::ORDERS,
                _ => &backup_id(1),
            };
            target = target.replace(&format!("{{{name}}}"), &value(name, valid));
        }
        assert!(!target.contains('{'), "{target}");
        if let Some((name, value)) = replaced
            && !self.path.contains(name)
        {
            target = format!("{target}?{name}={value}");
        }
        match self.details.get("requestBody") {
            Some(_) => Request::post(&target, &json!({ "name": "n", "message": "m" })),
            None => Request::new(self.method, &target),
        }
    }
}

#[tokio::test]
async fn the_document_is_served_as_it_is_committed() {
    let server = serve_sandbox(&[]).await;
    let answer = server.rest(Request::get("/openapi.json")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.text(), COMMITTED);
}

#[test]
fn every_reference_of_the_document_leads_somewhere() {
    fn references(value: &Value) -> Vec<&str> {
        match value {
            Value::Object(members) => {
                let own = members.get("$ref").and_then(Value::as_str);
                let others = members.values().flat_map(references);
                own.into_iter().chain(others).collect()
            }
            Value::Array(items) => items.iter().flat_map(references).collect(),
            _ => Vec::new(),
        }
    }
    let document: Value = serde_json::from_str(COMMITTED).unwrap();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1."));
    let references = references(&document);
    assert!(!references.is_empty());
    for reference in references {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
}

#[tokio::test]
async fn each_parameter_is_read_where_the_document_has_it() {
    let upstream = Upstream::always(Reply::Hang).await;
    let server = upstream.app().serve(&[]).await;
    for operation in operations() {
        for name in [operation.names("path"), operation.names("query")].concat() {
            let detail = refusal(&server, operation.request(Some((name, "x")))).await;
            contains(&detail, [name]);
        }
        if operation.method == "GET" {
            // It says which ones there are.
            let detail = refusal(&server, operation.request(Some(("other", "x")))).await;
            let expected = format!("only `{}`", operation.names("query").join("`, `"));
            contains(&detail, [&expected]);
        }
        let required = |found: &&Value| found["required"] == true;
        let required = operation.parameters.iter().filter(required).count();
        assert_eq!(required, operation.names("path").len());
    }
    assert_eq!(upstream.requests().len(), 0);
}

async fn refusal(server: &Server, request: Request) -> String {
    let problem = server.rest(request).await.problem(400, "invalid_request");
    problem["detail"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn each_operation_succeeds_as_the_document_says() {
    let server = serve_sandbox(&[]).await;
    for operation in operations() {
        let answer = server.rest(operation.request(None)).await;
        let responses = &operation.details["responses"];
        let response = &responses[answer.status.to_string()];
        assert!(
            (200..300).contains(&answer.status) && response.is_object(),
            "{answer:?}"
        );
        let names = |value: &Value| -> Vec<String> {
            let members = value.as_object().into_iter().flatten();
            members.map(|(name, _)| name.clone()).collect()
        };
        let content_type = answer.header("content-type");
        let content_type: Vec<_> = content_type.into_iter().map(str::to_owned).collect();
        assert_eq!(content_type, names(&response["content"]));
        for header in names(&response["headers"]) {
            assert!(answer.header(&header.to_lowercase()).is_some(), "{header}");
        }
    }
}

#[tokio::test]
async fn the_document_says_that_a_token_or_a_key_may_be_needed() {
    let document: Value = serde_json::from_str(COMMITTED).unwrap();
    assert_eq!(
        document["security"],
        json!([
            {}, { "bearer": [] }, { "accessToken": [] }, { "qoveryKey": [] },
            { "bearer": [], "qoveryKey": [] }, { "accessToken": [], "qoveryKey": [] },
        ])
    );
    let schemes = &document["components"]["securitySchemes"];
    let bearer = &schemes["bearer"];
    assert_eq!([&bearer["type"], &bearer["scheme"]], ["http", "bearer"]);
    let header = |scheme: &str| {
        let scheme = &schemes[scheme];
        assert_eq!([&scheme["type"], &scheme["in"]], ["apiKey", "header"]);
        scheme["name"].as_str().unwrap().to_owned()
    };

    let token = "an-access-token-of-a-test";
    let app = TestApp::new(&[("QOVERY_BACKUPS_ACCESS_TOKEN", token)]);
    let server = app.serve(&["--sandbox"]).await;
    for operation in operations() {
        let request = operation.request(None);
        let refused = server.rest(request.clone()).await;
        refused.problem(401, "unauthenticated");
        let answer = server.rest(request.clone().token(Some(token))).await;
        assert!(answer.status < 300, "{answer:?}");
        if operation.method == "DELETE" {
            continue;
        }
        let name = String::leak(header("accessToken"));
        let answer = server.rest(request.header(name, token)).await;
        assert!(answer.status < 300, "{answer:?}");
    }
    let app = TestApp::new(&[]);
    let server = app.serve(&["--sandbox", "--caller-keys"]).await;
    for operation in operations() {
        let request = operation.request(None);
        let refused = server.rest(request.clone()).await;
        refused.problem(403, "key_missing");
        let name = String::leak(header("qoveryKey"));
        let answer = server.rest(request.header(name, Sandbox::KEY)).await;
        assert!(answer.status < 300, "{answer:?}");
    }
}
