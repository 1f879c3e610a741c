//! Sign-in of the company: this server as an OAuth 2.1 resource server (MCP, "Authorization").
//!
//! A caller brings an access token that the company's issuer signed for this server: a JWT, which is verified
//! with the issuer's published keys. The roles are those of access tokens; the scopes name them.
//!
//! What must never live here: an authorization server, or a token in a log or an answer.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Instant,
};

use axum::{
    Router,
    extract::Request,
    http::{HeaderValue, Method, header},
    routing::get,
};
use jsonwebtoken::{
    Algorithm, DecodingKey, DecodingKeyKind, Validation,
    crypto::{CryptoProvider, JwtVerifier, KeyUtils},
    decode, decode_header,
    errors::{Error, ErrorKind, new_error},
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse},
    signature::{self, Verifier},
};
use parking_lot::RwLock;
use reqwest::Url;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents,
    UnparsedPublicKey,
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tower_http::cors::{Any, CorsLayer};

use super::{Settings, auth::bearer};
use crate::{
    context::Role,
    limits::Limits,
    qovery::{BaseUrl, build_http, read_body, root_cause},
    rest::{Problem, path_of},
    text,
};

const READ: &str = "backups:read";
const WRITE: &str = "backups:write";
const BOTH: &str = "backups:read backups:write";

/// Where a client looks for the metadata of a resource (RFC 9728, section 3.1).
const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";

/// The sign-in that callers use.
#[derive(Clone, Debug)]
pub struct OAuth {
    /// The issuer's identifier, to the letter.
    pub issuer: String,
    /// The audience of the tokens that are for this server.
    pub audience: String,
    /// Whether this server changes nothing, so that no caller needs the scope for changes.
    pub read_only: bool,
}

/// Why the issuer's keys could not be read.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct IssuerError(String);

/// The sign-in, with the issuer's keys of a moment ago.
pub struct SignIn {
    oauth: OAuth,
    host: String,
    scopes: &'static str,
    metadata: String,
    metadata_url: String,
    limits: Arc<Limits>,
    keys: RwLock<Keys>,
    /// When the keys were asked for.
    asked: Mutex<Option<Instant>>,
}

/// The issuer's keys by their ids.
#[derive(Default)]
struct Keys {
    by_id: HashMap<String, Arc<Key>>,
    fetched: Option<Instant>,
}

/// A key, and what a token that is signed with it must have.
struct Key(DecodingKey, Validation);

/// What answers a call that the caller's sign-in does not allow.
#[derive(Clone)]
pub(super) struct Refusal(pub(super) Problem);

impl SignIn {
    /// The sign-in of these settings, if they have one. No key is fetched yet.
    pub fn new(settings: &Settings, limits: Arc<Limits>) -> Option<Arc<Self>> {
        let (oauth, url) = (settings.oauth.clone()?, settings.public_url.as_deref()?);
        // Fails if it is installed already.
        let _ = PROVIDER.install_default();
        let path = settings.path();
        let scopes = if oauth.read_only { READ } else { BOTH };
        let metadata = json!({
            "resource": format!("{url}/mcp"),
            "authorization_servers": [oauth.issuer],
            "scopes_supported": scopes.split(' ').collect::<Vec<_>>(),
            "bearer_methods_supported": ["header"],
        });
        Some(Arc::new(Self {
            host: Url::parse(&oauth.issuer).ok()?.host_str()?.to_owned(),
            scopes,
            metadata: metadata.to_string(),
            metadata_url: format!("{}{WELL_KNOWN}{path}/mcp", url.strip_suffix(path)?),
            oauth,
            limits,
            keys: RwLock::default(),
            asked: Mutex::default(),
        }))
    }

    /// Adds the resource's metadata (RFC 9728), which pages of every origin may read.
    pub(super) fn add_metadata(&self, router: Router) -> Router {
        let json = [(header::CONTENT_TYPE, "application/json")];
        let cors = CorsLayer::new().allow_origin(Any).allow_headers(Any);
        let answer = get((json, self.metadata.clone())).layer(cors.allow_methods([Method::GET]));
        let mcp = format!("{WELL_KNOWN}/mcp");
        let paths = BTreeSet::from([WELL_KNOWN, &mcp, path_of(&self.metadata_url)]);
        let add = |router: Router, path| router.route(path, answer.clone());
        paths.into_iter().fold(router, add)
    }

    /// The caller who signed in, and its role. Leaves a [`Refusal`] in the request of one that may not do
    /// everything.
    pub(super) async fn caller(
        self: &Arc<Self>,
        request: &mut Request,
    ) -> Option<(Arc<str>, Role)> {
        let verified = match bearer(request.headers()) {
            Some(token) => Some(self.verify(token).await),
            None => None,
        };
        let (issuer, scopes) = (&self.oauth.issuer, self.scopes);
        let caller = match &verified {
            Some(Ok((name, Some(role)))) => Some((Arc::clone(name), *role)),
            _ => None,
        };
        let may_all = |(_, role): &(_, Role)| *role == Role::All || self.oauth.read_only;
        if caller.as_ref().is_some_and(may_all) {
            return caller;
        }
        let (problem, error, detail) = match verified {
            Some(Ok(_)) => (
                Problem::forbidden_role(),
                r#", error="insufficient_scope""#,
                format!("That needs a sign-in at {issuer} with the scopes {scopes}"),
            ),
            Some(Err(reason)) => (
                Problem::unauthenticated(),
                r#", error="invalid_token""#,
                format!("The token is not accepted: {reason}. Sign in again at {issuer}"),
            ),
            None => (
                Problem::unauthenticated(),
                "",
                format!("Sign in at {issuer}, and send its token: `Authorization: Bearer <token>`"),
            ),
        };
        // RFC 9728, section 5.1, and RFC 6750, section 3.
        let url = &self.metadata_url;
        let value = format!(r#"Bearer resource_metadata="{url}", scope="{scopes}"{error}"#);
        let challenge = HeaderValue::try_from(value).ok()?;
        let problem = problem.with_detail(format!("{detail}. Nothing was changed."));
        let problem = problem.with_header(header::WWW_AUTHENTICATE, challenge);
        request.extensions_mut().insert(Refusal(problem));
        caller
    }

    /// The name in a token and the role that its scopes give, or why the token is not accepted.
    async fn verify(
        self: &Arc<Self>,
        token: &str,
    ) -> Result<(Arc<str>, Option<Role>), &'static str> {
        let header = decode_header(token)
            .map_err(|_| "it is neither an access token of this server nor a signed JWT")?;
        let id = header.kid.ok_or("it names no key (kid)")?;
        let key = self.key(&id).await;
        let key = key.ok_or("its issuer has no such key, or could not be asked for it")?;
        let token = decode::<Value>(token, &key.0, &key.1);
        let claims = token.map_err(|error| reason(&error))?.claims;
        let name = |claim| {
            let name = text::truncate(claims[claim].as_str()?, 100);
            let name = text::trim(&name);
            (!name.is_empty()).then(|| format!("{name} ({})", self.host).into())
        };
        let mut names = ["preferred_username", "email", "sub"].into_iter();
        let name = names.find_map(name).ok_or("it names no person (sub)")?;
        let has = |scope: &str| {
            ["scope", "scp"].iter().any(|claim| match &claims[claim] {
                Value::String(scopes) => scopes.split(' ').any(|own| own == scope),
                Value::Array(scopes) => scopes.iter().any(|own| own == scope),
                _ => false,
            })
        };
        let roles = [(WRITE, Role::All), (READ, Role::Read)];
        let role = roles.into_iter().find(|(scope, _)| has(scope));
        Ok((name, role.map(|(_, role)| role)))
    }

    /// The issuer's key with this id. Keys are fetched if they are old or it is not among them.
    async fn key(self: &Arc<Self>, id: &str) -> Option<Arc<Key>> {
        let known = || self.keys.read().by_id.get(id).cloned();
        let is_fresh = |fetched: Instant| fetched.elapsed() < self.limits.issuer_keys;
        if self.keys.read().fetched.is_some_and(is_fresh)
            && let Some(key) = known()
        {
            return Some(key);
        }
        let this = Arc::clone(self);
        // In a task of its own: others wait for it, too, when the caller disconnects.
        let refreshed = tokio::spawn(async move { this.refresh().await }).await;
        if let Err(error) = refreshed {
            tracing::error!(%error, "the keys of the sign-in could not be fetched");
        }
        known()
    }

    /// Fetches the keys, unless that was tried a moment ago. Known keys stay while the issuer does not answer.
    async fn refresh(&self) {
        let mut asked = self.asked.lock().await;
        let pause = match self.keys.read().fetched {
            Some(_) => self.limits.issuer_pause,
            None => self.limits.issuer,
        };
        if asked.is_some_and(|asked| asked.elapsed() < pause) {
            return;
        }
        match self.fetch().await {
            Ok(keys) => *self.keys.write() = keys,
            Err(error) => tracing::warn!("the keys of the sign-in could not be read: {error}"),
        }
        *asked = Some(Instant::now());
    }

    /// Reads the issuer's metadata and keys. Returns how many keys are usable.
    ///
    /// # Errors
    ///
    /// When one of them cannot be read, or there is no key for tokens.
    pub async fn check(&self) -> Result<usize, IssuerError> {
        match self.fetch().await?.by_id.len() {
            0 => Err(self.wrong("publishes no key with an id (kid) for RS256, ES256 or EdDSA")),
            keys => Ok(keys),
        }
    }

    fn wrong(&self, problem: &str) -> IssuerError {
        IssuerError(format!("{} {problem}", self.oauth.issuer))
    }

    async fn fetch(&self) -> Result<Keys, IssuerError> {
        let issuer = self.oauth.issuer.as_str();
        // RFC 8414, section 3.1: before the path. OpenID Connect Discovery, section 4: behind it.
        let (base, path) = (issuer.trim_end_matches('/'), path_of(issuer));
        let origin = base.strip_suffix(path).unwrap_or(base);
        let oauth = format!("{origin}/.well-known/oauth-authorization-server{path}");
        let metadata = match self.get(&oauth).await {
            Ok(metadata) => metadata,
            Err(_) => {
                self.get(&format!("{base}/.well-known/openid-configuration"))
                    .await?
            }
        };
        if metadata["issuer"] != issuer {
            let other = text::excerpt(&metadata["issuer"].to_string());
            let problem = format!("calls itself {other}: is --oauth-issuer right to the letter?");
            return Err(self.wrong(&problem));
        }
        let keys = metadata["jwks_uri"].as_str().unwrap_or_default();
        let address = keys.split('?').next().unwrap_or_default();
        if address.parse::<BaseUrl>().is_err() {
            return Err(self.wrong("names no https:// address of its keys (jwks_uri)"));
        }
        let set = self.get(keys).await?;
        let keys = set["keys"].as_array().into_iter().flatten();
        Ok(Keys {
            by_id: keys.filter_map(|key| self.parse_key(key)).collect(),
            fetched: Some(Instant::now()),
        })
    }

    async fn get(&self, url: &str) -> Result<Value, IssuerError> {
        let problem = |problem: &str| IssuerError(format!("{url} {problem}"));
        // Over http, it is on loopback.
        let http = build_http(self.oauth.issuer.starts_with("http:"), self.limits.connect);
        let http = http.map_err(|error| problem(&error.to_string()))?;
        let response = http.get(url).timeout(self.limits.issuer).send().await;
        let unreachable = |error| problem(&format!("cannot be read: {}", root_cause(&error)));
        let response = response.map_err(unreachable)?;
        if response.status() != 200 {
            return Err(problem(&format!("answered {}", response.status())));
        }
        let body = read_body(response, self.limits.issuer_bytes).await;
        let body = body.map_err(|_| problem("broke off, or is longer than 64 KiB"))?;
        serde_json::from_slice(&body).map_err(|_| problem("is no JSON"))
    }

    /// A key of a JWKS with its id, if tokens may be signed with it. Its own type decides on the algorithm,
    /// never the token.
    fn parse_key(&self, key: &Value) -> Option<(String, Arc<Key>)> {
        let key = Jwk::deserialize(key).ok()?;
        let algorithm = match &key.algorithm {
            AlgorithmParameters::RSA(_) => Algorithm::RS256,
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
                Algorithm::ES256
            }
            AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
                Algorithm::EdDSA
            }
            _ => return None,
        };
        let is_other = |own: KeyAlgorithm| own != algorithm.into();
        if key.common.key_algorithm.is_some_and(is_other)
            || key.common.public_key_use == Some(PublicKeyUse::Encryption)
        {
            return None;
        }
        let mut validation = Validation::new(algorithm);
        validation.leeway = 30;
        validation.validate_nbf = true;
        validation.set_audience(&[&self.oauth.audience]);
        validation.set_issuer(&[&self.oauth.issuer]);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        let decoding = DecodingKey::from_jwk(&key).ok()?;
        Some((key.common.key_id?, Arc::new(Key(decoding, validation))))
    }
}

fn reason(error: &Error) -> &'static str {
    match error.kind() {
        ErrorKind::ExpiredSignature => "it has expired",
        ErrorKind::ImmatureSignature => "it is not valid yet",
        ErrorKind::InvalidAudience => "it is for another audience (aud)",
        ErrorKind::InvalidIssuer => "it is of another issuer (iss)",
        ErrorKind::MissingRequiredClaim(_) => {
            "it lacks a time of expiry (exp), an issuer (iss) or an audience (aud)"
        }
        ErrorKind::InvalidAlgorithm => "its algorithm (alg) is not that of its key",
        ErrorKind::InvalidSignature => "its signature is wrong",
        _ => "it is malformed",
    }
}

/// Verifies with `ring`, which rustls brings. It signs nothing.
static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |_, _| Err(new_error(ErrorKind::UnsupportedAlgorithm)),
    verifier_factory: |algorithm, key| Ok(Box::new(Ring(*algorithm, key.kind().clone()))),
    key_utils: KeyUtils::new_unimplemented(),
};

struct Ring(Algorithm, DecodingKeyKind);

impl Verifier<Vec<u8>> for Ring {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), signature::Error> {
        let verified = match (self.0, &self.1) {
            (Algorithm::RS256, DecodingKeyKind::RsaModulusExponent { n, e }) => {
                let key = RsaPublicKeyComponents { n, e };
                key.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature)
            }
            (Algorithm::ES256, DecodingKeyKind::SecretOrDer(key)) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key).verify(message, signature)
            }
            (Algorithm::EdDSA, DecodingKeyKind::SecretOrDer(key)) => {
                UnparsedPublicKey::new(&ED25519, key).verify(message, signature)
            }
            _ => Err(ring::error::Unspecified),
        };
        verified.map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for Ring {
    fn algorithm(&self) -> Algorithm {
        self.0
    }
}
