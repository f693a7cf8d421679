//! `thaw.dev/on-restore`: how an application is told that it was restored.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// The most bytes of the annotation.
const MAX_LENGTH: usize = 4096;
/// The most words of a command.
const MAX_WORDS: usize = 64;

/// Signals by number, from 1 (`man 7 signal`, the numbers of x86 and ARM).
const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];
/// These two can't be heard.
const UNHEARD: [&str; 2] = ["KILL", "STOP"];
/// The last real-time signal.
const MAX_SIGNAL: u32 = 64;

/// What is done when a restored container runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OnRestore {
    /// Send this signal to its init.
    Signal(u32),
    /// Run this program in it, with the container's own user and environment. Never empty.
    Exec(Vec<String>),
}

/// Why a text is no [`OnRestore`].
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnRestoreError {
    /// Neither form.
    #[error("it is neither signal:NAME nor exec:COMMAND ARGUMENT...")]
    Form,
    /// No signal of this name or number that a program can hear.
    #[error("{0:?} is not a signal that a program can hear")]
    Signal(String),
    /// No command.
    #[error("the command is empty")]
    Empty,
    /// Control characters in the command.
    #[error("the command holds control characters")]
    Control,
    /// Too long.
    #[error("it is longer than {MAX_LENGTH} bytes or {MAX_WORDS} words")]
    Long,
}

impl FromStr for OnRestore {
    type Err = OnRestoreError;

    /// The words of a command are parted by spaces; there is no quoting, and no shell.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > MAX_LENGTH {
            return Err(OnRestoreError::Long);
        }
        if let Some(name) = text.strip_prefix("signal:") {
            let unheard = || OnRestoreError::Signal(name.chars().take(32).collect());
            return signal(name.trim()).map(Self::Signal).ok_or_else(unheard);
        }
        let command = text.strip_prefix("exec:").ok_or(OnRestoreError::Form)?;
        if command.chars().any(char::is_control) {
            return Err(OnRestoreError::Control);
        }
        let words: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
        match words.len() {
            0 => Err(OnRestoreError::Empty),
            1..=MAX_WORDS => Ok(Self::Exec(words)),
            _ => Err(OnRestoreError::Long),
        }
    }
}

/// By name, with or without `SIG`, or by number.
fn signal(name: &str) -> Option<u32> {
    let number = match name.parse() {
        Ok(number) => number,
        Err(_no_number) => {
            let short = name.strip_prefix("SIG").unwrap_or(name);
            let index = SIGNALS.iter().position(|known| *known == short)?;
            u32::try_from(index + 1).ok()?
        }
    };
    let heard = |number| named(number).is_none_or(|name| !UNHEARD.contains(&name));
    ((1..=MAX_SIGNAL).contains(&number) && heard(number)).then_some(number)
}

fn named(number: u32) -> Option<&'static str> {
    let index = usize::try_from(number).ok()?.checked_sub(1)?;
    SIGNALS.get(index).copied()
}

impl fmt::Display for OnRestore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signal(number) => match named(*number) {
                Some(name) => write!(f, "signal:SIG{name}"),
                None => write!(f, "signal:{number}"),
            },
            Self::Exec(words) => write!(f, "exec:{}", words.join(" ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_by_name_and_number() {
        for (text, number) in [
            ("signal:SIGHUP", 1),
            ("signal:HUP", 1),
            ("signal:USR2", 12),
            ("signal:15", 15),
            ("signal:64", 64),
        ] {
            assert_eq!(text.parse(), Ok(OnRestore::Signal(number)), "{text}");
        }
        for text in [
            "signal:",
            "signal:KILL",
            "signal:9",
            "signal:SIGSTOP",
            "signal:0",
            "signal:65",
            "signal:hup",
        ] {
            let refused = text.parse::<OnRestore>();
            assert!(matches!(refused, Err(OnRestoreError::Signal(_))), "{text}");
        }
        assert_eq!(OnRestore::Signal(10).to_string(), "signal:SIGUSR1");
        assert_eq!(OnRestore::Signal(40).to_string(), "signal:40");
    }

    #[test]
    fn commands_without_a_shell() {
        let command: OnRestore = "exec:/bin/reload  --now 'a b'".parse().unwrap();
        let words = ["/bin/reload", "--now", "'a", "b'"].map(str::to_owned);
        assert_eq!(command, OnRestore::Exec(words.to_vec()));
        assert_eq!(command.to_string().parse(), Ok(command));
    }

    #[test]
    fn nothing_else() {
        let many = format!("exec:{}", "a ".repeat(65));
        let long = format!("exec:{}", "a".repeat(5000));
        for (text, error) in [
            ("", OnRestoreError::Form),
            ("reload", OnRestoreError::Form),
            ("EXEC:a", OnRestoreError::Form),
            ("exec:", OnRestoreError::Empty),
            ("exec:  ", OnRestoreError::Empty),
            ("exec:a\0b", OnRestoreError::Control),
            ("exec:a\nb", OnRestoreError::Control),
            (many.as_str(), OnRestoreError::Long),
            (long.as_str(), OnRestoreError::Long),
        ] {
            assert_eq!(text.parse::<OnRestore>(), Err(error), "{text:.20}");
        }
    }
}
