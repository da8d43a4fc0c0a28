//! What it is measured on.

use std::net::{TcpListener, TcpStream};
use std::{fs, io};

use serde::{Deserialize, Serialize};

use crate::cluster::kafka::SHIPPED;

/// The machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's name.
    pub processor: String,
    /// Logical processors that this process may use.
    pub cores: usize,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// The kernel's name and version.
    pub kernel: String,
    /// Congestion control of its connections over loopback.
    pub congestion_control: String,
    /// What Kafka's broker is started with, as options of `java`; empty where nobody said it.
    #[serde(default)]
    pub broker: String,
}

impl Machine {
    /// This one, as this process sees it.
    pub fn here() -> Machine {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let processor = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let memory = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
        let kib = memory.and_then(|text| text.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Machine {
            processor: processor.map_or("unknown", |(_, name)| name).to_owned(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_mib: kib.unwrap_or(0) / 1024,
            kernel: format!("Linux {} {}", kernel.trim(), std::env::consts::ARCH),
            congestion_control: congestion_control(),
            broker: String::new(),
        }
    }

    /// With a broker that is started as [`Builder::as_shipped`](crate::cluster::kafka::Builder::as_shipped) starts it.
    pub fn with_shipped_broker(self) -> Machine {
        Machine { broker: SHIPPED.join(" "), ..self }
    }

    /// The broker and its options, in words of a report.
    pub fn broker_in_words(&self) -> String {
        match self.broker.as_str() {
            "" => "4.3, one broker on the same machine".to_owned(),
            options => format!("4.3, one broker on the same machine with `{options}`"),
        }
    }
}

/// The congestion control of a connection over loopback in this process's network namespace, as the kernel says
/// of one that was made to be asked.
pub fn congestion_control() -> String {
    let asked = || -> io::Result<String> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let connection = TcpStream::connect(listener.local_addr()?)?;
        let name = socket2::SockRef::from(&connection).tcp_congestion()?;
        Ok(String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned())
    };
    asked().unwrap_or_else(|error| error.to_string())
}
