//! Against servers that say what a real one should not.

use std::sync::Arc;

use rustls::ServerConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::tls::trial::Authority;

/// A request for the password in clear text.
const ASKS: &[u8] = b"R\0\0\0\x08\0\0\0\x03";

/// Everything that a client says after its start-up message, which is answered by `answer`.
async fn talk(mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin, answer: &[u8]) -> Vec<u8> {
    let length = stream.read_u32().await.expect("a start-up message");
    let mut startup = vec![0; length as usize - 4];
    stream.read_exact(&mut startup).await.expect("all of it");
    stream.write_all(answer).await.expect("a listener");
    let mut said = Vec::new();
    // However the client goes.
    let _ = stream.read_to_end(&mut said).await;
    said
}

/// A server for one connection: the answer to the request for TLS, if one is awaited, and to the start-up.
async fn server(tls: Option<(u8, Arc<ServerConfig>)>, answer: &'static [u8]) -> (u16, JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let serving = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let Some((offer, config)) = tls else { return talk(stream, answer).await };
        let mut request = [0; 8];
        stream.read_exact(&mut request).await.expect("a request for TLS");
        stream.write_all(&[offer]).await.expect("a listener");
        match offer {
            b'S' => {
                let stream = TlsAcceptor::from(config).accept(stream).await.expect("a handshake");
                talk(stream, answer).await
            }
            _ => {
                let mut said = Vec::new();
                let _ = stream.read_to_end(&mut said).await;
                said
            }
        }
    });
    (port, serving)
}

fn link(port: u16, parameters: &str) -> Link {
    let url = format!("postgres://app:hunter2@localhost:{port}/orders?{parameters}");
    Link::parse(&url, |_| None).expect("a good URL")
}

async fn refusal(link: &Link) -> LinkError {
    match link.connect(&Session::named("test")).await {
        Ok(_) => panic!("logged in"),
        Err(error) => error,
    }
}

/// All sentences of an error.
fn told(error: &LinkError) -> String {
    let mut told = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        told.push_str(&format!(": {error}"));
        cause = error.source();
    }
    told
}

#[tokio::test]
async fn a_password_is_not_said_in_clear_text() {
    let (port, serving) = server(None, ASKS).await;
    let error = refusal(&link(port, "")).await;
    assert!(error.is_permanent() && told(&error).contains("in clear text"), "{}", told(&error));
    assert_eq!(serving.await.unwrap(), b"", "nothing was answered");
}

#[tokio::test]
async fn nor_is_it_within_tls() {
    let authority = Authority::new("one");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ca.pem");
    std::fs::write(&file, authority.certificate()).unwrap();
    let (port, serving) = server(Some((b'S', authority.server("localhost"))), ASKS).await;
    let error = refusal(&link(port, &format!("sslrootcert={}", file.display()))).await;
    assert!(error.is_permanent() && told(&error).contains("in clear text"), "{}", told(&error));
    assert_eq!(serving.await.unwrap(), b"", "nothing was answered");
}

#[tokio::test]
async fn whom_nobody_vouches_for_is_refused_in_a_sentence() {
    let (one, other) = (Authority::new("one"), Authority::new("other"));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ca.pem");
    std::fs::write(&file, one.certificate()).unwrap();
    let (port, serving) = server(Some((b'S', other.server("localhost"))), ASKS).await;
    let error = refusal(&link(port, &format!("sslrootcert={}", file.display()))).await;
    let said = told(&error);
    assert!(error.is_permanent() && said.contains("is signed by nobody the consumer trusts"), "{said}");
    serving.abort();
}

#[tokio::test]
async fn a_server_without_tls_is_refused_in_a_sentence() {
    let (port, serving) = server(Some((b'N', Authority::new("one").server("localhost"))), ASKS).await;
    let error = refusal(&link(port, "sslmode=require")).await;
    assert!(error.is_permanent() && told(&error).contains("offers no TLS"), "{}", told(&error));
    assert_eq!(serving.await.unwrap(), b"", "nothing was said");
}

#[tokio::test]
async fn a_password_that_is_missing_is_not_waited_for() {
    let (port, serving) = server(None, b"R\0\0\0\x0C\0\0\0\x05salt").await;
    let url = format!("postgres://app@localhost:{port}/orders");
    let error = refusal(&Link::parse(&url, |_| None).expect("a good URL")).await;
    assert!(error.is_permanent() && told(&error).contains("password missing"), "{}", told(&error));
    assert_eq!(serving.await.unwrap(), b"");
}

#[tokio::test]
async fn a_silent_server_is_given_up() {
    let (port, serving) = server(None, b"").await;
    let mut link = link(port, "");
    link.connect_timeout = Duration::from_millis(100);
    let error = refusal(&link).await;
    assert!(matches!(error, LinkError::Silent { .. }) && !error.is_permanent(), "{error:?}");
    assert_eq!(serving.await.unwrap(), b"");
}

#[tokio::test]
async fn a_server_that_hangs_up_may_be_asked_again() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = tokio::spawn(async move { listener.accept().await.map(drop) });
    let error = refusal(&link(port, "")).await;
    assert!(matches!(error, LinkError::Login { .. }) && !error.is_permanent(), "{error:?}");
    serving.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_port_where_nobody_listens_is_told() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let error = refusal(&link(port, "")).await;
    assert!(matches!(error, LinkError::Unreachable { .. }) && !error.is_permanent(), "{error:?}");
    assert_eq!(error.to_string(), format!("PostgreSQL at localhost:{port} cannot be reached"));
}
