//! Turns with others on one machine, and progress for whoever waits.

use std::fs::File;
use std::path::Path;

/// Waits until nobody else who takes this lock works on this machine.
///
/// # Panics
/// When the file cannot be made or locked.
pub fn alone(lock: Option<&Path>) -> Option<File> {
    let path = lock?;
    let file = File::options().create(true).append(true).open(path);
    let file = file.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    file.lock().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    Some(file)
}

/// Progress, for whoever waits.
pub fn say(line: &str) {
    eprintln!("bench: {line}");
}

/// What a program was run as, without where it lies or whom it waited for.
pub fn command(program: &str) -> String {
    let mut words = vec![program.to_owned()];
    let mut rest = std::env::args().skip(1);
    while let Some(word) = rest.next() {
        if word == "--lock" {
            rest.next();
        } else if !word.starts_with("--lock=") {
            words.push(word);
        }
    }
    words.join(" ")
}
