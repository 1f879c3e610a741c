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
use tokio::{
    sync::{Mutex, OnceCell},
    time::timeout,
};
use tower_http::cors::{Any, CorsLayer};

use super::{Settings, auth::bearer};
use crate::{
    context::Role,
    limits::Limits,
    qovery::{BaseUrl, build_http, read_body, root_cause},
    rest::Problem,
    text,
};

const READ: &str = "backups:read";
const WRITE: &str = "backups:write";

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

/// Why the issuer's keys could not be read: an address, and what is wrong with it.
#[derive(Debug, thiserror::Error)]
#[error("{0} {1}")]
pub struct IssuerError(String, String);

/// The sign-in, with the issuer's keys of a moment ago.
pub struct SignIn {
    oauth: OAuth,
    host: String,
    scopes: Vec<&'static str>,
    resource: String,
    metadata_path: String,
    metadata_url: String,
    limits: Arc<Limits>,
    http: OnceCell<reqwest::Client>,
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
        let metadata_path = format!("{WELL_KNOWN}{path}/mcp");
        let host = Url::parse(&oauth.issuer).ok()?.host_str()?.to_owned();
        Some(Arc::new(Self {
            host,
            scopes: [READ, WRITE][..if oauth.read_only { 1 } else { 2 }].to_vec(),
            resource: format!("{url}/mcp"),
            metadata_url: format!("{}{metadata_path}", url.strip_suffix(path)?),
            metadata_path,
            oauth,
            limits,
            http: OnceCell::new(),
            keys: RwLock::default(),
            asked: Mutex::default(),
        }))
    }

    /// Adds the resource's metadata (RFC 9728), which pages of every origin may read.
    pub(super) fn add_metadata(&self, router: Router) -> Router {
        let metadata = json!({
            "resource": self.resource,
            "authorization_servers": [self.oauth.issuer],
            "scopes_supported": self.scopes,
            "bearer_methods_supported": ["header"],
        });
        let metadata = (
            [(header::CONTENT_TYPE, "application/json")],
            metadata.to_string(),
        );
        let cors = CorsLayer::new().allow_origin(Any).allow_headers(Any);
        let metadata = get(metadata).layer(cors.allow_methods([Method::GET]));
        let own = self.metadata_path.clone();
        let paths = BTreeSet::from([WELL_KNOWN.to_owned(), format!("{WELL_KNOWN}/mcp"), own]);
        let add = |router: Router, path: String| router.route(&path, metadata.clone());
        paths.into_iter().fold(router, add)
    }

    /// The caller who signed in, and its role. Leaves a [`Refusal`] in the request of one that may not do
    /// everything.
    pub(super) async fn caller(
        self: &Arc<Self>,
        request: &mut Request,
    ) -> Option<(Arc<str>, Role)> {
        let verified = match bearer(request.headers()) {
            Some(token) => self.verify(token).await.map_err(Some),
            None => Err(None),
        };
        let issuer = &self.oauth.issuer;
        let (caller, problem) = match verified {
            Ok((name, Some(role))) if role == Role::All || self.oauth.read_only => {
                return Some((name, role));
            }
            Ok((name, role)) => {
                let scopes = self.scopes.join(" ");
                let detail = format!(
                    "This needs a sign-in with the scopes {scopes}. Nothing was changed. Sign in \
                     again with them, if {issuer} gives them to you."
                );
                let problem = Problem::forbidden_role().with_detail(detail);
                let caller = role.map(|role| (name, role));
                (caller, self.challenge(problem, Some("insufficient_scope")))
            }
            Err(reason) => {
                let detail = match reason {
                    Some(reason) => format!(
                        "The token is not accepted: {reason}. Nothing was changed. Sign in again at {issuer}."
                    ),
                    None => format!(
                        "A sign-in at {issuer} is needed, whose token is sent as `Authorization: Bearer <token>`. Nothing was changed."
                    ),
                };
                let problem = Problem::unauthenticated().with_detail(detail);
                (
                    None,
                    self.challenge(problem, reason.map(|_| "invalid_token")),
                )
            }
        };
        request.extensions_mut().insert(Refusal(problem));
        caller
    }

    /// Adds what a client needs to sign in (RFC 9728, section 5.1, and RFC 6750, section 3).
    fn challenge(&self, problem: Problem, error: Option<&str>) -> Problem {
        let (url, scopes) = (&self.metadata_url, self.scopes.join(" "));
        let error = error.map_or_else(String::new, |error| format!(r#", error="{error}""#));
        let value = format!(r#"Bearer resource_metadata="{url}", scope="{scopes}"{error}"#);
        match HeaderValue::try_from(value) {
            Ok(value) => problem.with_header(header::WWW_AUTHENTICATE, value),
            Err(_) => problem,
        }
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
        let mut names = ["preferred_username", "email", "sub"]
            .into_iter()
            .filter_map(name);
        let has = |scope: &str| {
            ["scope", "scp"].iter().any(|claim| match &claims[claim] {
                Value::String(scopes) => scopes.split(' ').any(|own| own == scope),
                Value::Array(scopes) => scopes.iter().any(|own| own == scope),
                _ => false,
            })
        };
        let role = match () {
            () if has(WRITE) => Some(Role::All),
            () if has(READ) => Some(Role::Read),
            () => None,
        };
        Ok((names.next().ok_or("it names no person (sub)")?, role))
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
        let keys = self.fetch().await?.by_id.len();
        let none = "has no key with an id (kid) for RS256, ES256 or EdDSA";
        let error = || IssuerError(self.oauth.issuer.clone(), none.to_owned());
        (keys > 0).then_some(keys).ok_or_else(error)
    }

    async fn fetch(&self) -> Result<Keys, IssuerError> {
        let issuer = &self.oauth.issuer;
        let fetched = timeout(self.limits.issuer, self.fetch_keys()).await;
        fetched.unwrap_or_else(|_| {
            Err(IssuerError(
                issuer.clone(),
                "did not answer in time".to_owned(),
            ))
        })
    }

    async fn fetch_keys(&self) -> Result<Keys, IssuerError> {
        let issuer = &self.oauth.issuer;
        let wrong = |problem: &str| IssuerError(issuer.clone(), problem.to_owned());
        // RFC 8414, section 3.1: before the path. OpenID Connect Discovery, section 4: behind it.
        let base = issuer.trim_end_matches('/');
        let path = base
            .match_indices('/')
            .nth(2)
            .map_or("", |(at, _)| &base[at..]);
        let origin = base.strip_suffix(path).unwrap_or(base);
        let oauth = format!("{origin}/.well-known/oauth-authorization-server{path}");
        let metadata = match self.get(&oauth).await {
            Ok(metadata) => metadata,
            Err(error) => {
                tracing::debug!("{error}; asking for OpenID's metadata");
                self.get(&format!("{base}/.well-known/openid-configuration"))
                    .await?
            }
        };
        if metadata["issuer"] != **issuer {
            let problem = format!(
                "calls itself {} in its metadata: set --oauth-issuer to that, if it is yours",
                metadata["issuer"]
            );
            return Err(wrong(&text::excerpt(&problem)));
        }
        let url = metadata["jwks_uri"].as_str().unwrap_or_default();
        let is_allowed = url
            .split('?')
            .next()
            .is_some_and(|url| url.parse::<BaseUrl>().is_ok());
        if !is_allowed {
            return Err(wrong(
                "names no address of its keys (jwks_uri) that begins with https://",
            ));
        }
        let set = self.get(url).await?;
        let keys = set["keys"].as_array().into_iter().flatten();
        Ok(Keys {
            by_id: keys.filter_map(|key| self.parse_key(key)).collect(),
            fetched: Some(Instant::now()),
        })
    }

    async fn get(&self, url: &str) -> Result<Value, IssuerError> {
        let problem = |problem: String| IssuerError(url.to_owned(), problem);
        let is_loopback = self
            .oauth
            .issuer
            .parse()
            .is_ok_and(|url: BaseUrl| url.is_loopback());
        let http = self
            .http
            .get_or_try_init(async || build_http(is_loopback, self.limits.connect));
        let http = http.await.map_err(|error| problem(error.to_string()))?;
        let response = http
            .get(url)
            .header(header::ACCEPT, "application/json")
            .send()
            .await;
        let response = response
            .map_err(|error| problem(format!("cannot be reached ({})", root_cause(&error))))?;
        if response.status() != 200 {
            return Err(problem(format!(
                "answered {} (redirects are not followed)",
                response.status()
            )));
        }
        let body = read_body(response, self.limits.issuer_bytes).await;
        let body = body.map_err(|_| problem("broke off, or is longer than 64 KiB".to_owned()))?;
        serde_json::from_slice(&body).map_err(|_| problem("is no JSON".to_owned()))
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
