//! What containerd writes to the standard input of `start`.
//!
//! containerd before 2.3 writes the runtime options as an `Any`, or nothing. 2.3 and newer write `BootstrapParams`.
//! The bytes of the one also decode as the other (field 1 and 2 are strings in both), so the id and the namespace,
//! which are on the command line as well, tell them apart.

use std::io::{self, IsTerminal, Read};

use containerd_shim_protos::bootstrap_api::BootstrapParams;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{self, Message};

use crate::flags::Flags;
use crate::options::{Options, OptionsError};

/// containerd's own limit for a message.
const LIMIT: u64 = 4 << 20;
/// `LOG_LEVEL_DEBUG` of the protocol; smaller numbers say more.
const DEBUG: i32 = -4;

/// What `start` needs of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Input {
    /// The runtime options.
    pub options: Options,
    /// Where the socket goes; `None` for the default.
    pub socket_dir: Option<String>,
    /// containerd's ttrpc socket.
    pub ttrpc_address: Option<String>,
    /// containerd's gRPC socket.
    pub grpc_address: Option<String>,
    /// Verbose log.
    pub debug: bool,
}

/// Input that cannot be understood.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InputError {
    /// It cannot be read.
    #[error("read standard input")]
    Read(#[source] io::Error),
    /// It is neither form.
    #[error("decode standard input")]
    Decode(#[source] protobuf::Error),
    /// The options in it are broken.
    #[error("understand standard input")]
    Options(#[source] OptionsError),
}

/// Reads standard input to its end. A terminal is not read: somebody is trying the command by hand.
///
/// # Errors
/// What reading answered.
pub fn read_stdin() -> Result<Vec<u8>, InputError> {
    let mut bytes = Vec::new();
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        stdin
            .lock()
            .take(LIMIT)
            .read_to_end(&mut bytes)
            .map_err(InputError::Read)?;
    }
    Ok(bytes)
}

/// Understands either form.
///
/// # Errors
/// See [`InputError`].
pub fn decode(bytes: &[u8], flags: &Flags) -> Result<Input, InputError> {
    if bytes.is_empty() {
        return Ok(Input::default());
    }
    match BootstrapParams::parse_from_bytes(bytes) {
        Ok(params) if params.instance_id == flags.id && params.namespace == flags.namespace => {
            from_params(params)
        }
        _ => Ok(Input {
            options: decode_any(bytes)?,
            ..Input::default()
        }),
    }
}

/// The options in an `Any`, which is also what `-info` gets.
///
/// # Errors
/// See [`InputError`].
pub fn decode_any(bytes: &[u8]) -> Result<Options, InputError> {
    let any = Any::parse_from_bytes(bytes).map_err(InputError::Decode)?;
    Ok(Options::from_any(&any)
        .map_err(InputError::Options)?
        .unwrap_or_default())
}

fn from_params(params: BootstrapParams) -> Result<Input, InputError> {
    let mut options = None;
    for any in params
        .extensions
        .iter()
        .filter_map(|extension| extension.value.as_ref())
    {
        options = options.or(Options::from_any(any).map_err(InputError::Options)?);
    }
    let given = |text: String| (!text.is_empty()).then_some(text);
    Ok(Input {
        options: options.unwrap_or_default(),
        debug: params.log_level.value() <= DEBUG,
        socket_dir: params.socket_dir.and_then(given),
        ttrpc_address: given(params.containerd_ttrpc_address),
        grpc_address: given(params.containerd_grpc_address),
    })
}

#[cfg(test)]
mod tests {
    use containerd_shim_protos::bootstrap_api::Extension;
    use containerd_shim_protos::protobuf::MessageField;
    use containerd_shim_protos::shim::oci;

    use super::*;

    fn flags() -> Flags {
        Flags::parse(["-namespace", "ns", "-id", "c1", "start"].map(str::to_owned)).unwrap()
    }

    fn runc_any() -> Any {
        let message = oci::Options {
            root: "/r".into(),
            ..oci::Options::default()
        };
        Any {
            type_url: "containerd.runc.v1.Options".into(),
            value: message.write_to_bytes().unwrap(),
            ..Any::default()
        }
    }

    #[test]
    fn nothing() {
        assert_eq!(decode(b"", &flags()).unwrap(), Input::default());
    }

    #[test]
    fn options_of_containerd_1_and_2_0() {
        let input = decode(&runc_any().write_to_bytes().unwrap(), &flags()).unwrap();
        assert_eq!(input.options.root, "/r");
        assert_eq!(input.socket_dir, None);
    }

    #[test]
    fn parameters_of_containerd_2_3() {
        let extension = Extension {
            value: MessageField::some(runc_any()),
            ..Extension::default()
        };
        let params = BootstrapParams {
            instance_id: "c1".into(),
            namespace: "ns".into(),
            containerd_ttrpc_address: "/t".into(),
            containerd_grpc_address: "/g".into(),
            extensions: vec![extension],
            socket_dir: Some("/s".into()),
            ..BootstrapParams::default()
        };
        let input = decode(&params.write_to_bytes().unwrap(), &flags()).unwrap();
        assert_eq!(input.options.root, "/r");
        assert_eq!(input.socket_dir.as_deref(), Some("/s"));
        assert_eq!(
            (input.ttrpc_address.as_deref(), input.grpc_address.as_deref()),
            (Some("/t"), Some("/g"))
        );
        assert!(!input.debug);
    }

    #[test]
    fn garbage_is_an_error() {
        assert!(decode(&[0xff, 0xff, 0xff], &flags()).is_err());
    }
}
