//! Why a configuration is refused.

/// Always the operator's fault, always one line: the key (with the flag that set it, if one did), then what is wrong.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct ConfigError {
    /// A key of the file (`upstream.clientKeyFile`), a flag, or the file's own path.
    pub key: String,
    /// What is wrong and what would be right, in one line without a full stop.
    pub problem: String,
}

impl ConfigError {
    /// Joins the lines of `problem` by `; `, so that the message stays on one line.
    pub fn new(key: impl Into<String>, problem: impl AsRef<str>) -> Self {
        Self {
            key: key.into(),
            // A parser's or the system's message may hold line breaks.
            problem: problem
                .as_ref()
                .split(['\n', '\r'])
                .map(str::trim)
                .filter(|part| !part.is_empty())
                .collect::<Vec<_>>()
                .join("; "),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn always_one_line() {
        let error = ConfigError::new("node", "bad\r\n  very bad\n\n");
        assert_eq!(error.to_string(), "node: bad; very bad");
    }
}
