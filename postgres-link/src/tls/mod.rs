//! TLS to PostgreSQL: one configuration for every connection, on rustls with ring.
//!
//! | file | what it owns |
//! |---|---|
//! | `material` | certificates and keys from files and the system, checked |
//! | `verifier` | what `require` and `verify-ca` look at in place of everything |
//! | [`error`] | what was seen and what to do, in a sentence |
//! | [`binding`] | what a login is bound to |
//! | [`connector`] | TLS for the SQL driver |
//!
//! Who speaks the protocol by itself, as the relay's replication connection does, takes a [`Client`].
//!
//! Files are read anew for every connection, so a certificate that is renewed is used without a restart; at
//! the start [`check`] has looked at all of them.
//!
//! The default authorities are the system's and not a list compiled in: a company's own authority is
//! installed there, they are renewed with the system, and librdkafka uses the same.

pub mod binding;
pub mod connector;
pub mod error;
mod material;
#[cfg(any(test, feature = "trial"))]
pub mod trial;
mod verifier;

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, ClientConnection};

use crate::Program;
use crate::transport::{Roots, SslMode, Transport};
use error::{TlsError, TlsTrouble};
use material::Material;

pub use connector::Connector;

/// The application protocol that PostgreSQL registered with IANA. Servers before 17 pass over it.
const ALPN: &[u8] = b"postgresql";

/// Everything that would keep a connection of this kind from being made, as far as it can be seen here: files
/// and the host's name.
pub fn check(transport: &Transport, host: &str) -> Vec<String> {
    if transport.mode == SslMode::Disable {
        return Vec::new();
    }
    let mut wrong = Material::read(transport).err().unwrap_or_default();
    wrong.extend(server_name(host).err());
    wrong
}

/// Makes TLS connections to one server.
#[derive(Debug, Clone)]
pub struct Client {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    program: Program,
    host: String,
    trusted: String,
}

impl Client {
    /// `None` where the connection goes in the clear.
    ///
    /// # Errors
    ///
    /// Files that were good at the start are not any more: somebody may be about to replace them.
    pub fn new(transport: &Transport, host: &str) -> Result<Option<Client>, TlsError> {
        if transport.mode == SslMode::Disable {
            return Ok(None);
        }
        let files = |wrong: Vec<String>| TlsError::new(TlsTrouble::Files, wrong.join("; "), None);
        let material = Material::read(transport).map_err(files)?;
        let name = server_name(host).map_err(|wrong| files(vec![wrong]))?;
        let provider = provider();
        let verifier = verifier::of(transport.mode, material.roots, &provider)?;
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::new(TlsTrouble::Broken, "TLS cannot be set up".into(), Some(error)))?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match material.identity {
            Some(identity) => {
                config.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::new(identity))))
            }
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        // Every connection has a configuration of its own.
        config.resumption = Resumption::disabled();
        let trusted = match &transport.roots {
            Roots::System => "the authorities this system trusts".to_owned(),
            Roots::File(path) => path.display().to_string(),
        };
        let (config, program) = (Arc::new(config), transport.program);
        Ok(Some(Client { config, name, program, host: host.to_owned(), trusted }))
    }

    /// A session that has not shaken hands yet.
    ///
    /// # Errors
    ///
    /// rustls cannot begin one.
    pub fn session(&self) -> Result<ClientConnection, TlsError> {
        ClientConnection::new(self.config.clone(), self.name.clone()).map_err(|error| self.explain(error))
    }

    /// What rustls ran into, in a sentence.
    pub fn explain(&self, error: rustls::Error) -> TlsError {
        error::explain(error, self.program, &self.host, &self.trusted)
    }
}

/// Certificate of the server in a session.
pub fn server_certificate(session: &rustls::CommonState) -> Option<&CertificateDer<'static>> {
    session.peer_certificates()?.first()
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn server_name(host: &str) -> Result<ServerName<'static>, String> {
    ServerName::try_from(host.to_owned())
        .map_err(|_| "its host is no name or address that a certificate could be for".to_owned())
}
