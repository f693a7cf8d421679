//! Timer descriptors, out of `files.img`.

use crate::Images;
use crate::files::{self, TIMERFD};
use crate::image::{self, EditError, magic};
use crate::wire::{self, Message, Value, WireError};

/// `fdinfo.proto: file_entry.tfd`.
const TFD: u32 = 12;

/// `timerfd.proto: timerfd_entry` ticks, settime_flags, vsec, vnsec, isec, insec.
const TICKS: u32 = 5;
const SETTIME_FLAGS: u32 = 6;
const VALUE: [u32; 2] = [7, 8];
const INTERVAL: [u32; 2] = [9, 10];

/// TFD_TIMER_ABSTIME and TFD_TIMER_CANCEL_ON_SET (`linux/timerfd.h`).
const ABSOLUTE: u64 = 1;
const CANCEL_ON_SET: u64 = 2;

/// Makes timer descriptors go on as they would have (`timerfd_entry`, fields 6 to 8). CRIU arms them with the time that
/// was left, which is wrong in two cases (`criu/pie/restorer.c: timerfd_arm`):
///
/// A periodic timer that has run out and was not read yet has no time left: the kernel starts its next period with the
/// read. Armed with nothing it would never run again, so it gets one whole period.
///
/// An absolute timer gets the time left plus the present second: it fires up to a second too soon, and one that had
/// fired long ago fires again. Armed as a relative one it fires when it should, as the clock goes on from the dump.
///
/// # Errors
/// The image cannot be read.
pub fn mend(images: &mut Images) -> Result<(), EditError> {
    image::rewrite(images, files::FILE, magic::FILES, |record| {
        if files::kind(record)? != TIMERFD {
            return Ok(record.as_bytes().to_vec());
        }
        let edited = edit(record.required_message(TFD)?)?;
        wire::set(record.as_bytes(), TFD, Value::Bytes(&edited))
    })?;
    Ok(())
}

fn edit(timer: Message<'_>) -> Result<Vec<u8>, WireError> {
    let mut edited = timer.as_bytes().to_vec();
    let flags = timer.required_uint64(SETTIME_FLAGS)?;
    if flags & ABSOLUTE != 0 && flags & CANCEL_ON_SET == 0 {
        edited = wire::set(&edited, SETTIME_FLAGS, Value::Varint(flags & !ABSOLUTE))?;
    }
    let is_zero = |[seconds, nanoseconds]: [u32; 2]| -> Result<bool, WireError> {
        Ok(timer.required_uint64(seconds)? == 0 && timer.required_uint64(nanoseconds)? == 0)
    };
    if timer.required_uint64(TICKS)? > 0 && is_zero(VALUE)? && !is_zero(INTERVAL)? {
        for (value, interval) in VALUE.into_iter().zip(INTERVAL) {
            edited = wire::set(&edited, value, Value::Varint(timer.required_uint64(interval)?))?;
        }
    }
    Ok(edited)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The entry of a timer with these ticks, flags, time left and interval in nanoseconds.
    fn timer(ticks: u64, flags: u64, left: u64, interval: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (number, value) in [
            (1, 5),
            (2, 2),
            (4, 1),
            (TICKS, ticks),
            (SETTIME_FLAGS, flags),
            (7, 0),
            (8, left),
            (9, 0),
            (10, interval),
        ] {
            wire::push(&mut bytes, number, Value::Varint(value));
        }
        bytes
    }

    #[test]
    fn only_what_would_go_wrong_is_mended() {
        for (was, is) in [
            (timer(0, 0, 7, 9), timer(0, 0, 7, 9)),
            (timer(3, 0, 0, 9), timer(3, 0, 9, 9)),
            (timer(3, 0, 7, 9), timer(3, 0, 7, 9)),
            // Switched off, and run out for good.
            (timer(0, 0, 0, 9), timer(0, 0, 0, 9)),
            (timer(1, 0, 0, 0), timer(1, 0, 0, 0)),
            (timer(0, 1, 7, 0), timer(0, 0, 7, 0)),
            (timer(1, 1, 0, 9), timer(1, 0, 9, 9)),
            (timer(0, 3, 7, 0), timer(0, 3, 7, 0)),
        ] {
            assert_eq!(edit(Message::parse(&was).unwrap()).unwrap(), is);
        }
    }
}
