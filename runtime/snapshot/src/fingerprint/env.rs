//! The environment: which variables count, and how their values are kept from the store.

use std::collections::BTreeMap;
use std::net::IpAddr;

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

/// What a pod is called: a variable with one of these as its value names the pod, whatever its own name is.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pod<'a> {
    /// The pod's name.
    pub(super) name: Option<&'a str>,
    /// Its uid.
    pub(super) uid: Option<&'a str>,
    /// Its sandbox.
    pub(super) sandbox: Option<&'a str>,
    /// Its addresses, loopback left out.
    pub(super) addresses: &'a [IpAddr],
}

impl Pod<'_> {
    /// What of the pod this is. No hash looks like one of these words.
    fn names(&self, value: &str) -> Option<&'static str> {
        let is = |known: Option<&str>| known == Some(value) && !value.is_empty();
        if is(self.name) {
            Some("=pod name")
        } else if is(self.uid) {
            Some("=pod uid")
        } else if is(self.sandbox) {
            Some("=sandbox id")
        } else if addresses_in(value)
            .is_some_and(|found| found.iter().all(|one| self.addresses.contains(one)))
        {
            Some("=pod address")
        } else {
            None
        }
    }
}

/// The addresses that a value consists of: one, or several with commas in between (`status.podIPs`).
pub fn addresses_in(value: &str) -> Option<Vec<IpAddr>> {
    value.split(',').map(|part| part.parse().ok()).collect()
}

/// Names of the variables whose values are the donor's after a restore, sorted.
pub(super) fn stale(env: &[String], pod: Pod<'_>, ignored: &[String]) -> Vec<String> {
    let all = split(env);
    let stale =
        |name: &&str| is_identity(name, &all) || is_ignored(name, ignored) || pod.names(all[*name]).is_some();
    all.keys().copied().filter(stale).map(str::to_owned).collect()
}

fn is_ignored(name: &str, ignored: &[String]) -> bool {
    ignored.iter().any(|ignored| ignored == name)
}

/// Name to HMAC-SHA256 of the value, in hex, without the identity and the ignored. A value that names the pod counts
/// as that.
///
/// The scope is no secret, so this keeps values out of sight and unlinkable between scopes; it does not keep somebody
/// who reads the store from trying the values that are easy to guess.
pub(super) fn hashed(env: &[String], scope: &str, pod: Pod<'_>, ignored: &[String]) -> Value {
    let all = split(env);
    let mut object = Map::new();
    let counts = |name: &&&str| !is_identity(name, &all) && !is_ignored(name, ignored);
    for name in all.keys().filter(counts) {
        // A name that comes twice keeps all its values: which of them counts is for the program to say.
        let values: Vec<&str> = env.iter().filter_map(|entry| value_of(entry, name)).collect();
        let of_pod = match values.as_slice() {
            [one] => pod.names(one),
            _ => None,
        };
        let text = of_pod.map_or_else(|| hmac(scope, name, &values), str::to_owned);
        object.insert((*name).to_owned(), text.into());
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

fn hmac(scope: &str, name: &str, values: &[&str]) -> String {
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
