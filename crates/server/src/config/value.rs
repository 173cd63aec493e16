//! Values: as they are written in a file, in the environment or on the command line, and as they are checked.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

/// A value as it was written.
#[derive(Debug, Clone, PartialEq)]
pub enum Raw {
    /// From the environment or the command line: any kind, as a text.
    Loose(String),
    /// A text in a file.
    Text(String),
    /// `true` or `false` in a file.
    Flag(bool),
    /// A whole number in a file.
    Number(i64),
    /// A list in a file.
    List(Vec<String>),
    /// Anything else that TOML has.
    Other(&'static str),
}

/// A checked value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A text, or a path.
    Text(String),
    /// A truth value.
    Flag(bool),
    /// A whole number.
    Number(u64),
    /// A time span.
    Span(Duration),
    /// Texts.
    List(Vec<String>),
}

/// What a key's value must be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// Any text.
    Text,
    /// Any text, or none.
    Note,
    /// A text that may hold a password between `:` and `@`.
    SecretUrl,
    /// A text that nobody may see.
    Secret,
    /// A path. In a file, a relative one starts at the file's directory.
    Path,
    /// `true` or `false`.
    Flag,
    /// A whole number between these two.
    Number(u64, u64),
    /// A time span of at least so many seconds: `30s`, `5m`, `12h`, `30d`.
    Span(u64),
    /// Socket addresses.
    Addresses,
    /// Texts.
    List,
    /// One of these words.
    Choice(&'static [&'static str]),
}

impl Kind {
    /// Whether a value is shown as stars, wholly or in part.
    pub fn is_secret(self) -> bool {
        matches!(self, Self::Secret | Self::SecretUrl)
    }

    /// Checks a value, or says what it would have to be.
    pub fn check(self, raw: &Raw) -> Result<Value, String> {
        match self {
            Self::Note => match raw {
                Raw::Loose(t) | Raw::Text(t) => Ok(Value::Text(t.clone())),
                _ => Err("it must be a text in quotes".into()),
            },
            Self::Text | Self::Secret | Self::SecretUrl | Self::Path => text(raw).map(|t| Value::Text(t.to_owned())),
            Self::Flag => flag(raw).map(Value::Flag).ok_or_else(|| "it must be true or false".into()),
            Self::Number(least, most) => match number(raw) {
                Some(n) if (least..=most).contains(&n) => Ok(Value::Number(n)),
                _ => Err(format!("it must be a whole number from {least} to {most}")),
            },
            Self::Span(least) => match text(raw).ok().and_then(parse_span) {
                Some(span) if span >= Duration::from_secs(least) => Ok(Value::Span(span)),
                Some(_) => Err(format!("it must be at least {least}s")),
                None => Err("it must be a time span such as \"30s\", \"5m\", \"12h\" or \"30d\"".into()),
            },
            Self::Addresses => {
                let list = list(raw)?;
                match list.iter().find(|a| a.parse::<SocketAddr>().is_err()) {
                    Some(bad) => Err(format!("'{bad}' is no address with a port, such as 127.0.0.1:8181 or [::]:8181")),
                    None if list.is_empty() => Err("at least one address is needed".into()),
                    None => Ok(Value::List(list)),
                }
            }
            Self::List => list(raw).map(Value::List),
            Self::Choice(words) => match text(raw) {
                Ok(word) if words.contains(&word) => Ok(Value::Text(word.to_owned())),
                _ => Err(format!("it must be one of {}", words.join(", "))),
            },
        }
    }
}

fn text(raw: &Raw) -> Result<&str, String> {
    match raw {
        Raw::Loose(t) | Raw::Text(t) if t.is_empty() => Err("it must not be empty".into()),
        Raw::Loose(t) | Raw::Text(t) => Ok(t),
        _ => Err("it must be a text in quotes".into()),
    }
}

fn flag(raw: &Raw) -> Option<bool> {
    match raw {
        Raw::Flag(flag) => Some(*flag),
        Raw::Loose(t) => t.parse().ok(),
        _ => None,
    }
}

fn number(raw: &Raw) -> Option<u64> {
    match raw {
        Raw::Number(n) => u64::try_from(*n).ok(),
        Raw::Loose(t) => t.parse().ok(),
        _ => None,
    }
}

fn list(raw: &Raw) -> Result<Vec<String>, String> {
    match raw {
        Raw::List(list) => Ok(list.clone()),
        Raw::Text(one) => Ok(vec![one.clone()]),
        Raw::Loose(t) => Ok(t.split(',').map(str::trim).filter(|t| !t.is_empty()).map(str::to_owned).collect()),
        _ => Err("it must be a list of texts".into()),
    }
}

/// Reads `250ms`, `30s`, `5m`, `12h`, `30d`.
pub fn parse_span(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let number: u64 = text[..digits].parse().ok()?;
    let seconds = |each: u64| number.checked_mul(each).map(Duration::from_secs);
    // Longer spans would overflow the arithmetic on instants.
    let span = match &text[digits..] {
        "ms" => Some(Duration::from_millis(number)),
        "s" => seconds(1),
        "m" => seconds(60),
        "h" => seconds(3600),
        "d" => seconds(86400),
        _ => None,
    };
    span.filter(|s| *s <= Duration::from_secs(100 * 366 * 86400))
}

/// Writes a time span as [`parse_span`] reads it, in the largest unit that fits.
pub fn show_span(span: Duration) -> String {
    let (seconds, millis) = (span.as_secs(), span.subsec_millis());
    match seconds {
        _ if millis > 0 => format!("{}ms", span.as_millis()),
        0 => "0s".into(),
        s if s % 86400 == 0 => format!("{}d", s / 86400),
        s if s % 3600 == 0 => format!("{}h", s / 3600),
        s if s % 60 == 0 => format!("{}m", s / 60),
        s => format!("{s}s"),
    }
}

impl fmt::Display for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loose(t) | Self::Text(t) => write!(f, "{t:?}"),
            Self::Flag(flag) => write!(f, "{flag}"),
            Self::Number(n) => write!(f, "{n}"),
            Self::List(list) => write!(f, "{list:?}"),
            Self::Other(what) => write!(f, "a {what}"),
        }
    }
}

impl Raw {
    /// What the library that joins the layers gives back of a value that was checked.
    pub fn of_library(kind: config::ValueKind) -> Self {
        use config::ValueKind;
        match kind {
            ValueKind::String(text) => Self::Text(text),
            ValueKind::Boolean(flag) => Self::Flag(flag),
            ValueKind::I64(n) => Self::Number(n),
            ValueKind::Array(items) => Self::List(items.into_iter().map(|item| item.to_string()).collect()),
            _ => Self::Other("value of another kind"),
        }
    }
}

impl Value {
    /// For the library that joins the layers.
    pub fn to_library(&self, origin: &str) -> config::Value {
        let origin = &origin.to_owned();
        match self {
            Self::Text(text) => config::Value::new(Some(origin), text.as_str()),
            Self::Flag(flag) => config::Value::new(Some(origin), *flag),
            Self::Number(n) => config::Value::new(Some(origin), i64::try_from(*n).unwrap_or(i64::MAX)),
            Self::Span(span) => config::Value::new(Some(origin), show_span(*span)),
            Self::List(list) => config::Value::new(Some(origin), list.clone()),
        }
    }

    /// As it would stand in a file.
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Text(t) => t.as_str().into(),
            Self::Flag(flag) => (*flag).into(),
            Self::Number(n) => (*n).into(),
            Self::Span(span) => show_span(*span).into(),
            Self::List(list) => list.clone().into(),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_json().fmt(f)
    }
}

/// A database URL without its password.
pub fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (rest, query) = rest.split_once('?').map_or((rest, None), |(r, q)| (r, Some(q)));
    let rest = match rest.rsplit_once('@') {
        Some((user, host)) => {
            let (name, password) = user.split_once(':').map_or((user, None), |(n, p)| (n, Some(p)));
            format!("{name}{}@{host}", if password.is_some() { ":***" } else { "" })
        }
        None => rest.to_owned(),
    };
    let query = query.map(|q| {
        let parts: Vec<String> = q
            .split('&')
            .map(|part| match part.split_once('=') {
                Some((key, _)) if key.to_lowercase().contains("password") => format!("{key}=***"),
                _ => part.to_owned(),
            })
            .collect();
        format!("?{}", parts.join("&"))
    });
    format!("{scheme}://{rest}{}", query.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_read_what_they_show() {
        for text in ["0s", "250ms", "30s", "90s", "5m", "12h", "30d"] {
            let span = parse_span(text).unwrap();
            assert_eq!(parse_span(&show_span(span)), Some(span), "{text}");
        }
        for bad in ["", "5", "m", "5 m", "-5m", "5w", "1.5h", "99999999999999999999s", "18446744073709551615d"] {
            assert_eq!(parse_span(bad), None, "{bad}");
        }
    }

    #[test]
    fn passwords_are_not_shown() {
        let shown = without_password("postgres://me:se:c@ret@db/portolan?sslmode=on&password=x");
        assert_eq!(shown, "postgres://me:***@db/portolan?sslmode=on&password=***");
        assert_eq!(without_password("sqlite:///var/a@b.db"), "sqlite:///var/a@b.db");
        assert_eq!(without_password("mysql://me@db/p"), "mysql://me@db/p");
    }

    #[test]
    fn kinds_take_their_own_values_only() {
        let loose = |t: &str| Raw::Loose(t.into());
        assert_eq!(Kind::Flag.check(&loose("true")), Ok(Value::Flag(true)));
        assert!(Kind::Flag.check(&loose("yes")).is_err());
        assert!(Kind::Flag.check(&Raw::Text("true".into())).is_err());
        assert_eq!(Kind::Number(1, 9).check(&Raw::Number(9)), Ok(Value::Number(9)));
        assert!(Kind::Number(1, 9).check(&Raw::Number(-1)).is_err());
        assert!(Kind::Number(1, 9).check(&Raw::Number(10)).is_err());
        let both = Value::List(vec!["127.0.0.1:1".into(), "[::1]:2".into()]);
        assert_eq!(Kind::Addresses.check(&loose("127.0.0.1:1, [::1]:2")), Ok(both));
        assert!(Kind::Addresses.check(&loose("localhost")).is_err());
        assert!(Kind::Addresses.check(&Raw::List(vec![])).is_err());
        assert!(Kind::Span(1).check(&Raw::Number(5)).is_err());
        assert!(Kind::Choice(&["a"]).check(&loose("b")).is_err());
    }
}
