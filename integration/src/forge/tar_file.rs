//! Archives that no honest program writes.

use tar::{EntryType, Header};

/// An archive under construction. Names and links are taken as they are; they have at most 100 bytes.
#[derive(Debug, Clone, Default)]
pub struct Tar(Vec<u8>);

impl Tar {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// One more entry.
    #[must_use]
    pub fn entry(mut self, kind: EntryType, name: &str, link: &str, content: &[u8]) -> Self {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        // `set_path` would refuse a name that leads out.
        let old = header.as_old_mut();
        old.name[..name.len()].copy_from_slice(name.as_bytes());
        old.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_size(content.len() as u64);
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        if matches!(kind, EntryType::Char | EntryType::Block) {
            // The memory of the machine, or its first disk.
            let major = if kind == EntryType::Char { 1 } else { 8 };
            if let Some(fields) = header.as_ustar_mut() {
                fields.set_device_major(major);
                fields.set_device_minor(1);
            }
        }
        header.set_cksum();
        self.0.extend(header.as_bytes());
        self.0.extend(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    /// A regular file.
    #[must_use]
    pub fn file(self, name: &str, content: &[u8]) -> Self {
        self.entry(EntryType::Regular, name, "", content)
    }

    /// PAX records for the next entry.
    #[must_use]
    pub fn pax(self, records: &[(&str, &str)]) -> Self {
        let mut text = String::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let length = (1..6)
                .map(|digits| rest + digits)
                .find(|length| length.to_string().len() + rest == *length);
            text += &format!("{} {key}={value}\n", length.unwrap_or_default());
        }
        self.entry(EntryType::XHeader, "pax", "", text.as_bytes())
    }

    /// The archive with its end.
    #[must_use]
    pub fn bytes(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}
