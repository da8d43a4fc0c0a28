//! Start-up parameters and authentication.

use fallible_iterator::FallibleIterator;
use outbox_postgres_link::transport::ChannelBinding as Binding;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{
    ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256,
};
use postgres_protocol::message::backend::{AuthenticationSaslBody, Message};
use postgres_protocol::message::frontend;
use secrecy::ExposeSecret;

use super::connection::{Connection, Patience, Target};
use super::error::WireError;

/// What goes on while the server may still refuse the role.
pub(crate) const LOGGING_IN: &str = "logging in";

/// Sends the start-up message, authenticates, and waits until the server takes commands.
pub(super) fn log_in(
    connection: &mut Connection,
    target: &Target,
    patience: Patience,
) -> Result<(), WireError> {
    let wal_sender_timeout = format!("{}ms", target.wal_sender_timeout.as_millis());
    let parameters = parameters(target, &wal_sender_timeout);
    connection.send(LOGGING_IN, |out| frontend::startup_message(parameters, out))?;
    authenticate(connection, target, patience)?;
    loop {
        match connection.receive(LOGGING_IN, patience)? {
            Message::BackendKeyData(body) => connection.backend_pid = body.process_id(),
            Message::ReadyForQuery(_) => return Ok(()),
            _ => return Err(WireError::protocol(LOGGING_IN, "a message that does not belong to a start-up")),
        }
    }
}

/// What role and database may have set must not change what the stream carries or how long it lives:
/// settings of the start-up message come before theirs.
fn parameters<'a>(target: &'a Target, wal_sender_timeout: &'a str) -> [(&'a str, &'a str); 16] {
    [
        ("user", &target.user),
        ("database", &target.database),
        ("replication", "database"),
        ("application_name", &target.application_name),
        ("client_encoding", "UTF8"),
        // The text form of values: unambiguous, exact, in UTC.
        ("datestyle", "ISO"),
        ("timezone", "UTC"),
        ("intervalstyle", "postgres"),
        ("extra_float_digits", "3"),
        ("bytea_output", "hex"),
        ("wal_sender_timeout", wal_sender_timeout),
        // Making a slot waits for open transactions, and its exported snapshot for the fill that reads it.
        ("statement_timeout", "0"),
        ("lock_timeout", "0"),
        ("idle_in_transaction_session_timeout", "0"),
        ("idle_session_timeout", "0"),
        ("synchronous_commit", "on"),
    ]
}

fn authenticate(connection: &mut Connection, target: &Target, patience: Patience) -> Result<(), WireError> {
    let asked = connection.receive(LOGGING_IN, patience)?;
    if target.transport.channel_binding == Binding::Require
        && !matches!(asked, Message::AuthenticationSasl(_))
    {
        return Err(unbound("the server asks for no proof that could be bound"));
    }
    match asked {
        Message::AuthenticationOk => return Ok(()),
        Message::AuthenticationSasl(body) => scram(connection, &body, target, patience)?,
        Message::AuthenticationMd5Password(body) => {
            let hash = md5_hash(target.user.as_bytes(), password(target)?, body.salt());
            connection.send(LOGGING_IN, |out| frontend::password_message(hash.as_bytes(), out))?;
        }
        Message::AuthenticationCleartextPassword => {
            return Err(refused(
                "the server asks for the password in clear text; set `scram-sha-256` for the relay's role in \
                 pg_hba.conf",
            ));
        }
        Message::AuthenticationGss
        | Message::AuthenticationSspi
        | Message::AuthenticationKerberosV5
        | Message::AuthenticationScmCredential => {
            return Err(refused(
                "the server asks for a method other than a password; set `scram-sha-256` for the relay's role \
                 in pg_hba.conf",
            ));
        }
        _ => return Err(WireError::protocol(LOGGING_IN, "a message that does not ask for authentication")),
    }
    match connection.receive(LOGGING_IN, patience)? {
        Message::AuthenticationOk => Ok(()),
        _ => Err(WireError::protocol(LOGGING_IN, "something other than the end of the authentication")),
    }
}

/// SCRAM-SHA-256, bound to the connection where both sides can (RFC 5802, RFC 7677, RFC 5929).
fn scram(
    connection: &mut Connection,
    offer: &AuthenticationSaslBody,
    target: &Target,
    patience: Patience,
) -> Result<(), WireError> {
    let password = password(target)?;
    let (mechanism, binding) = mechanism(connection, offer, target.transport.channel_binding)?;
    let mut scram = ScramSha256::new(password, binding);
    connection.send(LOGGING_IN, |out| frontend::sasl_initial_response(mechanism, scram.message(), out))?;
    match connection.receive(LOGGING_IN, patience)? {
        Message::AuthenticationSaslContinue(body) => scram.update(body.data()).map_err(unproven)?,
        _ => return Err(WireError::protocol(LOGGING_IN, "something other than a SCRAM challenge")),
    }
    connection.send(LOGGING_IN, |out| frontend::sasl_response(scram.message(), out))?;
    match connection.receive(LOGGING_IN, patience)? {
        Message::AuthenticationSaslFinal(body) => scram.finish(body.data()).map_err(unproven),
        _ => Err(WireError::protocol(LOGGING_IN, "something other than the end of SCRAM")),
    }
}

/// The strongest mechanism that both sides know. What the relay could have done is part of the proof, so a
/// server notices where somebody between took the stronger mechanism from its offer (RFC 5802, section 6).
fn mechanism(
    connection: &Connection,
    offer: &AuthenticationSaslBody,
    wish: Binding,
) -> Result<(&'static str, ChannelBinding), WireError> {
    let (mut plain, mut bound) = (false, false);
    let mut mechanisms = offer.mechanisms();
    while let Some(offered) = mechanisms.next().map_err(unproven)? {
        plain |= offered == SCRAM_SHA_256;
        bound |= offered == SCRAM_SHA_256_PLUS;
    }
    let end_point = match wish {
        Binding::Disable => None,
        Binding::Prefer | Binding::Require => connection.channel.end_point(),
    };
    match (end_point, wish) {
        (Some(end_point), _) if bound => {
            Ok((SCRAM_SHA_256_PLUS, ChannelBinding::tls_server_end_point(end_point)))
        }
        (None, Binding::Require) if !connection.channel.is_sealed() => {
            Err(unbound("the connection is without TLS"))
        }
        (None, Binding::Require) => {
            Err(unbound("the server's certificate has a signature it is not defined for"))
        }
        (Some(_), Binding::Require) => Err(unbound("the server offers no SCRAM-SHA-256-PLUS")),
        _ if !plain => Err(refused("the server offers no SCRAM-SHA-256")),
        (Some(_), Binding::Prefer | Binding::Disable) => Ok((SCRAM_SHA_256, ChannelBinding::unrequested())),
        (None, Binding::Prefer | Binding::Disable) => Ok((SCRAM_SHA_256, ChannelBinding::unsupported())),
    }
}

fn password(target: &Target) -> Result<&[u8], WireError> {
    match &target.password {
        Some(password) => Ok(password.expose_secret().as_bytes()),
        None => Err(refused("the server asks for a password and none is configured")),
    }
}

fn refused(reason: &'static str) -> WireError {
    WireError::Authentication { reason, source: None }
}

fn unbound(why: &'static str) -> WireError {
    WireError::Unbound { why }
}

fn unproven(source: std::io::Error) -> WireError {
    WireError::Authentication {
        reason: "the server did not prove that it knows the password",
        source: Some(source),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::fake::{self, Server};

    fn answer_to(request: &[u8], password: Option<&str>) -> WireError {
        let request = request.to_vec();
        let server = Server::start(move |peer| {
            peer.startup();
            peer.send(&request);
            peer.until_closed();
        });
        let error = Connection::connect(&server.target(password)).expect_err("no login");
        server.join();
        error
    }

    #[test]
    fn a_clear_text_password_is_never_sent() {
        let error = answer_to(&fake::message(b'R', &[0, 0, 0, 3]), Some("secret-word"));
        assert!(matches!(error, WireError::Authentication { .. }), "{error:?}");
        assert!(error.to_string().contains("clear text"));
        assert!(!format!("{error:?} {error}").contains("secret-word"));
    }

    #[test]
    fn a_missing_password_is_said() {
        let error = answer_to(&fake::message(b'R', &[0, 0, 0, 5, 1, 2, 3, 4]), None);
        assert!(error.to_string().contains("none is configured"), "{error}");
    }

    #[test]
    fn an_unknown_method_is_refused() {
        let error = answer_to(&fake::message(b'R', &[0, 0, 0, 7]), Some("x"));
        assert!(error.to_string().contains("pg_hba.conf"), "{error}");
        let error = answer_to(&fake::message(b'R', b"\0\0\0\x0ASCRAM-SHA-1\0\0"), Some("x"));
        assert!(error.to_string().contains("no SCRAM-SHA-256"), "{error}");
    }

    #[test]
    fn a_server_that_cannot_prove_itself_is_refused() {
        let server = Server::start(|peer| {
            peer.startup();
            peer.send(&fake::message(b'R', b"\0\0\0\x0ASCRAM-SHA-256\0\0"));
            peer.request(b'p');
            peer.send(&fake::message(b'R', b"\0\0\0\x0Br=not-the-nonce,s=c2FsdA==,i=4096"));
            peer.until_closed();
        });
        let error = Connection::connect(&server.target(Some("x"))).expect_err("no login");
        server.join();
        assert!(error.to_string().contains("did not prove"), "{error}");
    }

    #[test]
    fn a_login_that_has_to_be_bound_is_not_made_without() {
        for (request, part) in [
            (fake::message(b'R', &[0; 4]), "no proof that could be bound"),
            (fake::message(b'R', &[0, 0, 0, 5, 1, 2, 3, 4]), "no proof that could be bound"),
            (fake::message(b'R', b"\0\0\0\x0ASCRAM-SHA-256\0\0"), "without TLS"),
        ] {
            let server = Server::start(move |peer| {
                peer.startup();
                peer.send(&request);
                assert_eq!(peer.until_closed(), b"", "nothing is proved to it");
            });
            let mut target = server.target(Some("x"));
            target.transport.channel_binding = Binding::Require;
            let error = Connection::connect(&target).expect_err("no login");
            server.join();
            assert!(matches!(error, WireError::Unbound { .. }), "{error:?}");
            assert!(error.to_string().contains(part), "{error}");
        }
    }

    #[test]
    fn an_md5_password_is_hashed_with_the_salt() {
        let server = Server::start(|peer| {
            peer.startup();
            peer.send(&fake::message(b'R', &[0, 0, 0, 5, 1, 2, 3, 4]));
            let expected = md5_hash(b"relay", b"secret-word", [1, 2, 3, 4]) + "\0";
            assert_eq!(peer.request(b'p'), expected.as_bytes());
            peer.greet();
        });
        let connection = Connection::connect(&server.target(Some("secret-word"))).unwrap();
        server.join();
        assert_eq!(connection.backend_pid(), 4711);
        assert_eq!(connection.server_version(), "15.18");
    }

    #[test]
    fn the_start_up_message_fixes_what_the_stream_depends_on() {
        let server = Server::start(|peer| {
            let startup = String::from_utf8(peer.startup()).unwrap();
            for pair in
                ["replication\0database\0", "wal_sender_timeout\x0010000ms\0", "client_encoding\0UTF8\0"]
            {
                assert!(startup.contains(pair), "{pair:?} in {startup:?}");
            }
            peer.greet();
        });
        Connection::connect(&server.target(None)).unwrap();
        server.join();
    }
}
