//! What CRIU measured of a dump.

use crate::wire::Message;

/// `magic.h`: SERVICE_MAGIC, then STATS_MAGIC. Statistics are not an image: they have a frame of their own.
const MAGIC: [u32; 2] = [0x5510_5940, 0x5709_3306];

/// How long the tasks stood still, in microseconds, by the content of `stats-dump` (`stats.proto: stats_entry.dump`,
/// field 1; `dump_stats_entry.frozen_time`, field 2). `None` when it is not that file.
#[must_use]
pub fn frozen_time(stats: &[u8]) -> Option<u64> {
    let word = |at: usize| Some(u32::from_le_bytes(stats.get(at..at + 4)?.try_into().ok()?));
    if [word(0)?, word(4)?] != MAGIC {
        return None;
    }
    let length = usize::try_from(word(8)?).ok()?;
    let entry = Message::parse(stats.get(12..)?.get(..length)?).ok()?;
    entry.message(1).ok()??.uint64(2).ok()?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_criu_writes() {
        // dump { freezing_time: 5, frozen_time: 300 }
        let mut file = Vec::new();
        file.extend(MAGIC.into_iter().flat_map(u32::to_le_bytes));
        file.extend(7u32.to_le_bytes());
        file.extend([0x0a, 5, 0x08, 5, 0x10, 0xac, 0x02]);
        assert_eq!(frozen_time(&file), Some(300));
        for length in 0..file.len() {
            assert_eq!(frozen_time(&file[..length]), None, "{length}");
        }
    }
}
