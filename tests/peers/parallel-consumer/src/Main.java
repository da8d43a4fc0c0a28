import io.confluent.parallelconsumer.ParallelConsumerOptions;
import io.confluent.parallelconsumer.ParallelConsumerOptions.ParallelConsumerOptionsBuilder;
import io.confluent.parallelconsumer.ParallelConsumerOptions.ProcessingOrder;
import io.confluent.parallelconsumer.ParallelStreamProcessor;
import io.confluent.parallelconsumer.RecordContext;
import java.util.List;
import org.apache.kafka.clients.consumer.KafkaConsumer;

/** Confluent Parallel Consumer, in parallel by key. */
final class Main {
    /** Events that are handed over at once, where they share a transaction or nothing is done with them; as many as our own groups have. */
    private static final int BATCH = 50;

    public static void main(String[] arguments) throws Exception {
        Job job = new Job(arguments);
        Tally tally = new Tally(job);
        Effects effects = new Effects(job);
        ParallelStreamProcessor<String, byte[]> processor = ParallelStreamProcessor.createEosStreamProcessor(options(job));
        processor.subscribe(List.of(job.topic));
        processor.poll(context -> {
            try {
                if (job.work == Job.Work.SHARED) {
                    effects.handle(context.streamConsumerRecords().toList());
                    context.forEach(event -> tally.count());
                } else {
                    for (RecordContext<String, byte[]> event : context) {
                        effects.handle(event.getConsumerRecord());
                        tally.count();
                    }
                }
            } catch (Exception error) {
                throw new IllegalStateException(error);
            }
        });
        Tally.untilTold();
        processor.closeDontDrainFirst();
        effects.close();
    }

    /**
     * Defaults: 16 threads, offsets committed asynchronously every 5 s, one event at a time. Order by key is the default, too; it
     * is named because it is what is compared.
     *
     * <p>Tuned, by the README of the project ("Batching", "Performance", "Thread count"): as many threads as the other side has
     * handlers, and batches where a handler gains by them.
     */
    private static ParallelConsumerOptions<String, byte[]> options(Job job) {
        ParallelConsumerOptionsBuilder<String, byte[]> options = ParallelConsumerOptions.<String, byte[]>builder()
                .consumer(new KafkaConsumer<>(job.consumer()))
                .ordering(ProcessingOrder.KEY);
        if (job.tuned) {
            switch (job.work) {
                case NOTHING -> options.maxConcurrency(256).batchSize(BATCH);
                case SLEEP -> options.maxConcurrency(256);
                case ONE, INSERT -> options.maxConcurrency(16);
                case SHARED -> options.maxConcurrency(16).batchSize(BATCH);
            }
        }
        return options.build();
    }
}
