//! The bootable disk: GPT with an EFI system partition, a read-only root and the data partition.
//!
//! | partition | content |
//! | --- | --- |
//! | `ESP` | systemd-boot and one unified kernel image in `EFI/Linux` |
//! | `root-a` | squashfs: process 1, programs, configuration |
//! | `data` | ext4, empty |
//!
//! Equal inputs give equal bytes: identifiers come from the content's SHA-256, every time is the given one. The
//! file is sparse. Never touches a real disk: the output is always a plain file.

use crate::compose::{content, early, static_program, Spec, MOUNT_POINTS};
use crate::kernel::Kernel;
use crate::{tools, uki};
use anyhow::{bail, Context, Result};
use gpt::disk::LogicalBlockSize;
use gpt::mbr::ProtectiveMBR;
use gpt::partition::Partition;
use gpt::{partition_types, GptConfig};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use uuid::Uuid;

const SECTOR: u64 = 512;
const MIB: u64 = 1 << 20;

/// Sizes and boot files of a disk.
#[derive(Debug, Clone)]
pub struct DiskSpec {
    /// The EFI system partition, in MiB; FAT32 wants at least 34.
    pub esp_mib: u64,
    /// The root partition, in MiB; room for later, larger versions.
    pub root_mib: u64,
    /// The data partition, in MiB.
    pub data_mib: u64,
    /// What the kernel is told beside `root=` and `ringpost.data=`.
    pub cmdline: String,
    /// Folder of `linuxx64.efi.stub` and `systemd-bootx64.efi`.
    pub boot_files: PathBuf,
    /// The kernel is the boot file itself: an EFI stub with its command line and every driver of the root built in,
    /// so that it needs neither loader nor initramfs. `cmdline` is not used.
    pub bare_kernel: bool,
}

impl Default for DiskSpec {
    fn default() -> DiskSpec {
        DiskSpec {
            esp_mib: 64,
            root_mib: 128,
            data_mib: 1024,
            cmdline: "console=tty0 console=ttyS0,115200 quiet panic=10".into(),
            boot_files: "/usr/lib/systemd/boot/efi".into(),
            bare_kernel: false,
        }
    }
}

/// What was made.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Report {
    /// The kernel's release.
    pub kernel: String,
    /// Bytes of the disk.
    pub size: u64,
    /// Bytes of the unified kernel image.
    pub uki: u64,
    /// Bytes of the root file system.
    pub root: u64,
    /// The disk's identifier, which names its content.
    pub guid: String,
}

/// Compose the disk at `out`; a folder beside it is used for the parts and removed.
pub fn compose(spec: &Spec, disk: &DiskSpec, out: &Path) -> Result<Report> {
    let parts = out.with_extension("parts");
    fs::create_dir_all(&parts).with_context(|| format!("make {}", parts.display()))?;
    let parts = fs::canonicalize(parts)?;
    let done = compose_in(spec, disk, out, &parts);
    fs::remove_dir_all(&parts).ok();
    done
}

fn compose_in(spec: &Spec, disk: &DiskSpec, out: &Path, parts: &Path) -> Result<Report> {
    let kernel = Kernel::find(&spec.kernel)?;
    let root = root_filesystem(spec, parts)?;
    let image = unified_image(spec, disk, &kernel)?;
    let mut hash = Sha256::new();
    hash.update(&image);
    hash.update(fs::read(&root)?);
    let seed: [u8; 32] = hash.finalize().into();
    let esp = system_partition(spec, disk, &image, seed, parts)?;
    let data = data_filesystem(spec, disk, seed, parts)?;
    let root_size = fs::metadata(&root)?.len();
    if root_size > disk.root_mib * MIB {
        bail!("the root is {root_size} bytes, its partition {} MiB: give --root-mib", disk.root_mib);
    }
    let layout = [
        Part { name: "ESP", kind: partition_types::EFI, size: disk.esp_mib * MIB, file: esp },
        Part { name: "root-a", kind: partition_types::LINUX_FS, size: disk.root_mib * MIB, file: root },
        Part { name: "data", kind: partition_types::LINUX_FS, size: disk.data_mib * MIB, file: data },
    ];
    let size = write_disk(&layout, seed, out)?;
    Ok(Report {
        kernel: kernel.release,
        size,
        uki: image.len() as u64,
        root: root_size,
        guid: identifier(seed, "disk").to_string(),
    })
}

struct Part {
    name: &'static str,
    kind: partition_types::Type,
    size: u64,
    file: PathBuf,
}

/// An identifier for `what`, fixed by the content; formed as a version 8 UUID (RFC 9562, section 5.8).
fn identifier(seed: [u8; 32], what: &str) -> Uuid {
    let mut hash = Sha256::new();
    hash.update(seed);
    hash.update(what);
    let bytes: [u8; 32] = hash.finalize().into();
    let mut id = [0; 16];
    id.copy_from_slice(&bytes[..16]);
    id[6] = (id[6] & 0x0f) | 0x80;
    id[8] = (id[8] & 0x3f) | 0x80;
    Uuid::from_bytes(id)
}

fn root_filesystem(spec: &Spec, parts: &Path) -> Result<PathBuf> {
    let stage = parts.join("root");
    for folder in MOUNT_POINTS.iter().chain(&["dev/shm", "sbin", "etc/ringpost"]) {
        fs::create_dir_all(stage.join(folder))?;
    }
    let put = |path: &str, mode: u32, data: &[u8]| -> Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let place = stage.join(path);
        if let Some(folder) = place.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(&place, data).with_context(|| format!("write {}", place.display()))?;
        fs::set_permissions(&place, fs::Permissions::from_mode(mode))?;
        Ok(())
    };
    put("sbin/init", 0o755, &static_program(&spec.init)?)?;
    for entry in content(spec)? {
        put(&entry.path, entry.mode, &entry.data)?;
    }
    let out = parts.join("root.squashfs");
    // Both times come from SOURCE_DATE_EPOCH; one thread writes the blocks in one order.
    let arguments = ["root", "root.squashfs", "-noappend", "-all-root", "-no-xattrs", "-quiet", "-no-progress"];
    let arguments = [&arguments[..], &["-comp", "zstd", "-Xcompression-level", "9", "-processors", "1"]].concat();
    tools::run("mksquashfs", &arguments, parts, spec.time)?;
    Ok(out)
}

fn unified_image(spec: &Spec, disk: &DiskSpec, kernel: &Kernel) -> Result<Vec<u8>> {
    let linux = fs::read(&kernel.image).with_context(|| format!("read {}", kernel.image.display()))?;
    if disk.bare_kernel {
        return Ok(linux);
    }
    let stub = read_boot_file(disk, "linuxx64.efi.stub")?;
    let initramfs = early(spec, kernel)?.finish();
    let version = env!("CARGO_PKG_VERSION");
    let release = format!("ID=ringpost\nNAME=Ringpost\nPRETTY_NAME=\"Ringpost {version}\"\nVERSION_ID={version}\n");
    let cmdline = format!("root=PARTLABEL=root-a ringpost.data=PARTLABEL=data {}", disk.cmdline);
    let sections: [(&str, &[u8]); 5] = [
        (".osrel", release.as_bytes()),
        (".uname", kernel.release.as_bytes()),
        (".cmdline", cmdline.as_bytes()),
        (".initrd", &initramfs),
        (".linux", &linux),
    ];
    Ok(uki::assemble(&stub, &sections)?)
}

fn read_boot_file(disk: &DiskSpec, name: &str) -> Result<Vec<u8>> {
    let path = disk.boot_files.join(name);
    fs::read(&path).with_context(|| format!("read {}; it is in the package systemd-boot-efi", path.display()))
}

fn system_partition(spec: &Spec, disk: &DiskSpec, image: &[u8], seed: [u8; 32], parts: &Path) -> Result<PathBuf> {
    let place = |name: &str, data: &[u8]| -> Result<()> {
        let path = parts.join(name);
        fs::write(&path, data).with_context(|| format!("write {}", path.display()))?;
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(u64::from(spec.time));
        File::options().write(true).open(&path)?.set_modified(time)?;
        Ok(())
    };
    let mut files = vec![("ringpost-a.efi", "::/EFI/BOOT/BOOTX64.EFI")];
    place("ringpost-a.efi", image)?;
    if !disk.bare_kernel {
        place("bootx64.efi", &read_boot_file(disk, "systemd-bootx64.efi")?)?;
        place("loader.conf", b"timeout 0\ndefault ringpost-a.efi\neditor no\n")?;
        files = vec![
            ("bootx64.efi", "::/EFI/BOOT/BOOTX64.EFI"),
            ("ringpost-a.efi", "::/EFI/Linux/ringpost-a.efi"),
            ("loader.conf", "::/loader/loader.conf"),
        ];
    }
    let esp = parts.join("esp.vfat");
    File::create(&esp)?.set_len(disk.esp_mib * MIB)?;
    let volume: String = identifier(seed, "esp").simple().to_string().chars().take(8).collect();
    let format = ["-F", "32", "--invariant", "-n", "ESP", "-i", volume.as_str(), "esp.vfat"];
    tools::run("mkfs.vfat", &format, parts, spec.time)?;
    let folders = ["::/EFI", "::/EFI/BOOT", "::/EFI/Linux", "::/loader"];
    tools::run("mmd", &[&["-i", "esp.vfat"][..], &folders].concat(), parts, spec.time)?;
    for (from, to) in files {
        tools::run("mcopy", &["-m", "-i", "esp.vfat", from, to], parts, spec.time)?;
    }
    Ok(esp)
}

/// An empty ext4 of `mib` MiB at `path`; `id` fixes its identifier and hash seed.
pub fn make_ext4(path: &Path, mib: u64, id: [u8; 16], time: u32) -> Result<()> {
    File::create(path)?.set_len(mib * MIB).with_context(|| format!("make {}", path.display()))?;
    let id = Uuid::from_bytes(id).to_string();
    let extended = format!("hash_seed={id},lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0");
    let (name, folder) = (path.file_name().unwrap_or_default(), path.parent().unwrap_or(Path::new(".")));
    let name = name.to_string_lossy();
    let arguments = ["-q", "-F", "-t", "ext4", "-L", "data", "-U", &id, "-E", &extended, "-m", "0", &name];
    tools::run("mke2fs", &arguments, folder, time)?;
    Ok(())
}

fn data_filesystem(spec: &Spec, disk: &DiskSpec, seed: [u8; 32], parts: &Path) -> Result<PathBuf> {
    let path = parts.join("data.ext4");
    make_ext4(&path, disk.data_mib, identifier(seed, "data filesystem").into_bytes(), spec.time)?;
    Ok(path)
}

/// Partition table and partitions; returns the disk's size.
fn write_disk(layout: &[Part], seed: [u8; 32], out: &Path) -> Result<u64> {
    let mut first = MIB;
    let mut table = BTreeMap::new();
    for (number, part) in layout.iter().enumerate() {
        let entry = Partition {
            part_type_guid: part.kind.clone(),
            part_guid: identifier(seed, part.name),
            first_lba: first / SECTOR,
            last_lba: (first + part.size) / SECTOR - 1,
            flags: 0,
            name: part.name.to_string(),
        };
        table.insert(number as u32 + 1, entry);
        first += part.size;
    }
    let size = first + MIB;
    let name = || format!("write {}", out.display());
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(true).open(out).with_context(name)?;
    file.set_len(size).with_context(name)?;
    let sectors = u32::try_from(size / SECTOR - 1).unwrap_or(u32::MAX);
    ProtectiveMBR::with_lb_size(sectors).overwrite_lba0(&mut file).with_context(name)?;
    let config = GptConfig::new().writable(true).logical_block_size(LogicalBlockSize::Lb512);
    let mut gpt = config.create_from_device(file, Some(identifier(seed, "disk"))).with_context(name)?;
    let places: Vec<u64> = table.values().map(|p| p.first_lba * SECTOR).collect();
    gpt.update_partitions(table).with_context(name)?;
    let mut file = gpt.write().with_context(name)?;
    for (part, place) in layout.iter().zip(places) {
        copy_sparse(&part.file, &mut file, place).with_context(|| format!("copy {}", part.name))?;
    }
    file.sync_all().with_context(name)?;
    Ok(size)
}

/// Copy what is not zero; the rest of the output is a hole already.
fn copy_sparse(from: &Path, to: &mut File, place: u64) -> Result<()> {
    let mut source = File::open(from)?;
    let mut block = vec![0; MIB as usize / 16];
    let mut at = place;
    loop {
        let read = source.read(&mut block)?;
        let Some(data) = block.get(..read).filter(|d| !d.is_empty()) else { return Ok(()) };
        if data.iter().any(|b| *b != 0) {
            to.seek(SeekFrom::Start(at))?;
            to.write_all(data)?;
        }
        at += read as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_follow_the_content() {
        assert_eq!(identifier([1; 32], "a"), identifier([1; 32], "a"));
        assert_ne!(identifier([1; 32], "a"), identifier([1; 32], "b"));
        assert_ne!(identifier([1; 32], "a"), identifier([2; 32], "a"));
        assert_eq!(identifier([1; 32], "a").get_version_num(), 8);
    }

    #[test]
    fn the_table_is_read_back_as_it_was_laid_out() {
        let folder = std::env::temp_dir().join(format!("sysimage-disk-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let file = folder.join("part");
        fs::write(&file, b"content").unwrap();
        let part = |name, size| Part { name, kind: partition_types::LINUX_FS, size, file: file.clone() };
        let out = folder.join("disk");
        let size = write_disk(&[part("one", MIB), part("two", 2 * MIB)], [3; 32], &out).unwrap();
        let read = GptConfig::new().open(&out).unwrap();
        let bytes = fs::read(&out).unwrap();
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!((size, bytes.len() as u64), (5 * MIB, 5 * MIB));
        let names: Vec<_> = read.partitions().values().map(|p| (p.name.clone(), p.first_lba)).collect();
        assert_eq!(names, [("one".to_string(), 2048), ("two".to_string(), 4096)]);
        assert_eq!(&bytes[MIB as usize..MIB as usize + 7], b"content");
        assert_eq!(bytes[510..512], [0x55, 0xaa]);
    }
}
