//! A small file system for the table of effects, which can be filled.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::cluster::ground;
use crate::fault::process::User;

/// The file that takes all that is left.
const FILLER: &str = "filler";

/// A mounted tmpfs, unmounted when it is dropped; or why there is none.
#[derive(Debug)]
pub struct Disk {
    directory: PathBuf,
    mib: u64,
    refused: Option<String>,
}

impl Disk {
    /// Mounts one that holds the effects of a run of this length, and little more, since what is left is filled. Where that is not permitted the directory is an ordinary one, and [`Disk::fill`] says so.
    ///
    /// # Panics
    /// When the temporary directory cannot be written to.
    pub fn mount(run: Duration) -> Disk {
        let directory = ground::directory("disk");
        let mib = 64 + 12 * run.as_secs().div_ceil(60);
        let size = format!("size={mib}m");
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&directory).output();
        let refused = match mount {
            Ok(output) if output.status.success() => None,
            Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
            Err(error) => Some(error.to_string()),
        };
        let disk = Disk { directory, mib, refused };
        fs::create_dir(disk.tablespace()).expect("our own directory");
        if let Some(User { uid, gid }) = ground::server_user() {
            std::os::unix::fs::chown(disk.tablespace(), Some(uid), Some(gid))
                .expect("root may give a directory away");
        }
        disk
    }

    /// Its size in MiB.
    pub fn mib(&self) -> u64 {
        self.mib
    }

    /// Where PostgreSQL may write.
    pub fn tablespace(&self) -> PathBuf {
        self.directory.join("space")
    }

    /// Takes all that is left; returns how many bytes that were.
    ///
    /// # Errors
    /// A sentence, where there is no file system of its own to fill.
    pub fn fill(&self) -> Result<u64, String> {
        if let Some(refused) = &self.refused {
            return Err(format!(
                "a tmpfs cannot be mounted here: {refused}; run as root, with the right to mount"
            ));
        }
        let mut filler = File::create(self.filler()).map_err(|error| error.to_string())?;
        let (chunk, mut written) = (vec![0; 64 * 1024], 0);
        for length in [chunk.len(), 4096] {
            loop {
                match filler.write(&chunk[..length]) {
                    Ok(0) => break,
                    Ok(count) => written += count as u64,
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => return Err(error.to_string()),
                }
            }
        }
        Ok(written)
    }

    /// Gives back what was taken.
    pub fn empty(&self) {
        // Nothing is there to remove where nothing was filled.
        let _ = fs::remove_file(self.filler());
    }

    fn filler(&self) -> PathBuf {
        self.directory.join(FILLER)
    }

    /// Unmounts it. Whoever has files open there keeps them until he closes them.
    fn unmount(directory: &Path) {
        let done = Command::new("umount").arg("--lazy").arg(directory).status();
        if !done.is_ok_and(|status| status.success()) {
            eprintln!("chaos: {} is still mounted", directory.display());
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.refused.is_none() {
            Disk::unmount(&self.directory);
        }
        ground::remove(&self.directory);
    }
}
