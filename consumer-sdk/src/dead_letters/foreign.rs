//! Dead letters that Spring Kafka and Kafka Connect wrote.
//!
//! Spring writes numbers as big-endian integers and appends a further set of `original` headers at each hop through a
//! retry topic, so the first of a name is the source's; of the exception it keeps the last. Connect writes all as text
//! (`errors.deadletterqueue.context.headers.enable`).
//!
//! Neither knows a scope, an owner or a deadline: whoever reads their topics says which ([`Adoption`]).

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::evidence::Evidence;
use super::record::{Header, Record, first, last};
use super::topic::is_legal;

/// Who wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framework {
    /// Spring Kafka's `DeadLetterPublishingRecoverer`, also behind its retry topics.
    Spring,
    /// A sink connector's dead letter queue.
    Connect,
}

/// What a dead letter of another framework says. Everything may be missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Foreign {
    /// Who wrote it.
    pub framework: Framework,
    /// Topic of the source record.
    pub topic: Option<String>,
    /// Its partition.
    pub partition: Option<i32>,
    /// Its offset.
    pub offset: Option<i64>,
    /// Its timestamp in milliseconds since 1970.
    pub timestamp: Option<i64>,
    /// Group that read it.
    pub group: Option<String>,
    /// The connector and its stage.
    pub handler: Option<String>,
    /// Class of the exception; of its cause where that is told.
    pub class: Option<String>,
    /// What it said.
    pub message: Option<String>,
    /// Its stack.
    pub stack: Option<String>,
    /// How often it was tried.
    pub attempts: Option<u32>,
}

/// What the reader of a foreign or damaged dead letter has to say about it.
#[derive(Debug, Clone)]
pub struct Adoption {
    /// The consumer it belongs to.
    pub scope: String,
    /// The team that has to decide.
    pub owner: String,
    /// How long it has.
    pub within: Duration,
}

/// Whether a header's name belongs to a framework's evidence.
pub fn is_foreign(name: &str) -> bool {
    const PREFIXES: [&str; 5] =
        ["kafka_dlt-", "kafka_original-", "kafka_exception-", "retry_topic-", "__connect.errors."];
    PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Reads what these frameworks write; `None` where there is nothing of it.
pub fn read(headers: &[Header]) -> Option<Foreign> {
    let any = |prefix: &str| headers.iter().any(|header| header.name.starts_with(prefix));
    if any("kafka_dlt-") || any("kafka_original-") {
        return Some(spring(headers));
    }
    any("__connect.errors.").then(|| connect(headers))
}

fn spring(headers: &[Header]) -> Foreign {
    // `kafka_original-` is what its retry topics write, and comes first where both are there.
    let original = |name: &str| {
        first(headers, &format!("kafka_original-{name}"))
            .or_else(|| first(headers, &format!("kafka_dlt-original-{name}")))
    };
    let exception = |name: &str| {
        let of = |prefix: &str| last(headers, &format!("{prefix}exception-{name}"));
        of("kafka_dlt-").or_else(|| of("kafka_dlt-key-")).or_else(|| of("kafka_")).map(lossy)
    };
    let attempts = last(headers, "retry_topic-attempts").and_then(int);
    Foreign {
        framework: Framework::Spring,
        topic: original("topic").map(lossy).filter(|topic| is_legal(topic)),
        partition: original("partition").and_then(int).filter(|partition| *partition >= 0),
        offset: original("offset").and_then(long).filter(|offset| *offset >= 0),
        timestamp: original("timestamp").and_then(long),
        group: original("consumer-group").map(lossy).filter(|group| !group.is_empty()),
        handler: None,
        class: exception("cause-fqcn").or_else(|| exception("fqcn")),
        message: exception("message"),
        stack: exception("stacktrace"),
        attempts: attempts.and_then(|count| u32::try_from(count).ok()),
    }
}

fn connect(headers: &[Header]) -> Foreign {
    let text = |name: &str| {
        last(headers, &format!("__connect.errors.{name}")).map(lossy).filter(|text| !text.is_empty())
    };
    let handler = text("connector.name")
        .map(|connector| text("stage").map_or(connector.clone(), |stage| format!("{connector} {stage}")));
    Foreign {
        framework: Framework::Connect,
        topic: text("topic").filter(|topic| is_legal(topic)),
        partition: text("partition").and_then(|text| text.parse().ok()).filter(|number| *number >= 0),
        offset: text("offset").and_then(|text| text.parse().ok()).filter(|number| *number >= 0),
        timestamp: None,
        group: None,
        handler,
        class: text("exception.class.name"),
        message: text("exception.message"),
        stack: text("exception.stacktrace"),
        attempts: None,
    }
}

impl Foreign {
    /// The evidence, with what its framework does not know. Where the source is not told, the copy is its own source,
    /// so that a letter locates a record in any case.
    pub fn adopt(self, adoption: &Adoption, copy: &Record) -> Evidence {
        let framework = match self.framework {
            Framework::Spring => "spring-kafka",
            Framework::Connect => "kafka-connect",
        };
        let cause = self.class.as_deref().and_then(simple_name).unwrap_or(framework).to_owned();
        let place = match (self.topic, self.partition, self.offset) {
            (Some(topic), Some(partition), Some(offset)) => (topic, partition, offset),
            _ => (copy.topic.clone(), copy.partition, copy.offset),
        };
        Evidence {
            timestamp: self.timestamp,
            group: self.group.unwrap_or_default(),
            handler: self.handler,
            class: self.class,
            message: self.message.unwrap_or_default(),
            stack: self.stack,
            attempts: self.attempts.unwrap_or(1),
            sdk: framework.to_owned(),
            ..adopted(cause, place, adoption, copy)
        }
    }
}

/// Evidence of a record that says nothing usable itself.
pub fn adopted(cause: String, place: (String, i32, i64), adoption: &Adoption, copy: &Record) -> Evidence {
    let at = copy
        .timestamp
        .and_then(|millis| Timestamp::from_millisecond(millis).ok())
        .unwrap_or_else(Timestamp::now);
    let within = SignedDuration::try_from(adoption.within).unwrap_or(SignedDuration::MAX);
    let text = |name| last(&copy.headers, name).map(lossy);
    Evidence {
        topic: place.0,
        partition: place.1,
        offset: place.2,
        timestamp: None,
        group: String::new(),
        scope: adoption.scope.clone(),
        handler: None,
        // Nothing is settled under an id that another framework dead-lettered, but copies collapse by it.
        id: text("id").and_then(|id| id.parse().ok()),
        created: None,
        event_type: text("type"),
        class: None,
        message: String::new(),
        stack: None,
        cause,
        attempts: 1,
        first_failed: at,
        last_failed: at,
        instance: String::new(),
        sdk: String::new(),
        owner: adoption.owner.clone(),
        deadline: at.checked_add(within).unwrap_or(Timestamp::MAX),
        traceparent: None,
        replay: 0,
        truncated: false,
    }
}

/// The name of a Java class without its package.
fn simple_name(class: &str) -> Option<&str> {
    class.rsplit(['.', '$']).next().filter(|name| !name.is_empty())
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn int(bytes: &[u8]) -> Option<i32> {
    Some(i32::from_be_bytes(bytes.try_into().ok()?))
}

fn long(bytes: &[u8]) -> Option<i64> {
    Some(i64::from_be_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(name: &str, value: &[u8]) -> Header {
        Header { name: name.into(), value: Some(value.to_vec()) }
    }

    fn copy(headers: Vec<Header>) -> Record {
        let (key, value) = (None, None);
        Record { topic: "o-dlt".into(), partition: 1, offset: 9, timestamp: Some(1_000), key, value, headers }
    }

    fn adoption() -> Adoption {
        Adoption { scope: "orders".into(), owner: "team".into(), within: Duration::from_secs(60) }
    }

    #[test]
    fn spring_says_where_the_record_was_first() {
        let headers = vec![
            header("kafka_dlt-original-topic", b"orders"),
            header("kafka_dlt-original-partition", &7_i32.to_be_bytes()),
            header("kafka_dlt-original-offset", &(1_i64 << 40).to_be_bytes()),
            header("kafka_dlt-original-timestamp", &5_i64.to_be_bytes()),
            header("kafka_dlt-original-consumer-group", b"billing"),
            header(
                "kafka_dlt-exception-fqcn",
                b"org.springframework.kafka.listener.ListenerExecutionFailedException",
            ),
            header("kafka_dlt-exception-cause-fqcn", b"com.example.Stock$OutOfStock"),
            header("kafka_dlt-exception-message", b"no stock"),
            header("retry_topic-attempts", &4_i32.to_be_bytes()),
            header("kafka_dlt-original-topic", b"orders-retry-0"),
            header("kafka_dlt-original-offset", &3_i64.to_be_bytes()),
        ];
        let evidence = read(&headers).unwrap().adopt(&adoption(), &copy(headers.clone()));
        assert_eq!(evidence.letter(), format!("orders/7/{}", 1_i64 << 40));
        assert_eq!((evidence.cause.as_str(), evidence.attempts), ("OutOfStock", 4));
        assert_eq!((evidence.group.as_str(), evidence.scope.as_str()), ("billing", "orders"));
        assert_eq!((evidence.message.as_str(), evidence.timestamp), ("no stock", Some(5)));
        assert_eq!(evidence.deadline, Timestamp::from_second(61).unwrap());
    }

    #[test]
    fn connect_writes_texts() {
        let headers = vec![
            header("__connect.errors.topic", b"orders"),
            header("__connect.errors.partition", b"2"),
            header("__connect.errors.offset", b"17"),
            header("__connect.errors.connector.name", b"warehouse"),
            header("__connect.errors.stage", b"VALUE_CONVERTER"),
            header("__connect.errors.exception.class.name", b"org.apache.kafka.connect.errors.DataException"),
            header("id", b"01900000-0000-7000-8000-000000000001"),
        ];
        let evidence = read(&headers).unwrap().adopt(&adoption(), &copy(headers.clone()));
        assert_eq!((evidence.topic.as_str(), evidence.partition, evidence.offset), ("orders", 2, 17));
        assert_eq!(evidence.letter(), "01900000-0000-7000-8000-000000000001");
        assert_eq!(evidence.cause, "DataException");
        assert_eq!(evidence.handler.as_deref(), Some("warehouse VALUE_CONVERTER"));
    }

    #[test]
    fn without_a_source_the_copy_is_its_own() {
        let headers = vec![
            header("kafka_dlt-original-topic", b"orders"),
            header("kafka_dlt-original-partition", b"7"),
            header("kafka_dlt-original-offset", &(-1_i64).to_be_bytes()),
        ];
        let evidence = read(&headers).unwrap().adopt(&adoption(), &copy(headers.clone()));
        assert_eq!(evidence.letter(), "o-dlt/1/9");
        assert_eq!(evidence.cause, "spring-kafka");
        assert_eq!(read(&[header("id", b"x")]), None);
    }
}
