//! Points in time, as the protocol has them.

use std::time::{SystemTime, UNIX_EPOCH};

use containerd_shim_protos::protobuf::well_known_types::timestamp::Timestamp;

/// Seconds from the Unix epoch back to the year 1, which is how Go writes "never".
const NEVER: i64 = -62_135_596_800;

/// A point in time.
#[must_use]
pub fn timestamp(at: SystemTime) -> Timestamp {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or_default(),
        ..Timestamp::default()
    }
}

/// A point in time that may not have come yet; then it is the one that Go's zero time is.
#[must_use]
pub fn timestamp_or_never(at: Option<SystemTime>) -> Timestamp {
    at.map_or_else(
        || Timestamp {
            seconds: NEVER,
            ..Timestamp::default()
        },
        timestamp,
    )
}
