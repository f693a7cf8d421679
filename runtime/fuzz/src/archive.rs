//! Tar archives with right checksums: a fuzzer finds no sum by chance, and a hostile writer computes it.

const BLOCK: usize = 512;
/// Place of the size and of the checksum in a header (POSIX ustar).
const SIZE: std::ops::Range<usize> = 124..136;
const SUM: std::ops::Range<usize> = 148..156;

/// The same archive with the checksum of every header set right.
pub(crate) fn mend(data: &[u8]) -> Vec<u8> {
    let mut tar = data.to_vec();
    let mut at = 0usize;
    while let Some(header) = tar.get_mut(at..at.saturating_add(BLOCK)) {
        if header.iter().all(|byte| *byte == 0) {
            at += BLOCK;
            continue;
        }
        header[SUM].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[SUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let content = octal(&header[SIZE]).saturating_add(BLOCK - 1) / BLOCK * BLOCK;
        at = at.saturating_add(BLOCK).saturating_add(content);
    }
    tar
}

fn octal(field: &[u8]) -> usize {
    let digits = field
        .iter()
        .skip_while(|byte| **byte == b' ')
        .take_while(|byte| matches!(byte, b'0'..=b'7'));
    digits.fold(0usize, |sum, digit| {
        sum.saturating_mul(8).saturating_add(usize::from(digit - b'0'))
    })
}
