import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.stream.Collectors;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.springframework.kafka.core.DefaultKafkaConsumerFactory;
import org.springframework.kafka.listener.BatchMessageListener;
import org.springframework.kafka.listener.ConcurrentMessageListenerContainer;
import org.springframework.kafka.listener.ContainerProperties;
import org.springframework.kafka.listener.MessageListener;

/** Spring for Apache Kafka, in order by partition: each consumer thread handles what it polls. */
final class Main {
    /** One thread for each of the topic's partitions, which is the most that can work. */
    private static final int PARTITIONS = 12;

    public static void main(String[] arguments) throws Exception {
        Job job = new Job(arguments);
        Tally tally = new Tally(job);
        Effects effects = new Effects(job);
        // Offsets are committed when all records of a poll are handled (AckMode.BATCH), as by default.
        ContainerProperties properties = new ContainerProperties(job.topic);
        properties.setMessageListener(job.work == Job.Work.SHARED ? batches(tally, effects) : single(tally, effects));
        ConcurrentMessageListenerContainer<String, byte[]> container = new ConcurrentMessageListenerContainer<>(
                new DefaultKafkaConsumerFactory<>(settings(job.consumer())), properties);
        if (job.tuned) {
            // 1 by default: https://docs.spring.io/spring-kafka/reference/kafka/receiving-messages/message-listener-container.html
            container.setConcurrency(PARTITIONS);
        }
        container.start();
        Tally.untilTold();
        container.stop();
        effects.close();
    }

    private static MessageListener<String, byte[]> single(Tally tally, Effects effects) {
        return event -> {
            try {
                effects.handle(event);
            } catch (Exception error) {
                throw new IllegalStateException(error);
            }
            tally.count();
        };
    }

    /** A batch listener gets all records of a poll; they share a transaction. */
    private static BatchMessageListener<String, byte[]> batches(Tally tally, Effects effects) {
        return (List<ConsumerRecord<String, byte[]>> events) -> {
            try {
                effects.handle(events);
            } catch (Exception error) {
                throw new IllegalStateException(error);
            }
            events.forEach(event -> tally.count());
        };
    }

    private static Map<String, Object> settings(Properties properties) {
        return properties.entrySet().stream()
                .collect(Collectors.toMap(entry -> (String) entry.getKey(), Map.Entry::getValue));
    }
}
