//! A private Kafka of one broker or more (KRaft, combined roles), run from the jars of a release.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rustix::process::Signal;

use super::ground::{self, Port};
use crate::authority::Issued;
use crate::fault::process::{Launch, Process};
use crate::fault::proxy::Proxy;
use crate::parts;
use crate::wait::{eventually, eventually_async};

/// Who may log in on a listener that asks for it.
pub const USER: &str = "relay";

/// The user's password.
pub const SECRET: &str = "secret-of-the-user";

/// How long a broker may take to start or to answer before a test fails.
const PATIENCE: Duration = Duration::from_secs(90);

/// Limit of one question to a broker.
const QUESTION: Duration = Duration::from_secs(2);

/// Kafka's brokers and their data. Dropping it kills them and deletes the data.
#[derive(Debug)]
pub struct Kafka {
    nodes: Vec<Node>,
    directory: PathBuf,
}

/// What a Kafka is started with beyond the defaults.
#[derive(Debug, Clone)]
pub struct Builder {
    brokers: usize,
    proxied: bool,
    keystore: Option<String>,
    settings: Vec<(String, String)>,
    java: &'static [&'static str],
}

/// What Kafka's own scripts start a broker with (`bin/kafka-server-start.sh` and `bin/kafka-run-class.sh`).
pub const SHIPPED: &[&str] = &[
    "-Xmx1G",
    "-Xms1G",
    "-server",
    "-XX:+UseG1GC",
    "-XX:MaxGCPauseMillis=20",
    "-XX:InitiatingHeapOccupancyPercent=35",
    "-XX:+ExplicitGCInvokesConcurrent",
];

impl Builder {
    /// Starts brokers with the heap and the collector that Kafka's own scripts give them, for measurements.
    pub fn as_shipped(mut self) -> Builder {
        self.java = SHIPPED;
        self
    }

    /// Number of brokers. With three, topics have three replicas and two must be in sync.
    pub fn brokers(mut self, count: usize) -> Builder {
        self.brokers = count;
        self
    }

    /// Puts a [`Proxy`] before every broker: clients are told the proxies' addresses only.
    pub fn proxied(mut self) -> Builder {
        self.proxied = true;
        self
    }

    /// Adds a listener with TLS and one with TLS and a login, as [`USER`] by PLAIN, SCRAM-SHA-256 or OAUTHBEARER
    /// with unsecured tokens. Brokers call themselves `localhost` there.
    pub fn tls(mut self, server: &Issued) -> Builder {
        self.keystore = Some(format!("{}{}", server.key, server.certificate));
        self
    }

    /// Adds a line to the brokers' properties.
    pub fn setting(mut self, name: &str, value: &str) -> Builder {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Lets brokers ask for rights. Everybody is `User:ANONYMOUS` and may do what no rule speaks of.
    pub fn authorizer(self) -> Builder {
        self.setting("authorizer.class.name", "org.apache.kafka.metadata.authorizer.StandardAuthorizer")
            .setting("allow.everyone.if.no.acl.found", "true")
    }

    /// Lets brokers make a topic for a client that only asks for it, as they do by default in the field.
    pub fn auto_create_topics(self) -> Builder {
        self.setting("auto.create.topics.enable", "true")
    }

    /// Formats and starts the brokers.
    ///
    /// # Panics
    /// When the jars are not there or a broker does not start.
    pub fn start(self) -> Kafka {
        let directory = ground::directory("kafka");
        let nodes: Vec<Node> =
            (1..=self.brokers).map(|id| Node::claim(id, directory.join(id.to_string()), &self)).collect();
        let voters: Vec<String> =
            nodes.iter().map(|node| format!("{}@127.0.0.1:{}", node.id, node.controller.number())).collect();
        for node in &nodes {
            node.configure(&voters.join(","), &self);
        }
        let kafka = Kafka { nodes, directory };
        let formatting: Vec<Process> = kafka.nodes.iter().map(Node::format).collect();
        for process in formatting {
            assert!(process.wait(PATIENCE).success(), "formatting failed\n{}", process.log_tail());
        }
        kafka.start_again();
        kafka
    }
}

impl Kafka {
    /// Starts a single broker that makes no topic on its own.
    ///
    /// # Panics
    /// When the jars are not there or the broker does not start.
    pub fn start() -> Kafka {
        Kafka::builder().start()
    }

    /// A Kafka with further settings.
    pub fn builder() -> Builder {
        Builder { brokers: 1, proxied: false, keystore: None, settings: Vec::new(), java: &[] }
    }

    /// Bootstrap servers, `host:port,host:port`; the proxies' where there are any.
    pub fn brokers(&self) -> String {
        let addresses: Vec<String> =
            self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.advertised())).collect();
        addresses.join(",")
    }

    /// The listener that brokers use among themselves: no proxy stands before it. For those who watch.
    pub fn inside(&self) -> String {
        let addresses: Vec<String> =
            self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.internal.number())).collect();
        addresses.join(",")
    }

    /// How many brokers there are.
    pub fn count(&self) -> usize {
        self.nodes.len()
    }

    /// Runs one of Kafka's tools, `org.apache.kafka.tools` and this, behind the proxies.
    ///
    /// # Panics
    /// When it does not end within a minute and a half.
    pub fn tool(&self, class: &str, arguments: &[&str]) -> (ExitStatus, String) {
        let node = &self.nodes[0];
        let (brokers, class) = (self.inside(), format!("org.apache.kafka.tools.{class}"));
        let mut command = vec!["--bootstrap-server", brokers.as_str()];
        command.extend(arguments);
        let process = node.launch("tool", &["-XX:TieredStopAtLevel=1"], &class, &command);
        (process.wait(PATIENCE), process.log_tail())
    }

    /// The listener with TLS, by the name in the certificate.
    ///
    /// # Panics
    /// When Kafka was started without.
    pub fn tls_broker(&self) -> String {
        format!("localhost:{}", self.nodes[0].secured().0.number())
    }

    /// The listener with TLS and a login, by the name in the certificate.
    ///
    /// # Panics
    /// When Kafka was started without.
    pub fn login_broker(&self) -> String {
        format!("localhost:{}", self.nodes[0].secured().1.number())
    }

    /// One of the brokers, counted from 0.
    pub fn node(&self, index: usize) -> &Node {
        &self.nodes[index]
    }

    /// The proxy before the first broker.
    ///
    /// # Panics
    /// When Kafka was started without.
    pub fn proxy(&self) -> &Proxy {
        self.nodes[0].proxy()
    }

    /// SIGKILL to every broker.
    pub fn kill(&self) {
        self.nodes.iter().for_each(Node::kill);
    }

    /// SIGSTOP to every broker.
    pub fn pause(&self) {
        self.nodes.iter().for_each(Node::pause);
    }

    /// SIGCONT to every broker.
    pub fn resume(&self) {
        self.nodes.iter().for_each(Node::resume);
    }

    /// Starts every broker that does not run and waits until all of them answer.
    ///
    /// # Panics
    /// When one does not.
    pub fn start_again(&self) {
        for node in &self.nodes {
            if !node.is_running() {
                node.run();
            }
        }
        self.wait_ready();
    }

    /// SIGKILL to every broker and a new start on their data.
    pub fn restart(&self) {
        self.kill();
        self.start_again();
    }

    /// SIGKILL to one broker of several, counted from 0, and a new start on its data when the others have missed it.
    /// Returns when every partition has all its replicas in sync again, so that the next one may go.
    ///
    /// # Panics
    /// When that does not come.
    pub fn restart_one(&self, index: usize) {
        let client: BaseConsumer = config(&self.inside()).create().expect("a Kafka client");
        self.nodes[index].kill();
        // Until its session is over it counts as there, and its partitions have it for a leader.
        eventually(PATIENCE, "the others to miss it", || {
            let metadata = client.fetch_metadata(None, QUESTION).ok()?;
            (metadata.brokers().len() < self.nodes.len()).then_some(())
        });
        self.start_again();
        eventually(PATIENCE, "all replicas to be in sync", || {
            let metadata = client.fetch_metadata(None, QUESTION).ok()?;
            let mut partitions = metadata.topics().iter().flat_map(|topic| topic.partitions()).peekable();
            let there = partitions.peek().is_some();
            (there && partitions.all(|each| each.isr().len() == each.replicas().len())).then_some(())
        });
    }

    /// Waits until the brokers' metadata lists all of them. Asked behind the proxies, so that a proxy's
    /// fault does not count as a broker's.
    fn wait_ready(&self) {
        let direct: Vec<String> =
            self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.client.number())).collect();
        let client: BaseConsumer = config(&direct.join(",")).create().expect("a Kafka client");
        eventually(PATIENCE, "Kafka's brokers to answer", || {
            for node in &self.nodes {
                node.assert_alive();
            }
            let metadata = client.fetch_metadata(None, QUESTION).ok()?;
            (metadata.brokers().len() == self.nodes.len()).then_some(())
        });
    }

    /// Creates a topic and waits until every partition has a leader.
    ///
    /// # Panics
    /// When it exists or the broker refuses it.
    pub async fn create_topic(&self, name: &str, partitions: usize, settings: &[(&str, &str)]) {
        let admin: AdminClient<DefaultClientContext> =
            config(&self.brokers()).create().expect("a Kafka client");
        let replicas = i32::try_from(self.nodes.len().min(3)).expect("few brokers");
        let count = i32::try_from(partitions).expect("few partitions");
        let mut topic = NewTopic::new(name, count, TopicReplication::Fixed(replicas));
        for (key, value) in settings {
            topic = topic.set(key, value);
        }
        let options = AdminOptions::new().operation_timeout(Some(PATIENCE)).request_timeout(Some(PATIENCE));
        let made = admin.create_topics([&topic], &options).await.expect("Kafka answers");
        if let [Err((topic, code))] = made.as_slice() {
            panic!("topic {topic} was not created: {code}");
        }
        eventually_async(PATIENCE, "leaders of a new topic", async || {
            let metadata = admin.inner().fetch_metadata(Some(name), QUESTION).ok()?;
            let led = metadata.topics().first()?.partitions().iter().filter(|p| p.leader() > 0).count();
            (led == partitions).then_some(())
        })
        .await;
    }

    /// Changes access rules as `kafka-acls.sh` does, such as `["--add", "--deny-principal", "User:ANONYMOUS",
    /// "--operation", "Write", "--topic", "orders"]`. Needs brokers with an authorizer, [`Builder::authorizer`].
    ///
    /// # Panics
    /// When the command fails.
    pub fn acls(&self, arguments: &[&str]) {
        let brokers = self.brokers();
        let mut command = vec!["--bootstrap-server", brokers.as_str(), "--force"];
        command.extend(arguments);
        let node = &self.nodes[0];
        let process =
            node.launch("acls", &["-XX:TieredStopAtLevel=1"], "org.apache.kafka.tools.AclCommand", &command);
        let status = process.wait(PATIENCE);
        assert!(status.success(), "{arguments:?}: {status}\n{}", process.log_tail());
    }

    /// Names of all topics, internal ones included.
    ///
    /// # Panics
    /// When Kafka does not answer.
    pub fn topics(&self) -> Vec<String> {
        let client: BaseConsumer = config(&self.brokers()).create().expect("a Kafka client");
        let metadata = client.fetch_metadata(None, PATIENCE).expect("Kafka answers");
        metadata.topics().iter().map(|topic| topic.name().to_owned()).collect()
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        for node in &self.nodes {
            node.kill();
        }
        ground::remove(&self.directory);
    }
}

fn config(brokers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("socket.timeout.ms", "10000");
    // A broker that is killed on purpose is no news.
    config.set("log_level", "2").set("reconnect.backoff.max.ms", "500");
    config
}

/// One broker, which is a controller, too.
#[derive(Debug)]
pub struct Node {
    id: usize,
    directory: PathBuf,
    client: Port,
    internal: Port,
    controller: Port,
    /// With TLS, and with TLS and a login.
    secured: Option<(Port, Port)>,
    proxy: Option<Proxy>,
    java: &'static [&'static str],
    process: Mutex<Option<Process>>,
}

impl Node {
    fn claim(id: usize, directory: PathBuf, builder: &Builder) -> Node {
        fs::create_dir_all(&directory).expect("our own directory");
        let client = Port::claim();
        let proxy = builder.proxied.then(|| Proxy::start(client.number()));
        let (internal, controller) = (Port::claim(), Port::claim());
        let secured = builder.keystore.is_some().then(|| (Port::claim(), Port::claim()));
        let (java, process) = (builder.java, Mutex::new(None));
        Node { id, directory, client, internal, controller, secured, proxy, java, process }
    }

    fn secured(&self) -> &(Port, Port) {
        self.secured.as_ref().expect("Kafka::builder().tls(…)")
    }

    /// What the listeners with TLS need; the lines of the same names above are repeated with them.
    fn configure_tls(&self, keystore: &str, lines: &mut Vec<String>) {
        let file = self.directory.join("keystore.pem");
        fs::write(&file, keystore).expect("our own directory");
        let (tls, login) = self.secured();
        for line in lines.iter_mut() {
            if line.starts_with("listener.security.protocol.map=") {
                line.push_str(",TLS:SSL,LOGIN:SASL_SSL");
            } else if line.starts_with("listeners=") {
                let (tls, login) = (tls.number(), login.number());
                line.push_str(&format!(",TLS://127.0.0.1:{tls},LOGIN://127.0.0.1:{login}"));
            } else if line.starts_with("advertised.listeners=") {
                let (tls, login) = (tls.number(), login.number());
                line.push_str(&format!(",TLS://localhost:{tls},LOGIN://localhost:{login}"));
            }
        }
        let module = "org.apache.kafka.common.security";
        lines.extend([
            "ssl.keystore.type=PEM".into(),
            format!("ssl.keystore.location={}", file.display()),
            "sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,OAUTHBEARER".into(),
            format!(
                "listener.name.login.plain.sasl.jaas.config={module}.plain.PlainLoginModule required \
                 user_{USER}=\"{SECRET}\";"
            ),
            format!(
                "listener.name.login.scram-sha-256.sasl.jaas.config={module}.scram.ScramLoginModule required;"
            ),
            format!(
                "listener.name.login.oauthbearer.sasl.jaas.config={module}.oauthbearer.OAuthBearerLoginModule required \
                 unsecuredLoginStringClaim_sub=\"broker\";"
            ),
        ]);
    }

    /// The port that clients are told.
    fn advertised(&self) -> u16 {
        self.proxy.as_ref().map_or(self.client.number(), Proxy::port)
    }

    /// Brokers talk to each other, and a transaction coordinator to itself, on a listener of their own, so
    /// that a proxy before the clients' listener is no fault inside Kafka.
    fn configure(&self, voters: &str, builder: &Builder) {
        let (client, internal, controller) =
            (self.client.number(), self.internal.number(), self.controller.number());
        let replicas = builder.brokers.min(3).to_string();
        let in_sync = if builder.brokers >= 3 { "2" } else { "1" };
        let mut lines = vec![
            "process.roles=broker,controller".to_owned(),
            format!("node.id={}", self.id),
            format!("controller.quorum.voters={voters}"),
            "controller.listener.names=CONTROLLER".into(),
            "inter.broker.listener.name=INTERNAL".into(),
            "listener.security.protocol.map=CLIENT:PLAINTEXT,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT".into(),
            format!(
                "listeners=CLIENT://127.0.0.1:{client},INTERNAL://127.0.0.1:{internal},CONTROLLER://127.0.0.1:{controller}"
            ),
            format!(
                "advertised.listeners=CLIENT://127.0.0.1:{},INTERNAL://127.0.0.1:{internal}",
                self.advertised()
            ),
            format!("log.dirs={}", self.directory.join("data").display()),
            "auto.create.topics.enable=false".into(),
            "group.initial.rebalance.delay.ms=0".into(),
            "log.cleaner.dedupe.buffer.size=8388608".into(),
            "offsets.topic.num.partitions=4".into(),
            "transaction.state.log.num.partitions=4".into(),
            // A killed broker is let in again only when the session of its former life is over.
            "broker.session.timeout.ms=3000".into(),
            "broker.heartbeat.interval.ms=500".into(),
            format!("default.replication.factor={replicas}"),
            format!("offsets.topic.replication.factor={replicas}"),
            format!("transaction.state.log.replication.factor={replicas}"),
            format!("transaction.state.log.min.isr={in_sync}"),
            format!("min.insync.replicas={in_sync}"),
        ];
        if let Some(keystore) = &builder.keystore {
            self.configure_tls(keystore, &mut lines);
        }
        // The last line of a name counts.
        lines.extend(builder.settings.iter().map(|(name, value)| format!("{name}={value}")));
        fs::write(self.directory.join("broker.properties"), lines.join("\n")).expect("our own directory");
        fs::write(self.directory.join("log4j2.properties"), LOGGING).expect("our own directory");
    }

    fn launch(&self, name: &str, options: &[&str], class: &str, arguments: &[&str]) -> Process {
        let java = parts::java().unwrap_or_else(|error| panic!("{error}"));
        let libs = parts::kafka_libs().unwrap_or_else(|error| panic!("{error}"));
        let logging = self.directory.join("log4j2.properties");
        // The last of a name counts.
        let mut command = vec![java.display().to_string(), "-Xmx384m".into()];
        command.extend(options.iter().map(ToString::to_string));
        command.push("-cp".into());
        command.push(libs.join("*").display().to_string());
        command.push(format!("-Dlog4j2.configurationFile={}", logging.display()));
        command.push(class.into());
        command.extend(arguments.iter().map(ToString::to_string));
        Process::start(Launch {
            name: format!("{name} ({})", self.directory.display()),
            command,
            environment: Vec::new(),
            user: None,
            on_test_death: "KILL",
            log: self.directory.join(format!("{name}.log")),
        })
    }

    fn properties(&self) -> String {
        self.directory.join("broker.properties").display().to_string()
    }

    fn format(&self) -> Process {
        // Any 16 bytes in base64 name a cluster; the brokers of one have to agree.
        const CLUSTER: &str = "b3V0Ym94LXRlc3RzLWNsdQ";
        let (properties, user) =
            (self.properties(), format!("SCRAM-SHA-256=[name={USER},password={SECRET}]"));
        let mut arguments = vec!["format", "-t", CLUSTER, "-c", &properties];
        if self.secured.is_some() {
            arguments.extend(["--add-scram", &user]);
        }
        // A second of work is not worth optimizing code for.
        self.launch("format", &["-XX:TieredStopAtLevel=1"], "kafka.tools.StorageTool", &arguments)
    }

    fn run(&self) {
        *self.process.lock() = Some(self.launch("broker", self.java, "kafka.Kafka", &[&self.properties()]));
    }

    /// Whether the broker has been started and not been killed or stopped.
    pub fn is_running(&self) -> bool {
        self.process.lock().is_some()
    }

    /// Process id of the running broker.
    ///
    /// # Panics
    /// When it does not run.
    pub fn pid(&self) -> u32 {
        self.process.lock().as_ref().expect("the broker runs").pid()
    }

    /// Its directory: data, configuration, and `broker.log`.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    fn assert_alive(&self) {
        if let Some(process) = self.process.lock().as_ref() {
            assert!(process.ended().is_none(), "a broker ended by itself\n{}", process.log_tail());
        }
    }

    /// The proxy before this broker.
    ///
    /// # Panics
    /// When Kafka was started without.
    pub fn proxy(&self) -> &Proxy {
        self.proxy.as_ref().expect("Kafka::builder().proxied()")
    }

    /// SIGKILL; nothing if it does not run.
    pub fn kill(&self) {
        if let Some(process) = self.process.lock().take() {
            process.kill();
        }
    }

    /// A controlled shutdown (SIGTERM); nothing if it does not run.
    pub fn stop(&self) {
        if let Some(process) = self.process.lock().take() {
            process.signal(Signal::TERM);
            process.wait(PATIENCE);
        }
    }

    /// SIGSTOP: connections stay open and nothing answers.
    pub fn pause(&self) {
        if let Some(process) = self.process.lock().as_ref() {
            process.pause();
        }
    }

    /// SIGCONT.
    pub fn resume(&self) {
        if let Some(process) = self.process.lock().as_ref() {
            process.resume();
        }
    }
}

/// Warnings only, to standard output; and what a transaction's markers are not written for.
const LOGGING: &str = "\
logger.markers.name=kafka.coordinator.transaction.TransactionMarkerChannelManager
logger.markers.level=INFO
rootLogger.level=WARN
rootLogger.appenderRef.out.ref=OUT
appender.out.type=Console
appender.out.name=OUT
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=%d %p %c{1}: %m%n
";
