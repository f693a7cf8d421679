//! Files with holes.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

/// A run of data in a file, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// More runs than this are not worth telling apart: the last one then goes to the end of the file.
pub(super) const MOST_SEGMENTS: usize = 1 << 16;

/// Blocks of a tar archive; the map is padded to it.
const BLOCK: usize = 512;

/// Asks the filesystem where the data is.
pub(super) fn find(file: &File, size: u64) -> io::Result<Vec<Segment>> {
    let seek = |from: u64, whence| lseek(file, from.cast_signed(), whence).map(i64::cast_unsigned);
    let mut segments = Vec::new();
    let mut at = 0;
    while at < size {
        let offset = match seek(at, Whence::SeekData) {
            Ok(offset) => offset,
            Err(Errno::ENXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = seek(offset, Whence::SeekHole)?.min(size);
        let end = if segments.len() + 1 == MOST_SEGMENTS {
            size
        } else {
            end
        };
        if offset >= end {
            break;
        }
        segments.push(Segment {
            offset,
            length: end - offset,
        });
        at = end;
    }
    Ok(segments)
}

/// The map in front of the data: the number of runs, then offset and length of each, one decimal number per line.
/// A run of no bytes at the end of the file tells GNU tar how long the file is.
pub(super) fn encode_map(segments: &[Segment], size: u64) -> Vec<u8> {
    let end = Segment {
        offset: size,
        length: 0,
    };
    let mut text = format!("{}\n", segments.len() + 1);
    for segment in segments.iter().chain([&end]) {
        text.push_str(&format!("{}\n{}\n", segment.offset, segment.length));
    }
    let mut map = text.into_bytes();
    map.resize(map.len().next_multiple_of(BLOCK), 0);
    map
}

/// Reads a map and nothing behind it. `stored` is the size of map and data, `size` that of the file.
///
/// `None` for a map that [`encode_map`] can't have written: wrong numbers, out of order, beyond the end of the file,
/// or not adding up.
pub(super) fn decode_map(from: &mut impl Read, stored: u64, size: u64) -> io::Result<Option<Vec<Segment>>> {
    let mut lines = Lines {
        from,
        block: [0; BLOCK],
        at: BLOCK,
        blocks: 0,
    };
    let Some(count) = lines.number()? else {
        return Ok(None);
    };
    let mut segments = Vec::new();
    let (mut end, mut data) = (0_u64, 0_u64);
    for _ in 0..count {
        let (Some(offset), Some(length)) = (lines.number()?, lines.number()?) else {
            return Ok(None);
        };
        let Some(next) = offset.checked_add(length) else {
            return Ok(None);
        };
        if offset < end || next > size || segments.len() > MOST_SEGMENTS {
            return Ok(None);
        }
        (end, data) = (next, data + length);
        segments.push(Segment { offset, length });
    }
    segments.retain(|segment| segment.length > 0);
    let map = lines.blocks * BLOCK as u64;
    Ok((map.checked_add(data) == Some(stored)).then_some(segments))
}

struct Lines<'a, R> {
    from: &'a mut R,
    block: [u8; BLOCK],
    at: usize,
    blocks: u64,
}

impl<R: Read> Lines<'_, R> {
    fn number(&mut self) -> io::Result<Option<u64>> {
        let mut digits = String::new();
        loop {
            if self.at == BLOCK {
                self.from.read_exact(&mut self.block)?;
                (self.at, self.blocks) = (0, self.blocks + 1);
            }
            let byte = self.block[self.at];
            self.at += 1;
            match byte {
                b'\n' => return Ok(digits.parse().ok()),
                // 20 digits hold every u64.
                b'0'..=b'9' if digits.len() < 20 => digits.push(char::from(byte)),
                _ => return Ok(None),
            }
        }
    }
}

/// The data of a file without its holes. A file that has become shorter is an error: the header is already out.
#[derive(Debug)]
pub(super) struct SegmentReader<'a> {
    file: &'a File,
    segments: std::vec::IntoIter<Segment>,
    now: Segment,
}

impl<'a> SegmentReader<'a> {
    pub(super) fn new(file: &'a File, segments: Vec<Segment>) -> Self {
        Self {
            file,
            segments: segments.into_iter(),
            now: Segment { offset: 0, length: 0 },
        }
    }
}

impl Read for SegmentReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.now.length == 0 {
            match self.segments.next() {
                Some(segment) => self.now = segment,
                None => return Ok(0),
            }
        }
        let want = usize::try_from(self.now.length).map_or(buffer.len(), |length| length.min(buffer.len()));
        let got = self.file.read_at(&mut buffer[..want], self.now.offset)?;
        if got == 0 && want > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.now.offset += got as u64;
        self.now.length -= got as u64;
        Ok(got)
    }
}
