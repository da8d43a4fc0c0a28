//! The port from outside: real requests over TCP.

use std::fmt::Display;
use std::time::Instant;

use parking_lot::Mutex;
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

use super::*;
use crate::trial::ask;

/// A program that says what it is told to.
#[derive(Default)]
struct Program {
    looked: Notify,
    not_ready: Mutex<Option<&'static str>>,
    metrics: Mutex<Option<&'static str>>,
}

impl Answers for Program {
    fn look(&self) {
        self.looked.notify_one();
    }

    fn not_ready(&self) -> Option<String> {
        self.not_ready.lock().map(str::to_owned)
    }

    fn status(&self) -> impl Serialize {
        [("ready", self.not_ready.lock().is_none())]
    }

    fn metrics(&self) -> Result<String, impl Display> {
        self.metrics.lock().map(str::to_owned).ok_or("no text")
    }
}

struct Trial {
    address: SocketAddr,
    program: Arc<Program>,
    stop: oneshot::Sender<()>,
    served: JoinHandle<io::Result<()>>,
}

impl Trial {
    async fn open() -> Trial {
        let port = Port::open(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let (address, program) = (port.address(), Arc::<Program>::default());
        let (stop, stopped) = oneshot::channel();
        let served = tokio::spawn(port.serve(program.clone(), async {
            let _ = stopped.await;
        }));
        Trial { address, program, stop, served }
    }

    async fn get(&self, path: &str) -> (u16, String) {
        ask(self.address, "GET", path).await
    }
}

#[tokio::test]
async fn each_request_gets_what_the_program_says() {
    let port = Trial::open().await;
    assert_eq!(port.get("/live").await, (200, "live\n".to_owned()));
    assert_eq!(port.get("/ready").await, (200, "ready\n".to_owned()));
    assert_eq!(port.get("/status").await, (200, r#"[["ready",true]]"#.to_owned()));
    assert_eq!(port.get("/metrics").await, (500, "no text\n".to_owned()));
    *port.program.not_ready.lock() = Some("draining");
    *port.program.metrics.lock() = Some("payments_seen 3\n");
    assert_eq!(port.get("/live").await.0, 200);
    assert_eq!(port.get("/ready").await, (503, "draining\n".to_owned()));
    assert_eq!(port.get("/status").await, (200, r#"[["ready",false]]"#.to_owned()));
    assert_eq!(port.get("/metrics").await, (200, "payments_seen 3\n".to_owned()));
}

#[tokio::test]
async fn what_is_json_and_what_is_prometheus_text_says_so() {
    let port = Trial::open().await;
    *port.program.metrics.lock() = Some("payments_seen 3\n");
    for (path, content_type) in [("/status", "application/json"), ("/metrics", prometheus::TEXT_FORMAT)] {
        let mut stream = TcpStream::connect(port.address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: port\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.contains(&format!("content-type: {content_type}\r\n")), "{answer}");
    }
}

#[tokio::test]
async fn only_reading_is_offered() {
    let port = Trial::open().await;
    for path in ["/live", "/ready", "/status", "/metrics"] {
        for method in ["POST", "PUT", "DELETE"] {
            let (code, said) = ask(port.address, method, path).await;
            assert_eq!((code, said.as_str()), (405, "this port is for reading: GET only\n"), "{path}");
        }
    }
    let (code, said) = port.get("/").await;
    assert_eq!((code, said.as_str()), (404, "not here; there is /live, /ready, /status and /metrics\n"));
}

#[tokio::test]
async fn a_port_is_one_programs() {
    let port = Trial::open().await;
    let error = Port::open(port.address).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
}

#[tokio::test]
async fn closing_waits_for_nobody() {
    let port = Trial::open().await;
    // A client that begins to ask and never ends.
    let mut half = TcpStream::connect(port.address).await.unwrap();
    half.write_all(b"GET /live HTTP/1.1\r\n").await.unwrap();
    assert_eq!(port.get("/live").await.0, 200);
    port.stop.send(()).unwrap();
    let limit = CLOSE_TIMEOUT + Duration::from_secs(10);
    tokio::time::timeout(limit, port.served).await.expect("closes in time").unwrap().unwrap();
    assert!(TcpStream::connect(port.address).await.is_err());
}

#[tokio::test]
async fn the_program_looks_at_once_and_again_after_a_second() {
    let port = Trial::open().await;
    let look = async || {
        let looked = port.program.looked.notified();
        tokio::time::timeout(EVERY * 10, looked).await.expect("a look");
        Instant::now()
    };
    let (first, second) = (look().await, look().await);
    assert!(second - first > EVERY / 2, "{:?}", second - first);
}
