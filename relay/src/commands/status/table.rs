//! `/status` for people: an aligned table. A field that is missing is left out, so that another version of
//! the relay can be asked.

use serde_json::Value;

use crate::commands::output::{bytes, duration};

/// The page: of a relay with a list of lanes a table each.
pub fn page(status: &Value) -> String {
    let Some(lanes) = status["lanes"].as_array() else { return render(status) };
    let head = render(status);
    let of_lane = |lane: &Value| {
        // Who answers is said above.
        let mut lane = lane.clone();
        let name = lane["lane"].as_str().unwrap_or_default().to_owned();
        if let Some(fields) = lane.as_object_mut() {
            fields.remove("relay");
        }
        format!("\nlane {name}\n{}", render(&lane))
    };
    head + &lanes.iter().map(of_lane).collect::<String>()
}

/// The table, one line per fact.
fn render(status: &Value) -> String {
    let rows: Vec<(&str, String)> = [
        ("relay", relay(status)),
        ("phase", phase(status)),
        ("waiting for", text(status, "/waiting_for")),
        ("ready", ready(status)),
        ("epoch", text(status, "/epoch")),
        ("received", text(status, "/positions/received")),
        ("confirmed", text(status, "/positions/confirmed")),
        ("recorded", text(status, "/positions/recorded")),
        ("slot", slot(status)),
        ("server", text(status, "/positions/server_wal")),
        ("lag", lag(status)),
        ("in flight", volume(status, "/in_flight/records", "/in_flight/bytes", "")),
        ("rate", volume(status, "/rates/records_per_second", "/rates/bytes_per_second", "/s")),
        ("published", published(status)),
        ("clean-up", text(status, "/cleanup/result")),
        ("reconnects", text(status, "/totals/reconnects")),
        ("last error", last_error(status)),
    ]
    .into_iter()
    .filter_map(|(name, value)| value.map(|value| (name, value)))
    .collect();
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    rows.iter().map(|(name, value)| format!("{name:<width$}  {value}\n")).collect()
}

/// A field as plain text; `None` where it is missing or null.
fn text(status: &Value, pointer: &str) -> Option<String> {
    match status.pointer(pointer)? {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

fn number(status: &Value, pointer: &str) -> Option<f64> {
    status.pointer(pointer)?.as_f64()
}

fn relay(status: &Value) -> Option<String> {
    let mut line = text(status, "/relay/name")?;
    if let Some(version) = text(status, "/relay/version") {
        line += &format!(", version {version}");
    }
    if let Some(seconds) = number(status, "/relay/uptime_seconds") {
        line += &format!(", up {}", duration(seconds));
    }
    Some(line)
}

fn phase(status: &Value) -> Option<String> {
    let phase = text(status, "/phase")?;
    Some(match number(status, "/phase_seconds") {
        Some(seconds) => format!("{phase} for {}", duration(seconds)),
        None => phase,
    })
}

fn ready(status: &Value) -> Option<String> {
    let ready = status.pointer("/ready")?.as_bool()?;
    Some(match (ready, text(status, "/reason")) {
        (true, _) => "yes".into(),
        (false, Some(reason)) => format!("no: {reason}"),
        (false, None) => "no".into(),
    })
}

fn slot(status: &Value) -> Option<String> {
    let mut line = text(status, "/positions/slot_confirmed_flush")?;
    if let Some(wal_status) = text(status, "/slot/wal_status") {
        line += &format!(", {wal_status}");
    }
    if let Some(safe) = number(status, "/slot/safe_wal_bytes") {
        line += &format!(", {} more of log until it may be given up", bytes(safe.max(0.0)));
    }
    Some(line)
}

fn lag(status: &Value) -> Option<String> {
    let behind = number(status, "/lag/bytes").map(bytes);
    let seconds = number(status, "/lag/seconds").map(duration);
    let kept = number(status, "/lag/slot_bytes")
        .map(|kept| format!("the server keeps {} for the slot", bytes(kept)));
    let parts: Vec<String> = [behind, seconds, kept].into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

fn volume(status: &Value, records: &str, volume: &str, per: &str) -> Option<String> {
    let records = number(status, records)?;
    let volume = number(status, volume).map(|volume| format!(", {}{per}", bytes(volume))).unwrap_or_default();
    Some(format!("{records:.0} records{per}{volume}"))
}

fn published(status: &Value) -> Option<String> {
    let line = volume(status, "/totals/records", "/totals/bytes", "")?;
    Some(match text(status, "/totals/transactions") {
        Some(transactions) => format!("{line}, {transactions} transactions"),
        None => line,
    })
}

fn last_error(status: &Value) -> Option<String> {
    let message = text(status, "/last_error/message")?;
    Some(match text(status, "/last_error/at") {
        Some(at) => format!("{message} (at {at})"),
        None => message,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_full_answer_is_a_table() {
        let status = json!({
            "relay": {"name": "orders", "version": "0.1.0", "uptime_seconds": 3725},
            "phase": "streaming", "phase_seconds": 12, "waiting_for": null,
            "ready": false, "reason": "the recorded position stands still", "epoch": 1,
            "positions": {"received": "0/16B3748", "confirmed": "0/16B3748", "recorded": "0/16B3700",
                          "slot_confirmed_flush": "0/16B3700", "server_wal": "0/16B3800"},
            "lag": {"bytes": 256, "slot_bytes": 5_242_880, "seconds": 0.42},
            "slot": {"wal_status": "extended", "safe_wal_bytes": 1_073_741_824, "keep_limit_bytes": null},
            "cleanup": {"result": "nothing to remove"},
            "in_flight": {"records": 3, "bytes": 2048},
            "rates": {"records_per_second": 1200.4, "bytes_per_second": 1_500_000.0},
            "totals": {"records": 7, "bytes": 700, "transactions": 5, "reconnects": 1},
            "last_error": {"at": "2026-01-02T03:04:05Z", "message": "connection refused"}
        });
        let expected = "\
relay       orders, version 0.1.0, up 1 h 2 min
phase       streaming for 12 s
ready       no: the recorded position stands still
epoch       1
received    0/16B3748
confirmed   0/16B3748
recorded    0/16B3700
slot        0/16B3700, extended, 1.0 GiB more of log until it may be given up
server      0/16B3800
lag         256 B, 0.4 s, the server keeps 5.0 MiB for the slot
in flight   3 records, 2.0 KiB
rate        1200 records/s, 1.4 MiB/s
published   7 records, 700 B, 5 transactions
clean-up    nothing to remove
reconnects  1
last error  connection refused (at 2026-01-02T03:04:05Z)
";
        assert_eq!(render(&status), expected);
    }

    #[test]
    fn each_lane_has_its_table() {
        let status = json!({
            "relay": {"name": "shop"}, "ready": false, "reason": "lane billing: halted: no slot",
            "lanes": [
                {"lane": "0", "relay": {"name": "shop"}, "phase": "streaming", "ready": true},
                {"lane": "billing", "relay": {"name": "shop"}, "phase": "halted", "ready": false}
            ]
        });
        let expected = "\
relay  shop
ready  no: lane billing: halted: no slot

lane 0
phase  streaming
ready  yes

lane billing
phase  halted
ready  no
";
        assert_eq!(page(&status), expected);
    }

    #[test]
    fn what_is_missing_is_left_out() {
        assert_eq!(render(&json!({"phase": "halted", "ready": true})), "phase  halted\nready  yes\n");
        assert_eq!(render(&json!([])), "");
    }
}
