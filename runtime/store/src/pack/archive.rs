//! The metadata archive, and whole-file compression.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use thaw_snapshot::{Blob, Digest};

use super::{ImageFile, LEVEL, PackError, read_error, write_error};

/// Writes the images as a compressed archive. The same images give the same bytes: names are sorted, and owner,
/// mode and times are constants.
pub(super) fn pack_images(images: &[ImageFile], out: &Path) -> Result<(Blob, PathBuf), PackError> {
    let path = out.join("meta.tar.zst");
    let mut archive = tar::Builder::new(BlobWriter::create(&path)?);
    for image in images {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Regular);
        header.set_path(&image.name).map_err(|e| write_error(&path, e))?;
        header.set_size(image.size);
        header.set_mode(0o600);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        // The size stands in the header already, so a file that grew must not add bytes behind it.
        let mut content = Exact {
            file: &image.file,
            left: image.size,
        };
        archive
            .append(&header, &mut content)
            .map_err(|e| write_error(&path, e))?;
        if content.left > 0 {
            return Err(read_error(&image.path, io::ErrorKind::UnexpectedEof.into()));
        }
    }
    let blob = archive
        .into_inner()
        .and_then(BlobWriter::finish)
        .map_err(|e| write_error(&path, e))?;
    Ok((blob, path))
}

/// Compresses one file.
pub(super) fn compress(from: &Path, to: &Path) -> Result<(Blob, PathBuf), PackError> {
    let mut source = File::open(from).map_err(|e| read_error(from, e))?;
    let mut writer = BlobWriter::create(to)?;
    let mut buffer = vec![0; 256 << 10];
    loop {
        let length = source.read(&mut buffer).map_err(|e| read_error(from, e))?;
        if length == 0 {
            break;
        }
        writer
            .write_all(&buffer[..length])
            .map_err(|e| write_error(to, e))?;
    }
    let blob = writer.finish().map_err(|e| write_error(to, e))?;
    Ok((blob, to.to_owned()))
}

/// At most as many bytes of a file as it had when it was listed.
struct Exact<'a> {
    file: &'a File,
    left: u64,
}

impl Read for Exact<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.file.take(self.left).read(buffer)?;
        self.left -= length as u64;
        Ok(length)
    }
}

/// Hashes and counts what goes through.
struct Hashed<W> {
    inner: W,
    hasher: Sha256,
    size: u64,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..length]);
        self.size += length as u64;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// raw bytes -> hash -> compressor -> hash -> file.
struct BlobWriter {
    raw: Hashed<zstd::Encoder<'static, Hashed<File>>>,
}

impl BlobWriter {
    fn create(path: &Path) -> Result<Self, PackError> {
        let file = File::create(path).map_err(|e| write_error(path, e))?;
        let packed = Hashed {
            inner: file,
            hasher: Sha256::new(),
            size: 0,
        };
        let encoder = zstd::Encoder::new(packed, LEVEL).map_err(|e| write_error(path, e))?;
        Ok(Self {
            raw: Hashed {
                inner: encoder,
                hasher: Sha256::new(),
                size: 0,
            },
        })
    }

    fn finish(self) -> io::Result<Blob> {
        let packed = self.raw.inner.finish()?;
        Ok(Blob {
            digest: Digest::from_hasher(packed.hasher),
            size: packed.size,
            raw_digest: Digest::from_hasher(self.raw.hasher),
            raw_size: self.raw.size,
        })
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.raw.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.raw.flush()
    }
}
