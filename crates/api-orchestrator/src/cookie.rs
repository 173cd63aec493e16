//! The session cookie: on every handled answer, opaque, signed (section 3.3).

use axum::http::{HeaderMap, HeaderValue, header};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use portolan_http::auth::cookies;
use portolan_model::{Secret, Timestamp};
use ring::hmac;
use std::net::IpAddr;

/// The cookie's name.
pub(crate) const NAME: &str = "session";

/// How many bytes say which client it is.
const CLIENT: usize = 16;
/// No cookie that was handed out is longer than this many bytes.
const LONGEST: usize = 512;

/// Makes and reads cookies.
#[derive(Clone)]
pub(crate) struct Cookies {
    key: hmac::Key,
    secure: bool,
}

impl Cookies {
    pub(crate) fn new(key: &[u8; 32], secure: bool) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, key), secure }
    }

    /// The `Set-Cookie` for a client: the same for the same address and program up to its time, and with the token of
    /// the session where there is one.
    pub(crate) fn issue(
        &self,
        client: (Option<IpAddr>, &HeaderMap),
        token: Option<&Secret>,
        now: Timestamp,
    ) -> Option<HeaderValue> {
        let mut payload = self.client(client.0, client.1).to_vec();
        payload.extend_from_slice(token.map(Secret::reveal).unwrap_or_default().as_bytes());
        let seconds = now.as_millis().div_euclid(1000);
        let text = format!("{}.{}", BASE64.encode(payload), BASE64.encode(seconds.to_be_bytes()));
        let seal = BASE64.encode(hmac::sign(&self.key, text.as_bytes()));
        let secure = if self.secure { "; Secure" } else { "" };
        let mut value = HeaderValue::from_str(&format!("{NAME}={text}.{seal}; HttpOnly; Path=/{secure}")).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// The tokens of sessions that a request's cookies hold, as far as we signed them.
    pub(crate) fn tokens(&self, headers: &HeaderMap) -> impl Iterator<Item = Secret> {
        cookies(headers, NAME).filter_map(|value| self.read(value))
    }

    fn read(&self, value: &str) -> Option<Secret> {
        let (text, seal) = value.rsplit_once('.').filter(|_| value.len() <= LONGEST)?;
        hmac::verify(&self.key, text.as_bytes(), &BASE64.decode(seal).ok()?).ok()?;
        let payload = BASE64.decode(text.split_once('.')?.0).ok()?;
        let token = std::str::from_utf8(payload.get(CLIENT..)?).ok()?;
        (!token.is_empty()).then(|| Secret::new(token))
    }

    /// Which client it is, by its address and its program.
    fn client(&self, address: Option<IpAddr>, headers: &HeaderMap) -> [u8; CLIENT] {
        let mut hash = hmac::Context::with_key(&self.key);
        hash.update(b"client\0");
        hash.update(address.map(|ip| ip.to_string()).unwrap_or_default().as_bytes());
        hash.update(b"\0");
        hash.update(headers.get(header::USER_AGENT).map_or(&[][..], HeaderValue::as_bytes));
        let mut client = [0; CLIENT];
        client.iter_mut().zip(hash.sign().as_ref()).for_each(|(to, from)| *to = *from);
        client
    }
}

impl std::fmt::Debug for Cookies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cookies(***)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_795_219_200_000);

    fn value(cookie: &HeaderValue) -> String {
        cookie.to_str().unwrap().strip_prefix("session=").unwrap().split(';').next().unwrap().to_owned()
    }

    fn sent(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::COOKIE, HeaderValue::from_str(&format!("a=b; {NAME}={value}")).unwrap())])
    }

    #[test]
    fn the_same_client_gets_the_same_cookie() {
        let cookies = Cookies::new(&[7; 32], false);
        let agent = |name: &'static str| HeaderMap::from_iter([(header::USER_AGENT, HeaderValue::from_static(name))]);
        let ip = Some("10.0.0.1".parse().unwrap());
        let issue = |ip, agent: &HeaderMap, now| cookies.issue((ip, agent), None, now).unwrap();
        let first = issue(ip, &agent("HTTPie"), NOW);
        assert_eq!(first, issue(ip, &agent("HTTPie"), NOW));
        assert!(first.to_str().unwrap().ends_with("; HttpOnly; Path=/") && first.is_sensitive());
        let others = [
            issue(None, &agent("HTTPie"), NOW),
            issue(ip, &agent("curl"), NOW),
            issue(ip, &agent("HTTPie"), NOW + std::time::Duration::from_secs(1)),
            Cookies::new(&[8; 32], false).issue((ip, &agent("HTTPie")), None, NOW).unwrap(),
        ];
        assert!(others.iter().all(|other| *other != first));
        assert_eq!(cookies.tokens(&sent(&value(&first))).count(), 0, "it holds no login");
        let secure = Cookies::new(&[7; 32], true).issue((ip, &HeaderMap::new()), None, NOW).unwrap();
        assert!(secure.to_str().unwrap().ends_with("; HttpOnly; Path=/; Secure"));
    }

    #[test]
    fn only_what_we_signed_counts() {
        let cookies = Cookies::new(&[7; 32], false);
        let token = Secret::new("token-of-a-session");
        let good = value(&cookies.issue((None, &HeaderMap::new()), Some(&token), NOW).unwrap());
        assert!(cookies.tokens(&sent(&good)).next().unwrap().matches("token-of-a-session"));
        assert_eq!(Cookies::new(&[8; 32], false).tokens(&sent(&good)).count(), 0);
        for at in 0..good.len() {
            let mut bad = good.clone().into_bytes();
            bad[at] = if bad[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(cookies.tokens(&sent(std::str::from_utf8(&bad).unwrap())).count(), 0, "{at}");
        }
        for bad in ["", ".", "..", "...", "x", "é", &"A".repeat(10_000), &good[..good.len() - 1]] {
            let headers = HeaderMap::from_iter([(
                header::COOKIE,
                HeaderValue::from_bytes(format!("{NAME}={bad}").as_bytes()).unwrap(),
            )]);
            assert_eq!(cookies.tokens(&headers).count(), 0, "{bad}");
        }
        let both = HeaderMap::from_iter([(
            header::COOKIE,
            HeaderValue::from_str(&format!("{NAME}=of-another-server; {NAME}={good}")).unwrap(),
        )]);
        assert_eq!(cookies.tokens(&both).count(), 1, "the live one of several counts");
    }
}
