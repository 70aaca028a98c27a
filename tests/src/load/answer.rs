//! What an answer means to a client of a control plane.

use http::StatusCode;

/// One answer, or its absence.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Answer {
    /// 1xx to 3xx.
    Ok,
    /// A 404 that says that the server has no such resource type, in either of kube-apiserver's two shapes.
    NoSuchType,
    /// Any other 404: the type is there, the object is not.
    NotFound,
    /// Any other 4xx.
    ClientError,
    /// 5xx.
    ServerError,
    /// No answer: refused, reset, timed out, ended half-way.
    Transport,
}

/// How many answers of each kind.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Answers {
    /// Answers of 100 to 399.
    pub ok: u64,
    /// 404s that deny the type.
    pub no_such_type: u64,
    /// 404s that deny the object.
    pub not_found: u64,
    /// Other answers of 400 to 499.
    pub client_error: u64,
    /// Answers of 500 and above.
    pub server_error: u64,
    /// Requests without an answer.
    pub transport: u64,
}

impl Answer {
    /// `body` matters only for a 404. The shapes are those of a kube-apiserver: "404 page not found" as text where group or
    /// version is unknown; a `Status` without a name in its details where only the resource is.
    pub fn classify(status: StatusCode, body: &[u8]) -> Self {
        match status.as_u16() {
            100..=399 => Self::Ok,
            404 if no_such_type(body) => Self::NoSuchType,
            404 => Self::NotFound,
            400..=499 => Self::ClientError,
            _ => Self::ServerError,
        }
    }
}

impl Answers {
    /// Counts one answer.
    pub fn count(&mut self, answer: Answer) {
        *match answer {
            Answer::Ok => &mut self.ok,
            Answer::NoSuchType => &mut self.no_such_type,
            Answer::NotFound => &mut self.not_found,
            Answer::ClientError => &mut self.client_error,
            Answer::ServerError => &mut self.server_error,
            Answer::Transport => &mut self.transport,
        } += 1;
    }

    /// All requests.
    pub fn total(&self) -> u64 {
        self.ok + self.not_ok()
    }

    /// All but the good ones.
    pub fn not_ok(&self) -> u64 {
        self.no_such_type + self.not_found + self.client_error + self.server_error + self.transport
    }
}

fn no_such_type(body: &[u8]) -> bool {
    if body.trim_ascii_end() == b"404 page not found" {
        return true;
    }
    serde_json::from_slice::<serde_json::Value>(body).is_ok_and(|status| {
        status["kind"] == "Status"
            && status["details"]["name"].is_null()
            && status["message"] == "the server could not find the requested resource"
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_shapes_of_an_unknown_type_differ_from_a_missing_object() {
        let text = b"404 page not found\n";
        let status = br#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure",
            "message":"the server could not find the requested resource","reason":"NotFound","details":{},"code":404}"#;
        let object = br#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure",
            "message":"configmaps \"c1\" not found","reason":"NotFound","details":{"name":"c1","kind":"configmaps"},"code":404}"#;
        assert_eq!(
            Answer::classify(StatusCode::NOT_FOUND, text),
            Answer::NoSuchType
        );
        assert_eq!(
            Answer::classify(StatusCode::NOT_FOUND, status),
            Answer::NoSuchType
        );
        assert_eq!(
            Answer::classify(StatusCode::NOT_FOUND, object),
            Answer::NotFound
        );
        assert_eq!(
            Answer::classify(StatusCode::NOT_FOUND, b""),
            Answer::NotFound
        );
    }

    #[test]
    fn every_status_has_one_kind() {
        let kind = |code| Answer::classify(StatusCode::from_u16(code).unwrap(), b"");
        assert_eq!(kind(200), Answer::Ok);
        assert_eq!(kind(304), Answer::Ok);
        assert_eq!(kind(403), Answer::ClientError);
        assert_eq!(kind(410), Answer::ClientError);
        assert_eq!(kind(503), Answer::ServerError);
    }

    #[test]
    fn counts_add_up() {
        let mut answers = Answers::default();
        for answer in [
            Answer::Ok,
            Answer::Ok,
            Answer::Transport,
            Answer::NoSuchType,
        ] {
            answers.count(answer);
        }
        assert_eq!((answers.ok, answers.not_ok(), answers.total()), (2, 2, 4));
    }
}
