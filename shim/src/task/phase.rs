//! Where in its life a process is, and what may be asked of it there.

use containerd_shim_protos::types::task::Status;
use ttrpc::Code;

use super::refusal::Refusal;

/// Where in its life a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It waits for Start.
    Created,
    /// It runs.
    Running,
    /// It is being frozen.
    Pausing,
    /// It is frozen.
    Paused,
    /// It has ended.
    Stopped,
    /// It is forgotten.
    Deleted,
}

/// What may be asked of a process, as far as it depends on the phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Start,
    Pause,
    Resume,
    Exec,
    Update,
    Checkpoint,
    Delete,
}

impl Verb {
    fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Exec => "exec",
            Self::Update => "update",
            Self::Checkpoint => "checkpoint",
            Self::Delete => "delete",
        }
    }
}

impl Phase {
    /// Refuses what the stock shim refuses, in its words.
    pub(super) fn allow(self, verb: Verb) -> Result<(), Refusal> {
        let allowed = match verb {
            Verb::Start => self == Self::Created,
            Verb::Pause => self == Self::Running,
            Verb::Resume => self == Self::Paused,
            Verb::Exec => matches!(self, Self::Created | Self::Running),
            Verb::Update => matches!(self, Self::Created | Self::Running | Self::Paused),
            Verb::Checkpoint => matches!(self, Self::Running | Self::Paused),
            Verb::Delete => matches!(self, Self::Created | Self::Stopped),
        };
        if allowed {
            return Ok(());
        }
        let code = match (self, verb) {
            (Self::Deleted, Verb::Delete) => Code::NOT_FOUND,
            (_, Verb::Exec) => Code::FAILED_PRECONDITION,
            _ => Code::UNKNOWN,
        };
        Err(Refusal::new(code, self.words(verb)))
    }

    fn words(self, verb: Verb) -> String {
        let name = verb.name();
        let (article, phase) = match self {
            Self::Created => ("a", "created"),
            Self::Running => ("a", "running"),
            Self::Pausing | Self::Paused => ("a", "paused"),
            Self::Stopped => ("a", "stopped"),
            Self::Deleted => ("a", "deleted"),
        };
        match verb {
            Verb::Start | Verb::Delete => format!("cannot {name} {article} {phase} process"),
            Verb::Exec => format!("cannot exec in a {phase} state"),
            Verb::Pause | Verb::Resume if self == Self::Created => {
                format!("cannot {name} task in {phase} state")
            }
            Verb::Checkpoint if self == Self::Created => format!("cannot checkpoint a task in {phase} state"),
            Verb::Resume if self == Self::Running => format!("cannot {name} {article} {phase} process"),
            _ => format!("cannot {name} {article} {phase} container"),
        }
    }

    /// The protocol's word for it.
    pub(super) fn status(self) -> Status {
        match self {
            Self::Created => Status::CREATED,
            Self::Running => Status::RUNNING,
            Self::Pausing => Status::PAUSING,
            Self::Paused => Status::PAUSED,
            Self::Stopped | Self::Deleted => Status::STOPPED,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stock_shims_words() {
        let refused = |phase: Phase, verb| phase.allow(verb).unwrap_err().message;
        assert_eq!(
            refused(Phase::Created, Verb::Pause),
            "cannot pause task in created state"
        );
        assert_eq!(
            refused(Phase::Created, Verb::Checkpoint),
            "cannot checkpoint a task in created state"
        );
        assert_eq!(
            refused(Phase::Running, Verb::Delete),
            "cannot delete a running process"
        );
        assert_eq!(
            refused(Phase::Running, Verb::Resume),
            "cannot resume a running process"
        );
        assert_eq!(
            refused(Phase::Paused, Verb::Exec),
            "cannot exec in a paused state"
        );
        assert_eq!(
            refused(Phase::Stopped, Verb::Start),
            "cannot start a stopped process"
        );
        assert_eq!(
            refused(Phase::Stopped, Verb::Pause),
            "cannot pause a stopped container"
        );
        assert_eq!(
            refused(Phase::Stopped, Verb::Update),
            "cannot update a stopped container"
        );
    }

    #[test]
    fn what_is_allowed_where() {
        use Phase::{Created, Deleted, Paused, Pausing, Running, Stopped};
        let allowed = |verb| {
            [Created, Running, Pausing, Paused, Stopped, Deleted]
                .into_iter()
                .filter(|phase| phase.allow(verb).is_ok())
                .collect::<Vec<_>>()
        };
        assert_eq!(allowed(Verb::Start), [Created]);
        assert_eq!(allowed(Verb::Exec), [Created, Running]);
        assert_eq!(allowed(Verb::Pause), [Running]);
        assert_eq!(allowed(Verb::Resume), [Paused]);
        assert_eq!(allowed(Verb::Update), [Created, Running, Paused]);
        assert_eq!(allowed(Verb::Checkpoint), [Running, Paused]);
        assert_eq!(allowed(Verb::Delete), [Created, Stopped]);
    }

    #[test]
    fn deleting_twice_is_not_found() {
        assert_eq!(
            Phase::Deleted.allow(Verb::Delete).unwrap_err().code,
            Code::NOT_FOUND
        );
    }
}
