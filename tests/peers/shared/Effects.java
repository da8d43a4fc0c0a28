import com.zaxxer.hikari.HikariConfig;
import com.zaxxer.hikari.HikariDataSource;
import java.nio.charset.StandardCharsets;
import java.sql.Connection;
import java.sql.PreparedStatement;
import java.sql.SQLException;
import java.util.List;
import java.util.UUID;
import org.apache.kafka.clients.consumer.ConsumerRecord;

/**
 * The handlers. The effect is an update of the row of the event's key, or a row with its number; that it happens once is what a table of the ids that were
 * handled is for, written in the same transaction (the usual way with both libraries, which bring none of their own).
 */
final class Effects {
    private static final String CLAIM = "INSERT INTO processed (consumer, id) VALUES (?, ?) ON CONFLICT DO NOTHING";
    private static final String UPDATE = "UPDATE stock SET free = free - 1 WHERE sku = ?";
    private static final String INSERT = "INSERT INTO effect (number) VALUES (?)";
    /** Claim and effect in one statement, so in one round trip with its commit. */
    private static final String CLAIM_UPDATE = "WITH fresh AS (" + CLAIM + " RETURNING 1) " + UPDATE
            + " AND EXISTS (SELECT FROM fresh)";
    private static final String CLAIM_INSERT = "WITH fresh AS (" + CLAIM + " RETURNING 1)"
            + " INSERT INTO effect (number) SELECT ? FROM fresh";
    /** As many events as there are in the arrays; two of one key count twice. */
    private static final String ALL = "WITH event AS (SELECT * FROM unnest(?::uuid[], ?::text[]) event (id, sku)),"
            + " fresh AS (INSERT INTO processed (consumer, id) SELECT ?, id FROM event ON CONFLICT DO NOTHING RETURNING id),"
            + " due AS (SELECT sku, count(*) n FROM event JOIN fresh USING (id) GROUP BY sku ORDER BY sku)"
            + " UPDATE stock SET free = free - due.n FROM due WHERE stock.sku = due.sku";

    private final Job job;
    private final HikariDataSource pool;

    Effects(Job job) {
        this.job = job;
        if (job.work != Job.Work.NOTHING && job.work != Job.Work.SLEEP) {
            HikariConfig config = new HikariConfig();
            config.setJdbcUrl(job.database);
            // HikariCP's default is 10; tuned, as many as the other side of the comparison has.
            if (job.tuned) {
                config.setMaximumPoolSize(16);
            }
            // Fewer round trips: the driver sends BEGIN with the first statement, and there is no other in one statement.
            config.setAutoCommit(job.tuned);
            pool = new HikariDataSource(config);
        } else {
            pool = null;
        }
    }

    /** Handles one event. */
    void handle(ConsumerRecord<String, byte[]> event) throws Exception {
        switch (job.work) {
            case NOTHING -> { }
            case SLEEP -> Thread.sleep(1);
            case ONE, INSERT -> {
                if (job.tuned) {
                    inOneRoundTrip(event);
                } else {
                    inThree(event);
                }
            }
            case SHARED -> handle(List.of(event));
        }
    }

    /** Handles some events in one transaction. */
    void handle(List<ConsumerRecord<String, byte[]>> events) throws SQLException {
        Object[] ids = events.stream().map(Effects::id).toArray();
        Object[] keys = events.stream().map(ConsumerRecord::key).toArray();
        try (Connection connection = pool.getConnection(); PreparedStatement all = connection.prepareStatement(ALL)) {
            all.setArray(1, connection.createArrayOf("uuid", ids));
            all.setArray(2, connection.createArrayOf("text", keys));
            all.setString(3, job.group);
            all.executeUpdate();
        }
    }

    private void inThree(ConsumerRecord<String, byte[]> event) throws SQLException {
        try (Connection connection = pool.getConnection()) {
            try (PreparedStatement claim = connection.prepareStatement(CLAIM);
                    PreparedStatement effect = connection.prepareStatement(inserts() ? INSERT : UPDATE)) {
                claim.setString(1, job.group);
                claim.setObject(2, id(event));
                if (claim.executeUpdate() == 1) {
                    bind(effect, 1, event);
                    effect.executeUpdate();
                }
                connection.commit();
            } catch (SQLException error) {
                connection.rollback();
                throw error;
            }
        }
    }

    private void inOneRoundTrip(ConsumerRecord<String, byte[]> event) throws SQLException {
        String statement = inserts() ? CLAIM_INSERT : CLAIM_UPDATE;
        try (Connection connection = pool.getConnection(); PreparedStatement both = connection.prepareStatement(statement)) {
            both.setString(1, job.group);
            both.setObject(2, id(event));
            bind(both, 3, event);
            both.executeUpdate();
        }
    }

    private boolean inserts() {
        return job.work == Job.Work.INSERT;
    }

    /** What the effect is of: the event's number, or its key. */
    private void bind(PreparedStatement statement, int place, ConsumerRecord<String, byte[]> event) throws SQLException {
        if (inserts()) {
            // {"number":17,"note":…
            String payload = new String(event.value(), StandardCharsets.UTF_8);
            statement.setLong(place, Long.parseLong(payload.substring(10, payload.indexOf(','))));
        } else {
            statement.setString(place, event.key());
        }
    }

    private static UUID id(ConsumerRecord<String, byte[]> event) {
        return UUID.fromString(new String(event.headers().lastHeader("id").value(), StandardCharsets.UTF_8));
    }

    void close() {
        if (pool != null) {
            pool.close();
        }
    }
}
