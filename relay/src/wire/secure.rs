//! Asking for TLS, and the handshake.

use outbox_postgres_link::tls::Client;
use outbox_postgres_link::tls::error::TlsError;
use outbox_postgres_link::transport::SslMode;
use postgres_protocol::message::frontend;

use super::connection::{Connection, Patience, Target, failed, is_pause};
use super::error::WireError;

const DOING: &str = "asking for TLS";
const SHAKING_HANDS: &str = "shaking hands over TLS";

/// Makes the connection what the target's `sslmode` asks for, before anything of the login is said.
pub(super) fn secure(
    connection: &mut Connection,
    target: &Target,
    patience: Patience,
) -> Result<(), WireError> {
    let client = Client::new(&target.transport, &target.host).map_err(WireError::Tls)?;
    let Some(client) = client else { return Ok(()) };
    connection.send(DOING, |out| {
        frontend::ssl_request(out);
        Ok(())
    })?;
    connection.fill(DOING, patience)?;
    let answer = connection.inbox.split();
    match answer.as_ref() {
        b"S" => {}
        b"N" if target.transport.mode == SslMode::Prefer => {
            tracing::debug!("the server offers no TLS, and sslmode=prefer does without");
            return Ok(());
        }
        b"N" => return Err(WireError::Tls(TlsError::not_offered())),
        // Whoever sits between could have put bytes behind the answer that would be taken for the server's
        // own, said under TLS (CVE-2021-23222).
        [b'S' | b'N', ..] => {
            return Err(WireError::protocol(
                DOING,
                "bytes in the clear right behind the answer, which the server never sends: somebody between may have \
                 put them there",
            ));
        }
        // What a server says here that cannot serve anybody is not vouched for by anything, so it is not
        // repeated (CVE-2024-10977).
        _ => return Err(WireError::protocol(DOING, "neither yes nor no")),
    }
    connection.channel.seal(client).map_err(WireError::Tls)?;
    loop {
        // Limited: `Connection::connect` never waits for ever.
        let left = patience.left(SHAKING_HANDS)?.unwrap_or_default();
        match connection.channel.shake_hands(left) {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(error) if is_pause(&error) => {}
            Err(error) => return Err(failed(SHAKING_HANDS, error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::wire::fake::Server;
    use outbox_postgres_link::Program;
    use outbox_postgres_link::transport::{ChannelBinding, Roots, Transport};

    /// The answer to a request for TLS, and what became of the connection.
    fn answered(answer: &'static [u8], mode: SslMode) -> Result<Connection, WireError> {
        let server = Server::start(move |peer| {
            assert_eq!(peer.startup(), 80_877_103_u32.to_be_bytes());
            peer.send(answer);
            if answer == b"N" && mode == SslMode::Prefer {
                peer.log_in();
            } else {
                peer.until_closed();
            }
        });
        let mut target = server.target(None);
        target.transport = Transport { mode, ..Transport::clear(Program::Relay) };
        let connected = Connection::connect(&target);
        server.join();
        connected
    }

    #[test]
    fn a_server_without_tls_is_refused_unless_it_may_be_without() {
        let error = answered(b"N", SslMode::Require).unwrap_err();
        assert!(matches!(&error, WireError::Tls(error) if error.is_permanent()), "{error:?}");
        assert!(error.to_string().contains("offers no TLS"), "{error}");
        let connection = answered(b"N", SslMode::Prefer).unwrap();
        assert!(!connection.channel.is_sealed());
    }

    #[test]
    fn bytes_behind_the_answer_are_refused() {
        for answer in [b"SE\0\0\0\x08ab\0\0".as_slice(), b"NR", b"Sx"] {
            let error = answered(answer, SslMode::Prefer).unwrap_err();
            assert!(matches!(error, WireError::Protocol { .. }), "{error:?}");
            assert!(error.to_string().contains("somebody between"), "{error}");
        }
    }

    #[test]
    fn an_error_in_the_clear_is_not_repeated() {
        let error = answered(b"Epay this account instead", SslMode::Prefer).unwrap_err();
        assert!(matches!(error, WireError::Protocol { .. }), "{error:?}");
        assert!(!error.to_string().contains("pay"), "{error}");
    }

    #[test]
    fn a_file_that_is_gone_is_not_a_refusal() {
        let server = Server::start(|peer| {
            peer.until_closed();
        });
        let mut target = server.target(None);
        let roots = Roots::File(PathBuf::from("/nowhere/ca.pem"));
        target.transport = Transport {
            program: Program::Relay,
            mode: SslMode::VerifyFull,
            roots,
            identity: None,
            channel_binding: ChannelBinding::Prefer,
        };
        let error = Connection::connect(&target).map(drop).unwrap_err();
        server.join();
        assert!(matches!(&error, WireError::Tls(error) if !error.is_permanent()), "{error:?}");
        assert!(error.to_string().contains("/nowhere/ca.pem cannot be read"), "{error}");
    }
}
