//! Properties of the codec on messages and bytes of any kind.

#![expect(clippy::unwrap_used, reason = "a test that cannot read its fixture must fail")]

use proptest::collection::vec;
use proptest::prelude::*;

use thaw_criu::inventory::{self, NetworkLock};
use thaw_criu::sockets::Rebind;
use thaw_criu::wire::{self, Field, Message, Value, WireError};
use thaw_criu::{
    Images, check, creds, fdinfo, files, ids, mounts, netns, pagemap, pstree, sockets, timerfd, uts,
};

#[derive(Debug, Clone)]
enum Owned {
    Varint(u64),
    Fixed64([u8; 8]),
    Bytes(Vec<u8>),
    Fixed32([u8; 4]),
}

impl Owned {
    fn value(&self) -> Value<'_> {
        match self {
            Self::Varint(value) => Value::Varint(*value),
            Self::Fixed64(bytes) => Value::Fixed64(*bytes),
            Self::Bytes(bytes) => Value::Bytes(bytes),
            Self::Fixed32(bytes) => Value::Fixed32(*bytes),
        }
    }
}

fn message() -> impl Strategy<Value = Vec<(u32, Owned)>> {
    let value = prop_oneof![
        any::<u64>().prop_map(Owned::Varint),
        any::<[u8; 8]>().prop_map(Owned::Fixed64),
        vec(any::<u8>(), 0..40).prop_map(Owned::Bytes),
        any::<[u8; 4]>().prop_map(Owned::Fixed32),
    ];
    vec((prop_oneof![1u32..20, 1u32..(1 << 29)], value), 0..12)
}

fn encode(fields: &[(u32, Owned)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (number, value) in fields {
        wire::push(&mut out, *number, value.value());
    }
    out
}

fn others(bytes: &[u8], number: u32) -> Vec<Vec<u8>> {
    let fields = Message::parse(bytes).unwrap().fields().map(Result::unwrap);
    fields
        .filter(|field| field.number != number)
        .map(|field| field.raw.to_vec())
        .collect()
}

/// Puts the same bytes under every name that an accessor may open.
fn everywhere(body: &[u8]) -> Images {
    let record = |magic: &[u8]| [magic, &(body.len() as u32).to_le_bytes(), body].concat();
    let common = |magic: u32| record(&[0x5456_4319u32.to_le_bytes(), magic.to_le_bytes()].concat());
    Images::from([
        ("inventory.img".to_owned(), record(&0x5831_3116u32.to_le_bytes())),
        ("pstree.img".to_owned(), common(0x5027_3030)),
        ("files.img".to_owned(), common(0x5630_3138)),
        ("core-1.img".to_owned(), common(0x5505_3847)),
        ("ids-1.img".to_owned(), common(0x5443_2030)),
        ("fdinfo-1.img".to_owned(), common(0x5621_3732)),
        ("utsns-1.img".to_owned(), common(0x5447_3203)),
        ("netns-1.img".to_owned(), common(0x5593_3752)),
        ("mountpoints-1.img".to_owned(), common(0x5556_3928)),
        ("pagemap-1.img".to_owned(), common(0x5608_4025)),
    ])
}

/// Calls everything that reads or edits; only a panic fails.
fn exercise(mut images: Images) {
    let _ = check(&images);
    let _ = pstree::pids(&images);
    let _ = sockets::inet(&images);
    let _ = files::paths(&images);
    let _ = mounts::list(&images);
    let _ = creds::of_all(&images);
    let _ = pagemap::page_files(&images, 4096);
    let _ = inventory::set_network_lock(&mut images, NetworkLock::Skip);
    let _ = uts::set_names(&mut images, "clone", Some(""));
    let _ = netns::set_external(&mut images, true);
    let _ = ids::share_uts_with_root(&mut images);
    let _ = ids::share_ipc_with_root(&mut images);
    let _ = files::forget_sizes(&mut images, |_| true);
    let _ = fdinfo::holders(&images);
    let _ = timerfd::mend(&mut images);
    let _ = sockets::rebind(&mut images, |socket| {
        Some(Rebind {
            src: socket.src.ip(),
            disconnect: true,
            v6only: true,
        })
    });
}

proptest! {
    #[test]
    fn what_is_written_is_read(fields in message()) {
        let bytes = encode(&fields);
        let read: Vec<Field<'_>> = Message::parse(&bytes).unwrap().fields().map(Result::unwrap).collect();
        prop_assert_eq!(read.len(), fields.len());
        for (field, (number, value)) in read.iter().zip(&fields) {
            prop_assert_eq!(field.number, *number);
            prop_assert_eq!(field.value, value.value());
        }
        prop_assert_eq!(read.iter().map(|field| field.raw).collect::<Vec<_>>().concat(), bytes);
    }

    #[test]
    fn an_edit_keeps_every_other_field(fields in message(), number in 1u32..20, value in any::<u64>()) {
        let bytes = encode(&fields);
        let times = fields.iter().filter(|(n, _)| *n == number).count();
        match wire::set(&bytes, number, Value::Varint(value)) {
            Err(error) => prop_assert!(times > 1 && error == WireError::Twice(number)),
            Ok(edited) => {
                prop_assert!(times <= 1);
                prop_assert_eq!(others(&edited, number), others(&bytes, number));
                prop_assert_eq!(Message::parse(&edited).unwrap().uint64(number).unwrap(), Some(value));
            }
        }
        let cleared = wire::clear(&bytes, &[number]).unwrap();
        prop_assert_eq!(others(&cleared, number), others(&bytes, number));
        prop_assert_eq!(Message::parse(&cleared).unwrap().count(number).unwrap(), 0);
    }

    #[test]
    fn unknown_fields_outlive_the_edits_of_images(unknown in message()) {
        // Numbers far above those in use.
        let unknown: Vec<_> = unknown.into_iter().map(|(n, value)| (n % 1000 + 5000, value)).collect();
        let mut body = encode(&unknown);
        wire::push(&mut body, 1, Value::Varint(2));
        let mut images = everywhere(&body);
        inventory::set_network_lock(&mut images, NetworkLock::Skip).unwrap();
        let record = &images["inventory.img"][8..];
        prop_assert_eq!(others(record, 11), others(&body, 11));
    }

    #[test]
    fn no_bytes_panic(body in vec(any::<u8>(), 0..200)) {
        let _ = Message::parse(&body).map(|message| message.repeated_uint32(1));
        let _ = pagemap::entries(&body);
        exercise(everywhere(&body));
        let raw = everywhere(&body).into_keys().map(|name| (name, body.clone())).collect();
        exercise(raw);
    }

    #[test]
    fn no_message_panics(fields in message()) {
        exercise(everywhere(&encode(&fields)));
    }
}

#[test]
fn refuses_unsound_bytes() {
    let cases: [(&[u8], WireError); 9] = [
        (&[0x08], WireError::Truncated),
        (&[0x08, 0x80], WireError::Truncated),
        (&[0x0a, 0x05, 1, 2], WireError::Truncated),
        (
            &[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
            WireError::Truncated,
        ),
        (&[0x09, 1, 2, 3], WireError::Truncated),
        (
            &[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02],
            WireError::Overlong,
        ),
        (&[0x00, 0x00], WireError::Number),
        (&[0x0b], WireError::WireType(3)),
        (&[0x0f], WireError::WireType(7)),
    ];
    for (bytes, error) in cases {
        assert_eq!(Message::parse(bytes), Err(error), "{bytes:x?}");
    }
}

#[test]
fn a_singular_field_comes_once() {
    let message = Message::parse(&[0x08, 1, 0x08, 2]).unwrap();
    assert_eq!(message.uint64(1), Err(WireError::Twice(1)));
    assert_eq!(message.repeated_uint32(1), Ok(vec![1, 2]));
    assert_eq!(
        Message::parse(&[0x0a, 2, 1, 2]).unwrap().repeated_uint32(1),
        Ok(vec![1, 2])
    );
}
