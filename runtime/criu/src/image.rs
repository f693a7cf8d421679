//! The frame of an image file: magic numbers, then records of a length and a message.
//!
//! Every file begins with the common magic and the magic of its type; only the inventory has just its own. A record
//! is a 32-bit length and that many bytes of protobuf, to the end of the file. Everything is little endian on the
//! machines that thaw knows (CRIU `criu/image.c: img_check_magic`, `criu/protobuf.c: do_pb_read_one`).

use thiserror::Error;

use crate::Images;
use crate::wire::{Message, WireError};

/// First word of every image but the inventory (CRIU `criu/include/magic.h`).
pub(crate) const COMMON_MAGIC: u32 = 0x5456_4319;

/// Magic numbers of the file types that this crate looks into (CRIU `criu/include/magic.h`).
pub(crate) mod magic {
    pub(crate) const INVENTORY: u32 = 0x5831_3116;
    pub(crate) const PSTREE: u32 = 0x5027_3030;
    pub(crate) const CORE: u32 = 0x5505_3847;
    pub(crate) const IDS: u32 = 0x5443_2030;
    pub(crate) const FILES: u32 = 0x5630_3138;
    pub(crate) const FDINFO: u32 = 0x5621_3732;
    pub(crate) const MOUNTPOINTS: u32 = 0x5556_3928;
    pub(crate) const NETNS: u32 = 0x5593_3752;
    pub(crate) const UTSNS: u32 = 0x5447_3203;
    pub(crate) const MM: u32 = 0x5749_2820;
    pub(crate) const PAGEMAP: u32 = 0x5608_4025;
    pub(crate) const SECCOMP: u32 = 0x6441_3049;
    pub(crate) const CGROUP: u32 = 0x5938_3330;
}

/// Why an image could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The file is not among the images.
    #[error("image {file} is missing")]
    Missing {
        /// File name.
        file: String,
    },
    /// The file does not begin with the magic of its type.
    #[error("image {file} has the wrong magic")]
    Magic {
        /// File name.
        file: String,
    },
    /// A record runs past the end of the file.
    #[error("image {file} ends inside record {index}")]
    Truncated {
        /// File name.
        file: String,
        /// Number of the record, from 0.
        index: usize,
    },
    /// The file should hold exactly one record.
    #[error("image {file} holds {found} records in place of one")]
    Count {
        /// File name.
        file: String,
        /// What it holds.
        found: usize,
    },
    /// A record is not the message that it should be.
    #[error("record {index} of image {file} cannot be read")]
    Record {
        /// File name.
        file: String,
        /// Number of the record, from 0.
        index: usize,
        /// What is wrong with it.
        #[source]
        source: WireError,
    },
    /// The process tree does not have exactly one root, in front.
    #[error("the process tree has no single root in front")]
    Root,
    /// A process id is zero, negative, or there twice.
    #[error("the process tree has a bad process id {0}")]
    Pid(u32),
}

/// Why an image could not be edited; the images are as they were.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EditError {
    /// What should be edited could not be read.
    #[error("the image to edit cannot be read")]
    Read(#[from] ReadError),
    /// A host or domain name is longer than 64 bytes or holds a zero byte (uname(2)).
    #[error("the new name is longer than 64 bytes or holds a zero byte")]
    Name,
    /// The dump has no namespace of this kind of its own.
    #[error("the dump has no {0} namespace of its own")]
    NoNamespace(&'static str),
    /// The inventory does not say which namespace of this kind the dumping process was in.
    #[error("the inventory does not name the {0} namespace of the dumping process")]
    NoRootId(&'static str),
}

/// The bytes after the magic numbers.
pub(crate) fn body<'a>(file: &str, bytes: &'a [u8], magic: u32) -> Result<&'a [u8], ReadError> {
    let wrong = || ReadError::Magic {
        file: file.to_owned(),
    };
    let own = if magic == magic::INVENTORY {
        bytes
    } else {
        bytes
            .strip_prefix(&COMMON_MAGIC.to_le_bytes())
            .ok_or_else(wrong)?
    };
    own.strip_prefix(&magic.to_le_bytes()).ok_or_else(wrong)
}

/// Takes one record off the front.
pub(crate) fn take_record<'a>(file: &str, index: usize, rest: &mut &'a [u8]) -> Result<&'a [u8], ReadError> {
    let truncated = || ReadError::Truncated {
        file: file.to_owned(),
        index,
    };
    let (length, after) = rest.split_first_chunk::<4>().ok_or_else(truncated)?;
    let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
    let (record, after) = after.split_at_checked(length).ok_or_else(truncated)?;
    *rest = after;
    Ok(record)
}

/// All records of a file that holds nothing else.
pub(crate) fn records<'a>(file: &str, bytes: &'a [u8], magic: u32) -> Result<Vec<Message<'a>>, ReadError> {
    let mut rest = body(file, bytes, magic)?;
    let mut records = Vec::new();
    while !rest.is_empty() {
        let index = records.len();
        let record = take_record(file, index, &mut rest)?;
        let message = Message::parse(record).map_err(in_record(file, index))?;
        records.push(message);
    }
    Ok(records)
}

/// Says which record a [`WireError`] belongs to.
pub(crate) fn in_record(file: &str, index: usize) -> impl Fn(WireError) -> ReadError {
    move |source| ReadError::Record {
        file: file.to_owned(),
        index,
        source,
    }
}

/// The file of this name.
pub(crate) fn get<'a>(images: &'a Images, file: &str) -> Result<&'a [u8], ReadError> {
    images
        .get(file)
        .map(Vec::as_slice)
        .ok_or_else(|| ReadError::Missing {
            file: file.to_owned(),
        })
}

/// All records of the file of this name.
pub(crate) fn records_of<'a>(
    images: &'a Images,
    file: &str,
    magic: u32,
) -> Result<Vec<Message<'a>>, ReadError> {
    records(file, get(images, file)?, magic)
}

/// The only record of the file of this name.
pub(crate) fn single<'a>(images: &'a Images, file: &str, magic: u32) -> Result<Message<'a>, ReadError> {
    let records = records_of(images, file, magic)?;
    match records.as_slice() {
        [only] => Ok(*only),
        other => Err(ReadError::Count {
            file: file.to_owned(),
            found: other.len(),
        }),
    }
}

/// A file of these records.
pub(crate) fn encode<'a>(magic: u32, records: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut out = Vec::new();
    if magic != magic::INVENTORY {
        out.extend_from_slice(&COMMON_MAGIC.to_le_bytes());
    }
    out.extend_from_slice(&magic.to_le_bytes());
    for record in records {
        // Records come from a file that held them, or are a few bytes of ours: they fit 32 bits.
        out.extend_from_slice(&(record.len() as u32).to_le_bytes());
        out.extend_from_slice(record);
    }
    out
}

/// Gives every record of a file to `edit`, which answers with its new form.
pub(crate) fn rewrite<F>(images: &mut Images, file: &str, magic: u32, edit: F) -> Result<(), ReadError>
where
    F: Fn(Message<'_>) -> Result<Vec<u8>, WireError>,
{
    let mut edited = Vec::new();
    for (index, record) in records_of(images, file, magic)?.into_iter().enumerate() {
        edited.push(edit(record).map_err(in_record(file, index))?);
    }
    let bytes = encode(magic, edited.iter().map(Vec::as_slice));
    images.insert(file.to_owned(), bytes);
    Ok(())
}

/// Names of the files `<stem>-<decimal>.img`, with their numbers.
pub(crate) fn numbered<'a>(images: &'a Images, stem: &'a str) -> impl Iterator<Item = (&'a str, u32)> + 'a {
    images.keys().filter_map(move |name| {
        let digits = name.strip_prefix(stem)?.strip_prefix('-')?.strip_suffix(".img")?;
        let plain = digits.bytes().all(|b| b.is_ascii_digit());
        plain
            .then(|| digits.parse().ok())
            .flatten()
            .map(|id| (name.as_str(), id))
    })
}
