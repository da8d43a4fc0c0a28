//! Where the port may be.

use std::net::SocketAddr;

/// Whether the port may be on this address: it asks for no password, so anywhere but on loopback somebody has to have
/// allowed it. How that is done, and the sentence for who has not, is the program's.
pub fn may_be_on(address: SocketAddr, allow_remote: bool) -> bool {
    allow_remote || address.ip().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_on_loopback_unless_somebody_says_otherwise() {
        let on = |address: &str, allow_remote| may_be_on(address.parse().unwrap(), allow_remote);
        for near in ["127.0.0.1:0", "127.8.8.8:1", "[::1]:1"] {
            assert!(on(near, false) && on(near, true), "{near}");
        }
        for remote in ["0.0.0.0:1", "[::]:1", "192.0.2.1:1"] {
            assert!(!on(remote, false) && on(remote, true), "{remote}");
        }
    }
}
