import java.util.HashMap;
import java.util.Map;
import java.util.Properties;

/** What the program does, from its arguments {@code key=value} and the environment. */
final class Job {
    /** What is done with an event. */
    enum Work {
        /** Nothing. */
        NOTHING,
        /** A sleep of one millisecond. */
        SLEEP,
        /** A row of its key is updated, at most once per event, in a transaction of its own. */
        ONE,
        /** The same with as many events in a transaction as the consumer hands over at once. */
        SHARED,
        /** A row with the event's number is inserted, as {@link #ONE} updates one. */
        INSERT
    }

    final String topic;
    final String group;
    final Work work;
    /** Whether the settings are the tuned ones. */
    final boolean tuned;
    /** It tells when it has handled this many, and then every {@link #every} more. */
    final long warmUp;
    final long every;
    final String brokers;
    final String database;

    Job(String[] arguments) {
        Map<String, String> values = new HashMap<>();
        for (String argument : arguments) {
            String[] pair = argument.split("=", 2);
            values.put(pair[0], pair[1]);
        }
        topic = values.get("topic");
        group = values.get("group");
        work = Work.valueOf(values.get("work").toUpperCase());
        tuned = values.get("settings").equals("tuned");
        warmUp = Long.parseLong(values.get("warm_up"));
        every = Long.parseLong(values.get("every"));
        brokers = System.getenv("KAFKA_BROKERS");
        database = System.getenv("JDBC_URL");
    }

    /**
     * The Kafka client's settings. What fetches is left at its defaults, which are those of librdkafka, too: fetch.min.bytes
     * 1, fetch.max.wait.ms 500, 1 MiB per partition and 50 MiB per fetch.
     */
    Properties consumer() {
        Properties properties = new Properties();
        properties.put("bootstrap.servers", brokers);
        properties.put("group.id", group);
        properties.put("auto.offset.reset", "earliest");
        // At least once: both libraries commit what has been handled, and Parallel Consumer refuses to start otherwise.
        properties.put("enable.auto.commit", "false");
        properties.put("key.deserializer", "org.apache.kafka.common.serialization.StringDeserializer");
        properties.put("value.deserializer", "org.apache.kafka.common.serialization.ByteArrayDeserializer");
        if (tuned) {
            // 500 by default. Fewer, larger polls: https://kafka.apache.org/documentation/#consumerconfigs_max.poll.records
            properties.put("max.poll.records", "2000");
        }
        return properties;
    }
}
