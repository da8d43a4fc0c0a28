import com.sun.management.OperatingSystemMXBean;
import java.io.IOException;
import java.lang.management.ManagementFactory;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.concurrent.atomic.AtomicLong;

/** Counts what was handled, and tells it on standard output, a line of JSON each time. */
final class Tally {
    private final AtomicLong handled = new AtomicLong();
    private final long warmUp;
    private final long every;
    private volatile long first;

    Tally(Job job) {
        warmUp = job.warmUp;
        every = Math.max(1, job.every);
    }

    /** One more, once its effect is committed. */
    void count() {
        long number = handled.incrementAndGet();
        if (number == 1) {
            first = System.nanoTime();
        }
        if (number >= warmUp && (number - warmUp) % every == 0) {
            tell(number);
        }
    }

    private synchronized void tell(long number) {
        double seconds = (System.nanoTime() - first) / 1e9;
        long processor = ((OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean()).getProcessCpuTime();
        System.out.println("{\"handled\":" + number + ",\"seconds\":" + seconds + ",\"cpu_nanos\":" + processor
                + ",\"peak_rss_kib\":" + peak() + "}");
        System.out.flush();
    }

    /** The most memory that the process has held, in KiB, as the kernel says. */
    private static long peak() {
        try {
            for (String line : Files.readAllLines(Path.of("/proc/self/status"))) {
                if (line.startsWith("VmHWM:")) {
                    return Long.parseLong(line.replaceAll("\\D", ""));
                }
            }
        } catch (IOException error) {
            // Not Linux: not known.
        }
        return 0;
    }

    /** Returns when standard input ends, which it does when whoever asked does. */
    static void untilTold() throws IOException {
        while (System.in.read() >= 0) {
            // Nothing is said but the end.
        }
    }
}
