//! A store in memory whose power can be cut, for tests and the simulator. Names are durable at once, bytes when they
//! are synchronised; what was not may survive a cut in any choice of 512-byte sectors.

use std::collections::BTreeMap;
use std::io;

use super::store::LogStore;

const SECTOR: usize = 512;

#[derive(Clone, Debug, Default)]
struct MemoryFile {
    durable: Vec<u8>,
    now: Vec<u8>,
}

/// A folder of files in memory.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    files: BTreeMap<String, MemoryFile>,
    /// Operations until every further one fails; `None` for never.
    pub fuse: Option<usize>,
    /// Changing operations carried out.
    pub operations: usize,
}

impl MemoryStore {
    /// The power goes and comes back: `keep` decides for every sector not synchronised whether it was written. The fuse
    /// is out.
    pub fn cut_power(&mut self, mut keep: impl FnMut() -> bool) {
        self.fuse = None;
        for file in self.files.values_mut() {
            for (durable, now) in file.durable.chunks_mut(SECTOR).zip(file.now.chunks(SECTOR)) {
                if durable != now && keep() {
                    durable.copy_from_slice(now);
                }
            }
            file.now = file.durable.clone();
        }
    }

    /// Changes bytes behind everybody's back.
    pub fn damage(&mut self, name: &str, change: impl FnOnce(&mut [u8])) {
        if let Some(file) = self.files.get_mut(name) {
            change(&mut file.now);
            file.durable = file.now.clone();
        }
    }

    fn burn(&mut self) -> io::Result<()> {
        match &mut self.fuse {
            Some(0) => return Err(io::Error::other("the simulated disk fails")),
            Some(left) => *left -= 1,
            None => {}
        }
        self.operations += 1;
        Ok(())
    }

    fn file(&mut self, name: &str) -> io::Result<&mut MemoryFile> {
        self.files.get_mut(name).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl LogStore for MemoryStore {
    fn list(&mut self) -> io::Result<Vec<String>> {
        Ok(self.files.keys().cloned().collect())
    }

    fn read(&mut self, name: &str) -> io::Result<Vec<u8>> {
        Ok(self.file(name)?.now.clone())
    }

    fn create(&mut self, name: &str, len: u64) -> io::Result<()> {
        self.burn()?;
        let zeros = vec![0; len as usize];
        self.files.insert(name.to_owned(), MemoryFile { durable: zeros.clone(), now: zeros });
        Ok(())
    }

    fn write(&mut self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.burn()?;
        let at = offset as usize;
        let room = self.file(name)?.now.get_mut(at..at + bytes.len());
        room.ok_or(io::ErrorKind::InvalidInput)?.copy_from_slice(bytes);
        Ok(())
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        self.burn()?;
        let file = self.file(name)?;
        file.durable = file.now.clone();
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.burn()?;
        let file = self.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        self.files.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.burn()?;
        self.files.remove(name).map(|_| ()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}
