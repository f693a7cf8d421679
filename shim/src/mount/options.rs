//! Mount options in the form of fstab, split into what the kernel wants.

use std::io;

use nix::mount::MsFlags;

use super::IdMap;

/// The options of one mount.
#[derive(Debug, PartialEq, Eq)]
pub struct Parsed {
    /// Flags of the mount call.
    pub flags: MsFlags,
    /// A propagation type, which takes a call of its own.
    pub propagation: Option<MsFlags>,
    /// Which ids the files get.
    pub ids: Option<IdMap>,
    /// What is left for the file system.
    pub data: String,
}

impl Parsed {
    /// Splits the options.
    ///
    /// # Errors
    /// `Unsupported` for an option that containerd itself would have to carry out: loop devices. `InvalidInput` for an
    /// id mapping that is none.
    pub fn parse(options: &[String]) -> io::Result<Self> {
        let mut parsed = Self {
            flags: MsFlags::empty(),
            propagation: None,
            ids: None,
            data: String::new(),
        };
        let mut data = Vec::new();
        let (mut users, mut groups) = (None, None);
        for option in options {
            if let Some(propagation) = propagation(option) {
                parsed.propagation = Some(propagation);
            } else if let Some((set, flag)) = flag(option) {
                parsed.flags.set(flag, set);
            } else if let Some(map) = option.strip_prefix("uidmap=") {
                users = Some(map);
            } else if let Some(map) = option.strip_prefix("gidmap=") {
                groups = Some(map);
            } else if option == "loop" {
                return Err(io::Error::new(
                    io::ErrorKind::Unsupported,
                    format!("mount option {option}"),
                ));
            } else if option != "defaults" && !option.starts_with("X-containerd.") {
                data.push(option.as_str());
            }
        }
        parsed.data = data.join(",");
        parsed.ids = IdMap::parse(users, groups)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        Ok(parsed)
    }
}

fn propagation(option: &str) -> Option<MsFlags> {
    Some(match option {
        "private" => MsFlags::MS_PRIVATE,
        "rprivate" => MsFlags::MS_PRIVATE | MsFlags::MS_REC,
        "shared" => MsFlags::MS_SHARED,
        "rshared" => MsFlags::MS_SHARED | MsFlags::MS_REC,
        "slave" => MsFlags::MS_SLAVE,
        "rslave" => MsFlags::MS_SLAVE | MsFlags::MS_REC,
        "unbindable" => MsFlags::MS_UNBINDABLE,
        "runbindable" => MsFlags::MS_UNBINDABLE | MsFlags::MS_REC,
        _ => return None,
    })
}

/// Whether the option sets or clears a flag, and which.
fn flag(option: &str) -> Option<(bool, MsFlags)> {
    Some(match option {
        "async" => (false, MsFlags::MS_SYNCHRONOUS),
        "atime" => (false, MsFlags::MS_NOATIME),
        "bind" => (true, MsFlags::MS_BIND),
        "dev" => (false, MsFlags::MS_NODEV),
        "diratime" => (false, MsFlags::MS_NODIRATIME),
        "dirsync" => (true, MsFlags::MS_DIRSYNC),
        "exec" => (false, MsFlags::MS_NOEXEC),
        "mand" => (true, MsFlags::MS_MANDLOCK),
        "noatime" => (true, MsFlags::MS_NOATIME),
        "nodev" => (true, MsFlags::MS_NODEV),
        "nodiratime" => (true, MsFlags::MS_NODIRATIME),
        "noexec" => (true, MsFlags::MS_NOEXEC),
        "nomand" => (false, MsFlags::MS_MANDLOCK),
        "norelatime" => (false, MsFlags::MS_RELATIME),
        "nostrictatime" => (false, MsFlags::MS_STRICTATIME),
        "nosuid" => (true, MsFlags::MS_NOSUID),
        "rbind" => (true, MsFlags::MS_BIND.union(MsFlags::MS_REC)),
        "relatime" => (true, MsFlags::MS_RELATIME),
        "remount" => (true, MsFlags::MS_REMOUNT),
        "ro" => (true, MsFlags::MS_RDONLY),
        "rw" => (false, MsFlags::MS_RDONLY),
        "strictatime" => (true, MsFlags::MS_STRICTATIME),
        "suid" => (false, MsFlags::MS_NOSUID),
        "sync" => (true, MsFlags::MS_SYNCHRONOUS),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[&str]) -> Parsed {
        Parsed::parse(
            &options
                .iter()
                .map(|&option| option.to_owned())
                .collect::<Vec<_>>(),
        )
        .unwrap()
    }

    #[test]
    fn flags_propagation_and_data_are_told_apart() {
        let parsed = parse(&["rbind", "ro", "rslave", "nosuid", "index=off", "upperdir=/u"]);
        assert_eq!(
            parsed.flags,
            MsFlags::MS_BIND | MsFlags::MS_REC | MsFlags::MS_RDONLY | MsFlags::MS_NOSUID
        );
        assert_eq!(parsed.propagation, Some(MsFlags::MS_SLAVE | MsFlags::MS_REC));
        assert_eq!(parsed.data, "index=off,upperdir=/u");
    }

    #[test]
    fn a_later_option_wins() {
        assert_eq!(parse(&["ro", "rw"]).flags, MsFlags::empty());
        assert_eq!(parse(&["defaults"]), parse(&[]));
    }

    #[test]
    fn what_is_not_done_is_refused() {
        assert!(Parsed::parse(&["loop".to_owned()]).is_err());
        assert!(Parsed::parse(&["uidmap=0:1000:1".to_owned()]).is_err());
    }

    #[test]
    fn an_id_mapping_does_not_reach_the_file_system() {
        let parsed = parse(&["uidmap=0:5:1,1:9:1", "gidmap=0:6:1", "lowerdir=/l"]);
        assert_eq!(parsed.data, "lowerdir=/l");
        assert_eq!(
            parsed.ids,
            IdMap::parse(Some("0:5:1,1:9:1"), Some("0:6:1")).unwrap()
        );
        let twice = parse(&["uidmap=bad", "uidmap=0:5:1", "gidmap=0:6:1"]);
        assert_eq!(twice.ids, IdMap::parse(Some("0:5:1"), Some("0:6:1")).unwrap());
    }
}
