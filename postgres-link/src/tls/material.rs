//! Certificates and keys from files and the system, checked.

use std::path::Path;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error, RootCertStore};

use super::provider;
use crate::Program;
use crate::transport::{Identity, Roots, SslMode, Transport};

/// What a connection is made with.
#[derive(Debug)]
pub(super) struct Material {
    /// Empty where nobody is asked who the server is.
    pub(super) roots: RootCertStore,
    /// The program's own certificate.
    pub(super) identity: Option<CertifiedKey>,
}

impl Material {
    /// Reads what `transport` names.
    ///
    /// # Errors
    ///
    /// A sentence for everything that is wrong, with the path; never anything of a key.
    pub(super) fn read(transport: &Transport) -> Result<Material, Vec<String>> {
        let roots = match (transport.mode, &transport.roots) {
            (SslMode::Disable | SslMode::Prefer | SslMode::Require, _) => Ok(RootCertStore::empty()),
            (SslMode::VerifyCa | SslMode::VerifyFull, Roots::System) => system(),
            (SslMode::VerifyCa | SslMode::VerifyFull, Roots::File(path)) => authorities(path),
        };
        let certified = |identity| certified(identity, transport.program);
        let identity = transport.identity.as_ref().map(certified).transpose();
        match (roots, identity) {
            (Ok(roots), Ok(identity)) => Ok(Material { roots, identity }),
            (roots, identity) => {
                let mut wrong: Vec<String> = roots.err().into_iter().collect();
                wrong.extend(identity.err().unwrap_or_default());
                Err(wrong)
            }
        }
    }
}

/// The authorities that the system trusts; `SSL_CERT_FILE` and `SSL_CERT_DIR` name others, as for OpenSSL.
fn system() -> Result<RootCertStore, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // A store of hundreds may hold a few that are too old in form; they are no one's authority here.
    roots.add_parsable_certificates(found.certs);
    match (roots.is_empty(), found.errors.first()) {
        (false, _) => Ok(roots),
        (true, Some(error)) => Err(format!(
            "the authorities that this system trusts cannot be read ({error}): name the server's in sslrootcert"
        )),
        (true, None) => {
            Err("this system trusts no authorities: install the package ca-certificates, or name the \
                             server's in sslrootcert"
                .into())
        }
    }
}

fn authorities(path: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates("sslrootcert", path)? {
        roots.add(certificate).map_err(|error| unusable("sslrootcert", path, &error))?;
    }
    Ok(roots)
}

/// Both files are looked at, so that both are told at once.
fn certified(identity: &Identity, program: Program) -> Result<CertifiedKey, Vec<String>> {
    let chain = certificates("sslcert", &identity.certificate);
    let key = private_key(&identity.key, program);
    match (chain, key) {
        (Ok(chain), Ok(key)) => CertifiedKey::from_der(chain, key, &provider()).map_err(|error| {
            vec![match error {
                Error::InconsistentKeys(_) => format!(
                    "sslkey {} is not the key of the certificate in sslcert {}",
                    identity.key.display(),
                    identity.certificate.display()
                ),
                error => unusable("sslcert or sslkey", &identity.certificate, &error),
            }]
        }),
        (chain, key) => Err(chain.err().into_iter().chain(key.err()).collect()),
    }
}

fn certificates(parameter: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let bytes = contents(parameter, path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) | Err(_) => Err(format!(
            "{parameter} {} holds no certificate in PEM (lines between BEGIN CERTIFICATE and END CERTIFICATE)",
            path.display()
        )),
    }
}

fn private_key(path: &Path, program: Program) -> Result<PrivateKeyDer<'static>, String> {
    let bytes = contents("sslkey", path)?;
    let encrypted = bytes.windows(9).any(|window| window == b"ENCRYPTED");
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|_| {
        let path = path.display();
        match encrypted {
            true => {
                format!("sslkey {path} is encrypted; give the {} a key without a passphrase", program.name())
            }
            false => format!("sslkey {path} holds no private key in PEM (PKCS #8, PKCS #1 or SEC1)"),
        }
    })
}

fn contents(parameter: &str, path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("{parameter} {} cannot be read: {error}", path.display()))
}

fn unusable(parameter: &str, path: &Path, error: &Error) -> String {
    format!("{parameter} {} cannot be used: {error}", path.display())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::trial::Authority;
    use super::*;
    use crate::transport::ChannelBinding;

    fn transport(root: PathBuf, certificate: PathBuf, key: PathBuf) -> Transport {
        Transport {
            program: Program::Relay,
            mode: SslMode::VerifyFull,
            roots: Roots::File(root),
            identity: Some(Identity { certificate, key }),
            channel_binding: ChannelBinding::Prefer,
        }
    }

    #[test]
    fn everything_that_is_wrong_with_files_is_told_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let place = |name: &str| directory.path().join(name);
        let authority = Authority::new("one");
        let (certificate, key) = authority.issue("relay");
        let other = authority.issue("other").1;
        std::fs::write(place("ca.pem"), authority.certificate()).unwrap();
        std::fs::write(place("relay.pem"), certificate).unwrap();
        std::fs::write(place("relay.key"), key).unwrap();
        std::fs::write(place("other.key"), other).unwrap();
        std::fs::write(place("text"), "no PEM").unwrap();
        let locked = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
        std::fs::write(place("locked.key"), locked).unwrap();

        let told = |root: &str, certificate: &str, key: &str| {
            Material::read(&transport(place(root), place(certificate), place(key)))
                .map(drop)
                .unwrap_err()
                .join("\n")
        };
        assert!(Material::read(&transport(place("ca.pem"), place("relay.pem"), place("relay.key"))).is_ok());
        let all = told("none.pem", "text", "locked.key");
        assert!(all.contains("none.pem cannot be read"), "{all}");
        assert!(all.contains("text holds no certificate"), "{all}");
        assert!(all.contains("locked.key is encrypted"), "{all}");
        assert!(told("ca.pem", "relay.pem", "text").contains("holds no private key"));
        let mismatch = told("ca.pem", "relay.pem", "other.key");
        assert!(mismatch.contains("other.key is not the key of the certificate"), "{mismatch}");
    }
}
