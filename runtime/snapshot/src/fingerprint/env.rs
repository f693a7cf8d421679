//! The environment: which variables count, and how their values are kept from the store.

use std::collections::BTreeMap;

use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Map, Value};
use sha2::Sha256;

/// Sets these hashes apart from any other use of a scope as a key.
const PURPOSE: &[u8] = b"thaw environment 1\0";

/// Whether a variable names the clone rather than what it does, and so may differ from the donor's.
///
/// These are `HOSTNAME`, and the variables that Kubernetes adds for every service that existed when the pod was made
/// (kubernetes.io, "Accessing the Service"): for a service `P` they are `P_SERVICE_HOST`, `P_SERVICE_PORT`,
/// `P_SERVICE_PORT_<name>`, `P_PORT` and `P_PORT_<n>_<protocol>…`. They count as such only where `P_PORT` is a URL of the
/// address in `P_SERVICE_HOST`: a plain `DB_PORT=5432` is the application's own and counts. `KUBERNETES_…` counts,
/// since it says which cluster this is.
///
/// The restored process keeps the donor's values of all of them.
pub fn is_identity(name: &str, all: &BTreeMap<&str, &str>) -> bool {
    if name.starts_with("KUBERNETES_") {
        return false;
    }
    name == "HOSTNAME" || service_of(name).any(|service| is_service(service, all))
}

/// Names of the variables that [`is_identity`] leaves out, sorted: their values are stale after a restore.
pub fn identity(env: &[String]) -> Vec<&str> {
    let all = split(env);
    all.keys()
        .copied()
        .filter(|name| is_identity(name, &all))
        .collect()
}

/// Name to HMAC-SHA256 of the value, in hex, without the identity.
///
/// The scope is no secret, so this keeps values out of sight and unlinkable between scopes; it does not keep somebody
/// who reads the store from trying the values that are easy to guess.
pub(super) fn hashed(env: &[String], scope: &str) -> Value {
    let all = split(env);
    let mut object = Map::new();
    for name in all.keys().filter(|name| !is_identity(name, &all)) {
        // A name that comes twice keeps all its values: which of them counts is for the program to say.
        let values = env.iter().filter_map(|entry| value_of(entry, name));
        object.insert((*name).to_owned(), hmac(scope, name, values).into());
    }
    Value::Object(object)
}

/// Name to value; the last one wins, as in runc.
fn split(env: &[String]) -> BTreeMap<&str, &str> {
    env.iter()
        .map(|entry| entry.split_once('=').unwrap_or((entry, "")))
        .collect()
}

fn value_of<'a>(entry: &'a str, name: &str) -> Option<&'a str> {
    let rest = entry.strip_prefix(name)?;
    if rest.is_empty() {
        Some("")
    } else {
        rest.strip_prefix('=')
    }
}

fn hmac<'a>(scope: &str, name: &str, values: impl Iterator<Item = &'a str>) -> String {
    // HMAC takes a key of any length; the error of `new_from_slice` has no way to happen.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&[PURPOSE, scope.as_bytes()].concat()) else {
        return String::new();
    };
    mac.update(name.as_bytes());
    for value in values {
        // No name and no value holds a zero byte, so this keeps them apart.
        mac.update(b"\0");
        mac.update(value.as_bytes());
    }
    mac.finalize()
        .into_bytes()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// The services whose variable this could be, by its name.
fn service_of(name: &str) -> impl Iterator<Item = &str> {
    let plain = ["_SERVICE_HOST", "_SERVICE_PORT", "_PORT"]
        .into_iter()
        .filter_map(|end| name.strip_suffix(end));
    let named = name.match_indices("_SERVICE_PORT_").map(|(at, _)| &name[..at]);
    let numbered = name
        .match_indices("_PORT_")
        .filter(|(at, infix)| is_numbered(&name[at + infix.len()..]))
        .map(|(at, _)| &name[..at]);
    plain.chain(named).chain(numbered)
}

/// `<n>_<protocol>`, and after that nothing, `_PROTO`, `_PORT` or `_ADDR`.
fn is_numbered(rest: &str) -> bool {
    let Some((number, rest)) = rest.split_once('_') else {
        return false;
    };
    let protocol = rest
        .strip_suffix("_PROTO")
        .or_else(|| rest.strip_suffix("_PORT"))
        .or_else(|| rest.strip_suffix("_ADDR"))
        .unwrap_or(rest);
    !number.is_empty()
        && number.bytes().all(|b| b.is_ascii_digit())
        && ["TCP", "UDP", "SCTP"].contains(&protocol)
}

/// Whether the environment holds the pair that Kubernetes writes for every service.
fn is_service(service: &str, all: &BTreeMap<&str, &str>) -> bool {
    let value = |end: &str| all.get(format!("{service}{end}").as_str()).copied();
    let (Some(host), Some(port)) = (value("_SERVICE_HOST"), value("_PORT")) else {
        return false;
    };
    let Some((protocol, address)) = port.split_once("://") else {
        return false;
    };
    let of_host = address
        .strip_prefix(host)
        .is_some_and(|rest| rest.starts_with(':'))
        || address
            .strip_prefix('[')
            .and_then(|rest| rest.strip_prefix(host))
            .is_some_and(|rest| rest.starts_with("]:"));
    !host.is_empty() && ["tcp", "udp", "sctp"].contains(&protocol) && of_host
}
