//! One HTTP GET over a plain socket: all that asking an admin port takes.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// Limit of connecting, and of each wait for an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest answer that is read.
const LONGEST: u64 = 1 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The name leads nowhere.
    #[error("the name cannot be resolved")]
    Resolve(#[source] io::Error),
    /// Nobody accepts.
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    /// The connection broke, or the answer took too long.
    #[error("the connection failed")]
    Exchange(#[source] io::Error),
    /// Something else than HTTP, or than a page.
    #[error("the answer is not a page: {0}")]
    Answer(String),
}

/// Gets a page from `host:port`.
pub fn get(authority: &str, path: &str) -> Result<String, FetchError> {
    let mut stream = connect(authority)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(FetchError::Exchange)?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(FetchError::Exchange)?;
    // HTTP/1.0: the answer ends with the connection and never comes in chunks (RFC 9112, 6.3).
    let request = format!("GET {path} HTTP/1.0\r\nHost: {authority}\r\nAccept: application/json\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(FetchError::Exchange)?;
    let mut answer = Vec::new();
    stream.take(LONGEST).read_to_end(&mut answer).map_err(FetchError::Exchange)?;
    body_of(&String::from_utf8_lossy(&answer))
}

fn connect(authority: &str) -> Result<TcpStream, FetchError> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in authority.to_socket_addrs().map_err(FetchError::Resolve)? {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(FetchError::Connect(last))
}

fn body_of(answer: &str) -> Result<String, FetchError> {
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or_else(|| FetchError::Answer("it has no end of its head".into()))?;
    let line = head.lines().next().unwrap_or_default();
    let code = line.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1));
    match code {
        Some("200") => Ok(body.to_string()),
        Some(code) => Err(FetchError::Answer(format!("code {code}"))),
        None => Err(FetchError::Answer("it is not HTTP".into())),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// A server of one answer; gives the request it got.
    fn answer_with(answer: &'static str) -> (String, thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"\r\n\r\n") {
                stream.read_exact(&mut byte).unwrap();
                request.push(byte[0]);
            }
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8(request).unwrap()
        });
        (authority, server)
    }

    #[test]
    fn a_page_is_fetched() {
        let (authority, server) =
            answer_with("HTTP/1.0 200 OK\r\ncontent-type: application/json\r\n\r\n{\"ready\":true}");
        assert_eq!(get(&authority, "/status").unwrap(), "{\"ready\":true}");
        let request = server.join().unwrap();
        assert!(request.starts_with("GET /status HTTP/1.0\r\nHost: 127.0.0.1:"), "{request}");
    }

    #[test]
    fn what_is_no_page_is_told() {
        for (answer, part) in [
            ("HTTP/1.1 404 Not Found\r\n\r\n", "code 404"),
            ("hello\r\n\r\n", "not HTTP"),
            ("HTTP/1.1 200", "head"),
        ] {
            let (authority, server) = answer_with(answer);
            let error = get(&authority, "/status").unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
            server.join().unwrap();
        }
    }

    #[test]
    fn nobody_there_is_told() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        drop(listener);
        assert!(matches!(get(&authority, "/status"), Err(FetchError::Connect(_))));
    }
}
