//! Files that are whole or not there: configuration, keys, certificates.
//!
//! A file written and not synced is empty after a power cut; a server that finds its configuration empty does not
//! start, and one that makes its signing key anew no longer matches the published record.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// Writes `bytes` to `path` with `mode` permissions: under another name first, synced, then renamed, then the folder
/// synced. Missing folders are made.
pub fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    make_folder(folder)?;
    let mut draft = path.as_os_str().to_owned();
    draft.push(".new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&draft)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&draft, path)?;
    File::open(folder)?.sync_all()
}

/// Makes a folder and its parents, each of them durable in its own parent.
fn make_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let parent = folder.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    make_folder(parent)?;
    match DirBuilder::new().mode(0o755).create(folder) {
        Ok(()) => File::open(parent)?.sync_all(),
        // Somebody else made it meanwhile.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_appears_whole_with_its_folders_and_rights() {
        let base = std::env::temp_dir().join(format!("ringpost-durable-{}", std::process::id()));
        let path = base.join("a/b/key.pem");
        write(&path, b"one", 0o600).unwrap();
        write(&path, b"two", 0o600).unwrap();
        let (text, mode) = (std::fs::read(&path).unwrap(), path.metadata().unwrap().permissions().mode());
        let names = std::fs::read_dir(base.join("a/b")).unwrap().count();
        std::fs::remove_dir_all(&base).unwrap();
        assert_eq!((text.as_slice(), mode & 0o777, names), (&b"two"[..], 0o600, 1));
    }
}
