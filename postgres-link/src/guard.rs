//! What a server may ask for before a login is done.
//!
//! The SQL driver answers a server that asks for the password in clear text, and cannot be told not to. So the
//! bytes are looked at on their way to the driver, below the driver and above TLS, until the server has said
//! that the login is done: a request that must not be answered becomes an error, and the driver never sees it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, TlsStream};

use crate::Program;
use crate::tls::error::TlsError;
use crate::transport::{SslMode, Transport, is_loopback};

/// Why a login was not gone on with.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The server offers no TLS where the connection must not go in the clear.
    #[error(transparent)]
    NoTls(TlsError),
    /// The server asks for the password itself.
    #[error(
        "the server asks for the password in clear text; set `scram-sha-256` for the {}'s role in pg_hba.conf",
        .0.name()
    )]
    ClearText(Program),
    /// The server asks, in the clear over a network, for a hash that would do in place of the password.
    #[error(
        "the server asks for the password's MD5 hash, and the connection is not encrypted; set `scram-sha-256` for the \
         {}'s role in pg_hba.conf",
        .0.name()
    )]
    Md5(Program),
    /// What came is no message of PostgreSQL.
    #[error("the server does not speak PostgreSQL's protocol, or somebody between changed what it said")]
    Strange,
}

impl Refusal {
    /// Whether waiting mends nothing.
    pub fn is_permanent(&self) -> bool {
        match self {
            Refusal::NoTls(_) | Refusal::ClearText(_) | Refusal::Md5(_) => true,
            Refusal::Strange => false,
        }
    }
}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// One byte: the answer to the request for TLS.
    Answer,
    /// A message's head; of a request for authentication its kind, too.
    Head,
    /// So many bytes of a message that is the driver's business.
    Body(usize),
    /// The login is done, or TLS begins: nothing is looked at any more.
    Over,
}

/// Tag and length of a message, and the kind of an authentication request.
const HEAD: usize = 9;
/// Tag and length.
const SHORT: usize = 5;

/// Follows what a server says until a login is done.
#[derive(Debug)]
pub(crate) struct Watch {
    program: Program,
    may_do_without_tls: bool,
    may_be_md5: bool,
    stage: Stage,
    head: [u8; HEAD],
    have: usize,
}

impl Watch {
    /// Of the bytes on the wire.
    pub(crate) fn outside(transport: &Transport, host: &str) -> Watch {
        let stage = if transport.mode == SslMode::Disable { Stage::Head } else { Stage::Answer };
        Watch {
            program: transport.program,
            may_do_without_tls: transport.mode == SslMode::Prefer,
            may_be_md5: is_loopback(host),
            stage,
            head: [0; HEAD],
            have: 0,
        }
    }

    /// Of the bytes within TLS.
    fn inside(program: Program) -> Watch {
        let stage = Stage::Head;
        Watch { program, may_do_without_tls: false, may_be_md5: true, stage, head: [0; HEAD], have: 0 }
    }

    /// Looks at the next bytes, however they are cut.
    fn see(&mut self, mut bytes: &[u8]) -> Result<(), Refusal> {
        while let Some((&first, rest)) = bytes.split_first() {
            match self.stage {
                Stage::Over => return Ok(()),
                Stage::Body(left) => {
                    let passed = left.min(bytes.len());
                    bytes = &bytes[passed..];
                    self.stage = if passed == left { Stage::Head } else { Stage::Body(left - passed) };
                }
                Stage::Answer => {
                    bytes = rest;
                    self.stage = match first {
                        b'S' => Stage::Over,
                        b'N' if self.may_do_without_tls => Stage::Head,
                        b'N' => return Err(Refusal::NoTls(TlsError::not_offered())),
                        // An error in the clear is not repeated: nothing vouches for it (CVE-2024-10977).
                        _ => return Err(Refusal::Strange),
                    };
                }
                Stage::Head => {
                    bytes = rest;
                    self.head[self.have] = first;
                    self.have += 1;
                    let whole = if self.head[0] == b'R' { HEAD } else { SHORT };
                    if self.have == whole {
                        self.have = 0;
                        self.stage = self.judge(whole)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// What a message's head means. The length counts itself but not the tag.
    fn judge(&self, whole: usize) -> Result<Stage, Refusal> {
        let [tag, a, b, c, d, kind @ ..] = self.head;
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        let left = (length + 1).checked_sub(whole).ok_or(Refusal::Strange)?;
        let body = if left == 0 { Stage::Head } else { Stage::Body(left) };
        match (tag, u32::from_be_bytes(kind)) {
            (b'R', 0) => Ok(Stage::Over),
            (b'R', 3) => Err(Refusal::ClearText(self.program)),
            (b'R', 5) if !self.may_be_md5 => Err(Refusal::Md5(self.program)),
            _ => Ok(body),
        }
    }
}

/// A stream whose reader sees nothing that must not be answered.
#[derive(Debug)]
pub(crate) struct Guarded<S> {
    stream: S,
    watch: Watch,
}

impl<S> Guarded<S> {
    pub(crate) fn new(stream: S, watch: Watch) -> Guarded<S> {
        Guarded { stream, watch }
    }

    /// The stream itself, and a guard for what will be within TLS on it.
    pub(crate) fn into_inner(self) -> (S, Watch) {
        (self.stream, Watch::inside(self.watch.program))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, into))?;
        // On an error the reader takes nothing of the buffer.
        Poll::Ready(self.watch.see(&into.filled()[before..]).map_err(io::Error::other))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl<S: TlsStream + Unpin> TlsStream for Guarded<S> {
    fn channel_binding(&self) -> ChannelBinding {
        self.stream.channel_binding()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        [&[tag], &length[..], body].concat()
    }

    fn watch(mode: SslMode, host: &str) -> Watch {
        Watch::outside(&Transport { mode, ..Transport::clear(Program::Consumer) }, host)
    }

    const CLEAR_TEXT: [u8; 4] = [0, 0, 0, 3];
    const MD5: [u8; 8] = [0, 0, 0, 5, 1, 2, 3, 4];

    #[test]
    fn a_password_in_clear_text_is_refused_everywhere() {
        let asked = message(b'R', &CLEAR_TEXT);
        for mut watch in [watch(SslMode::Disable, "localhost"), Watch::inside(Program::Consumer)] {
            let refusal = watch.see(&asked).unwrap_err();
            assert!(matches!(refusal, Refusal::ClearText(_)) && refusal.is_permanent());
            assert!(refusal.to_string().contains("the consumer's role"), "{refusal}");
        }
    }

    #[test]
    fn a_hash_is_refused_in_the_clear_over_a_network() {
        let asked = message(b'R', &MD5);
        assert!(matches!(watch(SslMode::Disable, "db").see(&asked), Err(Refusal::Md5(_))));
        assert!(watch(SslMode::Disable, "127.0.0.1").see(&asked).is_ok());
        assert!(Watch::inside(Program::Consumer).see(&asked).is_ok());
        let without = [b"N", &asked[..]].concat();
        assert!(matches!(watch(SslMode::Prefer, "db").see(&without), Err(Refusal::Md5(_))));
    }

    #[test]
    fn the_answer_to_the_request_for_tls_is_looked_at() {
        assert!(watch(SslMode::Require, "db").see(b"S\x16whatever").is_ok());
        let refusal = watch(SslMode::Require, "db").see(b"N").unwrap_err();
        assert!(refusal.is_permanent() && refusal.to_string().contains("offers no TLS"), "{refusal}");
        let refusal = watch(SslMode::Prefer, "db").see(b"Epay this account instead").unwrap_err();
        assert!(matches!(refusal, Refusal::Strange) && !refusal.to_string().contains("pay"), "{refusal}");
    }

    #[test]
    fn a_message_of_an_impossible_length_is_refused() {
        for length in 0..4_u8 {
            let mut watch = watch(SslMode::Disable, "db");
            assert!(matches!(watch.see(&[b'N', 0, 0, 0, length]), Err(Refusal::Strange)), "{length}");
        }
        let mut watch = watch(SslMode::Disable, "db");
        assert!(matches!(watch.see(&message(b'R', &[])), Ok(())), "its kind has not come");
        assert!(matches!(watch.see(&[0, 0, 0, 3]), Err(Refusal::Strange)));
    }

    proptest! {
        /// Whatever comes before, and however it is cut, the request is met; and nothing after the login is.
        #[test]
        fn a_request_is_met_however_the_bytes_are_cut(
            before in prop::collection::vec((prop::sample::select(vec![b'N', b'v', b'S']),
                prop::collection::vec(any::<u8>(), 0..20)), 0..5),
            cuts in prop::collection::vec(1_usize..9, 1..80),
            done in any::<bool>(),
        ) {
            let mut bytes: Vec<u8> = before.iter().flat_map(|(tag, body)| message(*tag, body)).collect();
            if done {
                bytes.extend(message(b'R', &[0; 4]));
            }
            bytes.extend(message(b'R', &CLEAR_TEXT));
            let mut watch = watch(SslMode::Disable, "db");
            let mut rest = bytes.as_slice();
            let mut seen = Ok(());
            for cut in cuts.iter().cycle() {
                let (piece, behind) = rest.split_at(rest.len().min(*cut));
                rest = behind;
                seen = seen.and_then(|()| watch.see(piece));
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(seen.is_ok(), done);
        }
    }
}
