//! The seed that cloud-init reads on a guest's first boot: a FAT file system called `cidata` with the files
//! `meta-data` and `user-data`. Written here, so that no other program is needed.

use crate::QemuError;

/// The longest user data.
pub(crate) const LONGEST_USER_DATA: usize = 64 << 10;
const SECTOR: usize = 512;
const SECTORS: usize = 2048;
const FAT_SECTORS: usize = 6;
const ROOT_ENTRIES: usize = 32;
const ROOT_SECTORS: usize = ROOT_ENTRIES * 32 / SECTOR;
const FIRST_DATA: usize = 1 + 2 * FAT_SECTORS + ROOT_SECTORS;
const LAST: u16 = 0xfff;
/// 1980-01-01, the first date there is.
const DATE: u16 = 0x21;

/// What cloud-init is told.
pub(crate) struct Seed<'a> {
    pub(crate) id: &'a str,
    pub(crate) name: &'a str,
    pub(crate) ssh_key: Option<&'a str>,
    pub(crate) user_data: Option<&'a str>,
}

impl Seed<'_> {
    /// The image, of 1 MiB.
    pub(crate) fn image(&self) -> Result<Vec<u8>, QemuError> {
        let user_data = self.user_data.unwrap_or("#cloud-config\n{}\n");
        if user_data.len() > LONGEST_USER_DATA {
            let most = LONGEST_USER_DATA >> 10;
            return Err(QemuError::Invalid(format!("user data may be {most} KiB long")));
        }
        let mut meta = format!("instance-id: {}\nlocal-hostname: {}\n", self.id, host_name(self.name, self.id));
        if let Some(key) = self.ssh_key {
            // A text of JSON is one of YAML.
            meta.push_str(&format!("public-keys:\n  - {}\n", serde_json::Value::from(key)));
        }
        Ok(fat(&[("meta-data", b"META-D~1   ", meta.as_bytes()), ("user-data", b"USER-D~1   ", user_data.as_bytes())]))
    }
}

/// A name that a host may have, out of one that a person gave.
fn host_name(name: &str, id: &str) -> String {
    let plain: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).take(63).collect();
    let plain = plain.trim_matches('-');
    if plain.is_empty() { id.to_owned() } else { plain.to_owned() }
}

/// A FAT12 file system with these files in its root directory: long name, short name, content.
fn fat(files: &[(&str, &[u8; 11], &[u8])]) -> Vec<u8> {
    let mut disk = vec![0; SECTORS * SECTOR];
    let put16 = |disk: &mut [u8], at: usize, n: u16| disk[at..at + 2].copy_from_slice(&n.to_le_bytes());
    disk[..3].copy_from_slice(&[0xeb, 0x3c, 0x90]);
    disk[3..11].copy_from_slice(b"PORTOLAN");
    put16(&mut disk, 11, 512); // bytes in a sector
    disk[13] = 1; // sectors in a cluster
    put16(&mut disk, 14, 1); // reserved sectors
    disk[16] = 2; // tables
    put16(&mut disk, 17, 32); // entries in the root directory
    put16(&mut disk, 19, 2048); // sectors
    disk[21] = 0xf8; // a fixed disk
    put16(&mut disk, 22, 6); // sectors in a table
    put16(&mut disk, 24, 32); // sectors on a track
    put16(&mut disk, 26, 2); // heads
    disk[36] = 0x80;
    disk[38] = 0x29; // serial number, label and kind follow
    disk[39..43].copy_from_slice(&[0x14, 0x47, 0x00, 0x70]);
    disk[43..54].copy_from_slice(b"cidata     ");
    disk[54..62].copy_from_slice(b"FAT12   ");
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);

    let mut table = vec![0xff8_u16, LAST];
    let mut root = Vec::new();
    let mut label = [0; 32];
    label[..11].copy_from_slice(b"cidata     ");
    label[11] = 8;
    put16(&mut label, 24, DATE);
    root.extend(label);
    for (name, short, content) in files {
        let first = if content.is_empty() { 0 } else { table.len() };
        let clusters = content.len().div_ceil(SECTOR);
        for n in 0..clusters {
            let at = (FIRST_DATA + table.len() - 2) * SECTOR;
            let part = &content[n * SECTOR..content.len().min((n + 1) * SECTOR)];
            disk[at..at + part.len()].copy_from_slice(part);
            let next = u16::try_from(table.len() + 1).unwrap_or(LAST);
            table.push(if n + 1 == clusters { LAST } else { next });
        }
        root.extend(long_name(name, short));
        let mut entry = [0; 32];
        entry[..11].copy_from_slice(*short);
        entry[11] = 1; // read only
        put16(&mut entry, 16, DATE);
        put16(&mut entry, 24, DATE);
        put16(&mut entry, 26, u16::try_from(first).unwrap_or_default());
        entry[28..32].copy_from_slice(&u32::try_from(content.len()).unwrap_or_default().to_le_bytes());
        root.extend(entry);
    }
    let at = (1 + 2 * FAT_SECTORS) * SECTOR;
    disk[at..at + root.len()].copy_from_slice(&root);
    for copy in 0..2 {
        let begin = (1 + copy * FAT_SECTORS) * SECTOR;
        for (n, value) in table.iter().enumerate() {
            // Two entries of twelve bits share three bytes.
            let at = begin + n * 3 / 2;
            if n % 2 == 0 {
                disk[at] = value.to_le_bytes()[0];
                disk[at + 1] |= value.to_le_bytes()[1] & 0x0f;
            } else {
                disk[at] |= ((value & 0x0f) << 4).to_le_bytes()[0];
                disk[at + 1] = (value >> 4).to_le_bytes()[0];
            }
        }
    }
    disk
}

/// The entry that holds a long name of up to thirteen characters.
fn long_name(name: &str, short: &[u8; 11]) -> [u8; 32] {
    let mut entry = [0xff; 32];
    entry[0] = 0x41; // the first, and the last
    entry[11] = 0x0f;
    entry[12] = 0;
    entry[13] = short.iter().fold(0_u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte));
    entry[26..28].fill(0);
    let places = (1..11).step_by(2).chain((14..26).step_by(2)).chain((28..32).step_by(2));
    let letters = name.encode_utf16().chain([0]);
    for (at, letter) in places.zip(letters) {
        entry[at..at + 2].copy_from_slice(&letter.to_le_bytes());
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_programs_read_the_seed() {
        let user_data = format!("#cloud-config\n{}", "# a long line of text\n".repeat(2000));
        let seed =
            Seed {
                id: "i-1", name: "Größe, 1", ssh_key: Some("ssh-ed25519 AAAA \"me\""), user_data: Some(&user_data)
            };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("seed.img");
        std::fs::write(&path, seed.image().unwrap()).unwrap();
        let read = |program: &str, name: &str| {
            let mut command = std::process::Command::new(program);
            command.arg("-i").arg(&path);
            let out = command.arg(name).output().expect("mtools is installed: apt-get install mtools");
            assert!(out.status.success(), "{out:?}");
            String::from_utf8(out.stdout).unwrap()
        };
        let meta = "instance-id: i-1\nlocal-hostname: gr--e--1\npublic-keys:\n  - \"ssh-ed25519 AAAA \\\"me\\\"\"\n";
        assert_eq!(read("mtype", "::meta-data"), meta);
        assert_eq!(read("mtype", "::user-data"), user_data);
        assert!(read("mdir", "::").contains("cidata"));
        let check = std::process::Command::new("fsck.fat").arg("-n").arg(&path).output();
        let check = check.expect("dosfstools is installed: apt-get install dosfstools");
        assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
    }

    #[test]
    fn too_much_is_refused_and_names_are_made_plain() {
        let long = "x".repeat(LONGEST_USER_DATA + 1);
        let seed = Seed { id: "i-1", name: "大", ssh_key: None, user_data: Some(&long) };
        assert!(matches!(seed.image(), Err(QemuError::Invalid(_))));
        let full = "x".repeat(LONGEST_USER_DATA);
        assert!(Seed { user_data: Some(&full), ..seed }.image().is_ok());
        assert_eq!(host_name("大", "i-1"), "i-1");
        assert_eq!(host_name("-Web.1-", "i-1"), "web-1");
    }
}
