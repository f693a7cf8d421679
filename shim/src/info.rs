//! `-info`: what this runtime can do, from `runc features`.

use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{self, Message, MessageField};
use containerd_shim_protos::types::introspection::{RuntimeInfo, RuntimeVersion};

use crate::bootstrap::{InputError, decode_any, read_stdin};
use crate::options::Options;

/// The type name that containerd knows OCI features by; the value is JSON.
const FEATURES: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";

/// What can keep it from answering.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InfoError {
    #[error("understand what containerd sent")]
    Input(#[from] InputError),
    #[error("encode the answer")]
    Encode(#[source] protobuf::Error),
}

/// Answers the encoded `RuntimeInfo`. A runc without the `features` verb (before 1.1) gives an answer without them.
pub(crate) fn run() -> Result<Vec<u8>, InfoError> {
    let input = read_stdin()?;
    let (options, given) = match input.as_slice() {
        [] => (Options::default(), None),
        bytes => (decode_any(bytes)?, Any::parse_from_bytes(bytes).ok()),
    };
    let features = thaw_runc::features_now(options.binary()).ok();
    let info = RuntimeInfo {
        name: "io.containerd.thaw.v1".into(),
        version: MessageField::some(RuntimeVersion {
            version: env!("CARGO_PKG_VERSION").into(),
            ..RuntimeVersion::default()
        }),
        options: given.into(),
        features: features
            .map(|value| Any {
                type_url: FEATURES.into(),
                value,
                ..Any::default()
            })
            .into(),
        ..RuntimeInfo::default()
    };
    info.write_to_bytes().map_err(InfoError::Encode)
}
