//! Where a request's body ends (RFC 9112 §6 and §7.1).

/// What is left of a body.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Body {
    /// So many bytes.
    Sized(u64),
    Chunked(Chunked),
}

/// How far a chunked body has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Chunked {
    at: At,
    /// The bytes that are left of the chunk under way.
    size: u64,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum At {
    /// In a size, after so many digits.
    Size(u8),
    Extension,
    /// Behind the CR of a line of this kind; its LF must follow.
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// In the trailers, at the beginning of a line or behind it.
    TrailerStart,
    Trailer,
    TrailerLf,
    EndLf,
    End,
}

/// Neither this nor what follows can be told from a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Broken;

impl Body {
    pub(super) const NONE: Self = Self::Sized(0);

    pub(super) fn chunked() -> Self {
        Self::Chunked(Chunked {
            at: At::Size(0),
            size: 0,
        })
    }

    pub(super) fn has_ended(&self) -> bool {
        match self {
            Self::Sized(left) => *left == 0,
            Self::Chunked(chunked) => chunked.at == At::End,
        }
    }

    /// How many of the bytes belong to the body.
    ///
    /// # Errors
    /// The body breaks the rules. So does whatever the HTTP library lets pass beyond them: it takes no bare LF, for instance,
    /// and this takes none either.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<usize, Broken> {
        match self {
            Self::Sized(left) => {
                let taken = (*left).min(bytes.len() as u64);
                *left -= taken;
                Ok(taken as usize)
            }
            Self::Chunked(chunked) => chunked.take(bytes),
        }
    }
}

impl Chunked {
    fn take(&mut self, bytes: &[u8]) -> Result<usize, Broken> {
        let mut at = 0;
        while let Some(byte) = bytes.get(at)
            && self.at != At::End
        {
            if self.at == At::Data {
                let now = self.size.min((bytes.len() - at) as u64);
                self.size -= now;
                at += now as usize;
                if self.size == 0 {
                    self.at = At::DataCr;
                }
                continue;
            }
            self.at = self.next(*byte)?;
            at += 1;
        }
        Ok(at)
    }

    fn next(&mut self, byte: u8) -> Result<At, Broken> {
        Ok(match (self.at, byte) {
            (At::Size(digits), byte) if byte.is_ascii_hexdigit() => {
                let digit = u64::from((byte as char).to_digit(16).unwrap_or_default());
                let size = self.size.checked_mul(16).ok_or(Broken)?;
                self.size = size.checked_add(digit).ok_or(Broken)?;
                At::Size(digits.saturating_add(1))
            }
            (At::Size(0), _) => return Err(Broken),
            (At::Size(_), b';' | b' ' | b'\t') => At::Extension,
            (At::Size(_) | At::Extension, b'\r') => At::SizeLf,
            (At::Size(_), _) | (At::Extension, b'\n') => return Err(Broken),
            (At::Extension, _) => At::Extension,
            (At::SizeLf, b'\n') if self.size > 0 => At::Data,
            (At::SizeLf, b'\n') => At::TrailerStart,
            (At::DataCr, b'\r') => At::DataLf,
            (At::DataLf, b'\n') => At::Size(0),
            (At::TrailerStart, b'\r') => At::EndLf,
            (At::TrailerStart | At::Trailer, b'\n') => return Err(Broken),
            (At::Trailer, b'\r') => At::TrailerLf,
            (At::TrailerStart | At::Trailer, _) => At::Trailer,
            (At::TrailerLf, b'\n') => At::TrailerStart,
            (At::EndLf, b'\n') => At::End,
            (At::SizeLf | At::DataCr | At::DataLf | At::TrailerLf | At::EndLf, _) => {
                return Err(Broken);
            }
            (At::Data | At::End, _) => self.at,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through(mut body: Body, bytes: &[u8], step: usize) -> Result<(usize, bool), Broken> {
        let mut taken = 0;
        for chunk in bytes.chunks(step) {
            let now = body.take(chunk)?;
            taken += now;
            if now < chunk.len() {
                break;
            }
        }
        Ok((taken, body.has_ended()))
    }

    #[test]
    fn a_body_ends_where_it_says() {
        for (body, bytes, taken) in [
            (Body::NONE, "GET", 0),
            (Body::Sized(3), "abcGET", 3),
            (Body::chunked(), "0\r\n\r\nGET", 5),
            (Body::chunked(), "3;a=\"b\"\r\nabc\r\n0\r\n\r\nGET", 19),
            (
                Body::chunked(),
                "0B \r\n0\r\n\r\nGET/\r\n\r\n0\r\n\r\nGET",
                23,
            ),
            (Body::chunked(), "0\r\nA: b\r\nC: d\r\n\r\nGET", 17),
        ] {
            for step in [1, 2, 7, bytes.len()] {
                let through = through(body, bytes.as_bytes(), step);
                assert_eq!(through, Ok((taken, true)), "{bytes:?} by {step}");
            }
        }
        assert_eq!(through(Body::Sized(9), b"abc", 3), Ok((3, false)));
    }

    #[test]
    fn what_breaks_the_rules_is_not_followed() {
        for bytes in [
            "\r\n",
            "x\r\n",
            "-1\r\n",
            "1\nx\r\n",
            "1;a\nx\r\n",
            "1\r\nxy\r\n",
            "1\r\nx\n0\r\n\r\n",
            "0\r\n\n",
            "0\r\nA: b\n\r\n",
            "11111111111111111\r\n",
        ] {
            assert_eq!(
                through(Body::chunked(), bytes.as_bytes(), 1),
                Err(Broken),
                "{bytes:?}"
            );
        }
    }
}
