//! Prints answers in the form that the user asked for.

use std::io::Write;

use serde::Serialize;

use super::client::ClientError;
use super::command::Output;

/// Writes `value` as data, or as the text that people read. The argument of `human` says whether there is room for more
/// columns.
///
/// # Errors
/// The value has no such form.
pub(super) fn print(
    output: Output,
    value: &impl Serialize,
    human: impl FnOnce(bool) -> String,
    out: &mut dyn Write,
) -> Result<(), ClientError> {
    let text = match output {
        Output::Json => json(value)?,
        Output::Yaml => yaml(value)?,
        Output::Table => human(false),
        Output::Wide => human(true),
    };
    // The reader may have closed its end; `--watch` notices it by itself.
    let _ = out.write_all(text.as_bytes());
    Ok(())
}

/// # Errors
/// The value has no such form.
pub(super) fn json(value: &impl Serialize) -> Result<String, ClientError> {
    serde_json::to_string_pretty(value)
        .map(|text| text + "\n")
        .map_err(|error| ClientError::Unexpected(error.to_string()))
}

/// # Errors
/// The value has no such form.
pub(super) fn yaml(value: &impl Serialize) -> Result<String, ClientError> {
    let mut text = serde_saphyr::to_string(value)
        .map_err(|error| ClientError::Unexpected(error.to_string()))?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}
