//! The log level of a process can be changed. A test binary of its own: logging is set up once a process.

use mvp::logging::LogFormat;
use mvp::logging::{init, set_level};

#[test]
fn the_level_follows_the_operator() {
    assert!(set_level("debug").is_err(), "nothing is set up yet");
    assert!(init(LogFormat::Json, Some("loud")).is_err());
    init(LogFormat::Json, Some("warn")).unwrap();
    assert!(!tracing::enabled!(tracing::Level::INFO));
    set_level("debug,access=off").unwrap();
    assert!(tracing::enabled!(tracing::Level::DEBUG));
    assert!(!tracing::enabled!(target: "access", tracing::Level::ERROR));
    assert!(set_level("loud").is_err());
    assert!(
        tracing::enabled!(tracing::Level::DEBUG),
        "a bad level changes nothing"
    );
    set_level("error").unwrap();
    assert!(!tracing::enabled!(tracing::Level::WARN));
}
