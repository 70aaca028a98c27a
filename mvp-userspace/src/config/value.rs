//! Text to values: durations, URLs, names. Pure.

use std::net::IpAddr;
use std::time::Duration;

use super::{Endpoint, Network};

/// `250ms`, `10s`, `1m`, `2h`, `1m30s`: Go's form without fractions and signs.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration such as 250ms, 10s or 1m");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut total: u64 = 0;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, tail) = rest.split_at(digits);
        let unit_len = tail
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_len);
        let millis: u64 = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(wrong()),
        };
        let number: u64 = number.parse().map_err(|_| wrong())?;
        total = number
            .checked_mul(millis)
            .and_then(|ms| total.checked_add(ms))
            .ok_or_else(wrong)?;
        rest = tail;
    }
    Ok(Duration::from_millis(total))
}

/// An address, or a network such as `10.0.0.0/24`. Bits behind the prefix must be zero: who writes `10.0.0.7/24` may mean one
/// address or all of them.
pub(super) fn network(text: &str) -> Result<Network, String> {
    let wrong = || format!("{text:?} is neither an address nor a network such as 10.0.0.0/24");
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text, None),
    };
    let address: IpAddr = address.trim().parse().map_err(|_| wrong())?;
    let (bits, widest) = match address {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()) << 96, 32),
        IpAddr::V6(v6) => (v6.to_bits(), 128),
    };
    let prefix = match prefix {
        Some(prefix) => prefix.trim().parse().map_err(|_| wrong())?,
        None => widest,
    };
    if prefix > widest {
        return Err(wrong());
    }
    let behind = bits.checked_shl(prefix.into()).unwrap_or(0);
    if behind != 0 {
        return Err(format!("{text:?} has bits behind its prefix"));
    }
    Ok(Network { address, prefix })
}

/// A duration as Go writes it (`time.ParseDuration`), with fractions and all units: `1m0s`, `1.5h`, `300ms`. Negative ones are
/// none.
pub(super) fn go_duration(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits);
        let unit = tail.find(|c: char| c.is_ascii_digit() || c == '.');
        let (unit, tail) = tail.split_at(unit.unwrap_or(tail.len()));
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        let number: f64 = number.parse().ok()?;
        let part = Duration::try_from_secs_f64(number * seconds).ok()?;
        total = total.checked_add(part)?;
        rest = tail;
    }
    Some(total)
}

/// An `https://host[:port]` URL; the port defaults to 443. Nothing may follow: a kube-apiserver has no path prefix.
pub(super) fn endpoint(name: &str, url: &str) -> Result<Endpoint, String> {
    let uri: http::Uri = url
        .parse()
        .map_err(|error| format!("{url:?} is no URL: {error}"))?;
    if uri.scheme_str() != Some("https") {
        return Err(format!("{url:?} must start with https://"));
    }
    let authority = uri
        .authority()
        .ok_or_else(|| format!("{url:?} has no host"))?;
    if authority.as_str().contains('@') {
        return Err(format!("{url:?} must not hold a user name"));
    }
    if uri
        .path_and_query()
        .is_some_and(|rest| rest.as_str() != "/")
        || url.contains('#')
    {
        return Err(format!("{url:?} must end after the port"));
    }
    let host = authority
        .host()
        .trim_start_matches('[')
        .trim_end_matches(']');
    if host.is_empty() {
        return Err(format!("{url:?} has no host"));
    }
    let port = match authority.as_str().rsplit_once(':') {
        // `[::1]` without a port also holds colons.
        Some((_, port)) if !port.ends_with(']') => port
            .parse::<u16>()
            .ok()
            .filter(|port| *port != 0)
            .ok_or_else(|| format!("{url:?} has no valid port"))?,
        _ => 443,
    };
    Ok(Endpoint {
        name: name.to_owned(),
        host: host.to_owned(),
        port,
    })
}

/// Server names appear in metrics, JSON and the admin port's paths.
pub(super) fn name(text: &str) -> Result<(), String> {
    let fits = !text.is_empty()
        && text.len() <= 253
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
    if fits {
        Ok(())
    } else {
        Err(format!(
            "{text:?} is no name: letters, digits, '-', '.' and '_', at most 253"
        ))
    }
}

/// Whether [`name`] accepts the text.
pub(crate) fn is_name(text: &str) -> bool {
    name(text).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks() {
        let read = |text: &str| network(text).map(|n| (n.address.to_string(), n.prefix));
        assert_eq!(read("10.0.0.7"), Ok(("10.0.0.7".into(), 32)));
        assert_eq!(read("10.0.0.0/24"), Ok(("10.0.0.0".into(), 24)));
        assert_eq!(read("0.0.0.0/0"), Ok(("0.0.0.0".into(), 0)));
        assert_eq!(read("fd00::/8"), Ok(("fd00::".into(), 8)));
        assert_eq!(read("::1"), Ok(("::1".into(), 128)));
        for wrong in [
            "",
            "10.0.0.7/24",
            "10.0.0.0/33",
            "fd00::/129",
            "cp-a",
            "10.0.0.0/",
            "/8",
            "::1/-1",
            "fd00::1/64",
        ] {
            assert!(network(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn durations() {
        for (text, ms) in [
            ("0", 0),
            ("0s", 0),
            ("250ms", 250),
            ("10s", 10_000),
            ("1m", 60_000),
            ("1m30s", 90_000),
            ("2h", 7_200_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in [
            "",
            "10",
            "s",
            "-1s",
            "1.5s",
            "1d",
            "10 s",
            "99999999999999999h",
            "5us",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_as_go_writes_them() {
        for (text, ms) in [
            ("0", 0),
            ("1m0s", 60_000),
            ("180s", 180_000),
            ("1.5h", 5_400_000),
            ("1h30m.5s", 5_400_500),
            ("+300ms", 300),
            ("2000000ns", 2),
            ("2000µs", 2),
        ] {
            assert_eq!(go_duration(text), Some(Duration::from_millis(ms)), "{text}");
        }
        for text in [
            "", "+", "10", "-1s", "s", ".s", "1d", "1 s", "1..5s", "1e400s", "1s1",
        ] {
            assert_eq!(go_duration(text), None, "{text}");
        }
    }

    #[test]
    fn endpoints() {
        for (url, host, port) in [
            ("https://127.0.0.2:6443", "127.0.0.2", 6443),
            ("https://127.0.0.2:6443/", "127.0.0.2", 6443),
            ("https://cp-a.example", "cp-a.example", 443),
            ("https://[fd00::1]:6443", "fd00::1", 6443),
            ("https://[fd00::1]", "fd00::1", 443),
        ] {
            let found = endpoint("a", url).unwrap();
            assert_eq!((found.host.as_str(), found.port), (host, port), "{url}");
        }
        for url in [
            "",
            "cp-a",
            "cp-a:6443",
            "http://cp-a",
            "https://",
            "https://cp-a/api",
            "https://cp-a?x=1",
            "https://u@cp-a",
            "https://cp-a:0",
            "https://cp-a:70000",
            "https://cp-a:x",
            "https://cp-a#x",
        ] {
            assert!(endpoint("a", url).is_err(), "{url}");
        }
    }

    #[test]
    fn names() {
        assert!(name("cp-a.example_1").is_ok());
        for text in ["", "a/b", "a b", "ü", &"x".repeat(254)] {
            assert!(name(text).is_err(), "{text}");
        }
    }
}
