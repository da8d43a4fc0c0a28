//! Amounts and durations for people.

/// Bytes in the unit that leaves few digits.
pub fn bytes(amount: i64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    // Digits beyond the 53 bits of a float are not shown.
    let mut amount = amount as f64;
    let mut unit = UNITS[0];
    for larger in &UNITS[1..] {
        if amount.abs() < 1024.0 {
            break;
        }
        amount /= 1024.0;
        unit = larger;
    }
    if unit == UNITS[0] { format!("{amount:.0} {unit}") } else { format!("{amount:.1} {unit}") }
}

/// Seconds in the unit that leaves few digits.
pub fn seconds(amount: f64) -> String {
    match amount {
        ..120.0 => format!("{amount:.0} s"),
        ..7200.0 => format!("{:.0} min", amount / 60.0),
        ..172_800.0 => format!("{:.0} h", amount / 3600.0),
        _ => format!("{:.0} days", amount / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_digits_are_left() {
        assert_eq!(
            [bytes(0), bytes(1023), bytes(1536), bytes(5 << 30)],
            ["0 B", "1023 B", "1.5 KiB", "5.0 GiB"]
        );
        let spans = [seconds(3.2), seconds(600.0), seconds(7200.0), seconds(604_800.0)];
        assert_eq!(spans, ["3 s", "10 min", "2 h", "7 days"]);
    }
}
